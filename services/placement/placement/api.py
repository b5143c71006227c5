"""Inbound: PlacementService over gRPC. Translates and checks form; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from chassis import telemetry
from chassis.errors import InvalidArgument, Unavailable
from chassis.ids import NodeId, RoomName, RoomSid
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from placement.clients import to_message
from placement.core.leases import Lease
from placement.runner import Rooms

log = structlog.get_logger(__name__)

MAX_NAME_BYTES = 256
"""Room names are any UTF-8 text up to this length (LiveKit signal protocol)."""

FindAddresses = Callable[[str, str], Awaitable[list[placement_pb2.MediaAddress]]]
"""Where clients reach a pod (its name, its machine's name), best first."""


async def no_addresses(_pod_name: str, _kubernetes_node: str) -> list[placement_pb2.MediaAddress]:
    """What is known outside of Kubernetes."""
    return []


class PlacementApi(placement_pb2_grpc.PlacementServiceServicer):
    """The service as signaling and nodes call it."""

    def __init__(
        self,
        rooms: Rooms,
        nodes_known: asyncio.Event,
        rooms_known: asyncio.Event,
        patience_s: float,
        find_addresses: FindAddresses = no_addresses,
    ) -> None:
        self._rooms = rooms
        self._nodes_known = nodes_known
        self._rooms_known = rooms_known
        self._patience_s = patience_s
        self._find_addresses = find_addresses

    async def AssignRoom(
        self, request: placement_pb2.AssignRoomRequest, context: Any
    ) -> placement_pb2.AssignRoomResponse:
        """The room's home, or a new one."""
        name = _checked(request.room_name)
        await self._know(self._nodes_known, "the nodes")
        assignment = await self._rooms.assign(
            name,
            create=request.create,
            region=request.region,
            doubted_epoch=request.doubted_epoch,
            preferred_node_id=request.preferred_node_id,
        )
        lease = assignment.lease
        telemetry.annotate(room=name, node=lease.node_id, epoch=lease.epoch)
        log.info(
            "room has its home",
            room=name,
            node=lease.node_id,
            epoch=lease.epoch,
            created=assignment.created,
        )
        return placement_pb2.AssignRoomResponse(lease=to_message(lease), created=assignment.created)

    async def FindRoom(
        self, request: placement_pb2.FindRoomRequest, context: Any
    ) -> placement_pb2.FindRoomResponse:
        """The room's home."""
        lease = await self._rooms.find(_checked(request.room_name))
        return placement_pb2.FindRoomResponse(lease=to_message(lease))

    async def ListRooms(
        self, request: placement_pb2.ListRoomsRequest, context: Any
    ) -> placement_pb2.ListRoomsResponse:
        """Every room with a home, or those named."""
        await self._know(self._nodes_known, "the nodes")
        await self._know(self._rooms_known, "the rooms")
        leases = await self._rooms.list_rooms([RoomName(name) for name in request.room_names])
        return placement_pb2.ListRoomsResponse(leases=[to_message(lease) for lease in leases])

    async def ReleaseRoom(
        self, request: placement_pb2.ReleaseRoomRequest, context: Any
    ) -> placement_pb2.ReleaseRoomResponse:
        """The holder's lease ends."""
        name = _checked(request.room_name)
        await self._rooms.release(name, NodeId(request.node_id), request.epoch)
        return placement_pb2.ReleaseRoomResponse()

    async def ReclaimRooms(
        self, request: placement_pb2.ReclaimRoomsRequest, context: Any
    ) -> placement_pb2.ReclaimRoomsResponse:
        """A node's rooms, after it or the store was away."""
        superseded = await self._rooms.reclaim(_claimed(request))
        return placement_pb2.ReclaimRoomsResponse(
            superseded=[to_message(lease) for lease in superseded]
        )

    async def FindAddresses(
        self, request: placement_pb2.FindAddressesRequest, context: Any
    ) -> placement_pb2.FindAddressesResponse:
        """Where clients reach a pod, as far as the cluster knows."""
        found = await self._find_addresses(request.pod_name, request.kubernetes_node)
        return placement_pb2.FindAddressesResponse(addresses=found)

    async def _know(self, known: asyncio.Event, what: str) -> None:
        if known.is_set():
            return
        try:
            async with asyncio.timeout(self._patience_s):
                await known.wait()
        except TimeoutError:
            raise Unavailable(f"placement does not know {what} yet: is NATS reachable?") from None


def _claimed(request: placement_pb2.ReclaimRoomsRequest) -> list[Lease]:
    """The request's leases, all of the node that asks; `InvalidArgument` when they cannot be."""
    if not request.node_id or not request.node_address:
        raise InvalidArgument(
            "the node does not say who it is: node_id and node_address are needed"
        )
    return [
        Lease(
            _checked(lease.room_name),
            _checked_sid(lease.room_sid),
            NodeId(request.node_id),
            request.node_address,
            _checked_epoch(lease.epoch),
        )
        for lease in request.leases
    ]


def _checked_sid(sid: str) -> RoomSid:
    if not sid:
        raise InvalidArgument("a claimed lease is without its room's sid")
    return RoomSid(sid)


def _checked_epoch(epoch: int) -> int:
    if not epoch:
        raise InvalidArgument("a claimed lease is without its epoch")
    return epoch


def _checked(name: str) -> RoomName:
    if not name:
        raise InvalidArgument("the room's name is empty")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidArgument(f"the room's name is longer than {MAX_NAME_BYTES} bytes")
    return RoomName(name)

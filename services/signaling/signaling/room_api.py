"""Inbound: RoomService over Twirp. Authenticates, checks the grant in one table, and passes the call to its owner."""

import asyncio
from dataclasses import dataclass

from google.protobuf.message import Message
from livekit.protocol import room

from chassis.errors import NotFound, ServiceError, Unimplemented
from chassis.twirp import TwirpContext
from contracts.node.v1 import node_pb2
from contracts.placement.v1 import placement_pb2
from signaling.claims import claims_of
from signaling.clients import NodeClients, PlacementClient
from signaling.core.grants import METHODS, Method, Owner, check


@dataclass(frozen=True, slots=True)
class RoomApi:
    """Calls on rooms, wherever they live."""

    placement: PlacementClient
    nodes: NodeClients

    async def call(
        self, context: TwirpContext, service: str, name: str, request: Message
    ) -> Message:
        """Perform one call; raise `ServiceError` with the code server SDKs expect."""
        method = METHODS[service][name]
        grants = context.grants
        check(method, grants, request)
        assert grants is not None  # check refuses a call without grants
        claims = claims_of(grants).SerializeToString()
        match method.owner:
            case Owner.NOBODY:
                raise Unimplemented(f"{name} is not offered by this server")
            case Owner.ALL_ROOMS:
                return await self._list_rooms(service, name, request, claims)
            case Owner.CREATES_ROOM:
                assigned = await self.placement.assign(method.room_of(request), create=True)
                return await self._on_node(
                    method, service, name, request, claims, assigned.lease, created=assigned.created
                )
            case Owner.ROOM:
                try:
                    lease = await self.placement.find(method.room_of(request))
                except NotFound:
                    if name == "ListParticipants":
                        return room.ListParticipantsResponse()
                    raise
                return await self._on_node(method, service, name, request, claims, lease)

    async def _on_node(
        self,
        method: Method,
        service: str,
        name: str,
        request: Message,
        claims: bytes,
        lease: placement_pb2.Lease,
        *,
        created: bool = False,
    ) -> Message:
        call = node_pb2.CallApiRequest(
            service=service,
            method=name,
            request=request.SerializeToString(),
            claims=claims,
            room_name=lease.room_name,
            room_sid=lease.room_sid,
            epoch=lease.epoch,
            room_created=created,
        )
        return method.response.FromString(await self.nodes.at(lease.node_address).call(call))

    async def _list_rooms(
        self, service: str, name: str, request: Message, claims: bytes
    ) -> Message:
        assert isinstance(request, room.ListRoomsRequest)
        leases = await self.placement.list(list(request.names))
        method = METHODS[service][name]

        async def one(lease: placement_pb2.Lease) -> Message | None:
            try:
                return await self._on_node(method, service, name, request, claims, lease)
            except ServiceError:
                return None  # a room that ended, or whose node is going, is absent from a list

        found = room.ListRoomsResponse()
        for answer in await asyncio.gather(*(one(lease) for lease in leases)):
            if isinstance(answer, room.ListRoomsResponse):
                found.MergeFrom(answer)
        return found

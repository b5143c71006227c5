"""Inbound: RoomService over Twirp. Authenticates, checks the grant in one table, and passes the call to its owner."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from livekit.protocol import room

from chassis.errors import NotFound, ServiceError, Unavailable, Unimplemented
from chassis.projects import scoped, split
from chassis.roles import Roles
from chassis.tokens import Grants
from chassis.twirp import TwirpContext
from contracts.node.v1 import node_pb2
from contracts.placement.v1 import placement_pb2
from signaling.claims import claims_of
from signaling.clients import LeaseRefused, NodeClients, PlacementClient
from signaling.core.grants import METHODS, ROOM_SERVICE, Method, Owner, check

RETRY_DELAYS_S = (
    0.0,
    *([0.5] * 20),
)  # about as long as a lost node's leases live, and the choice of another


ROOMS_PER_CALL = 2000  # an answer has 4 MB at most
LATEST_SECONDS = 100_000_000_000

Revoke = Callable[[str, str, int], Awaitable[None]]
"""Refuses tokens of a room (scoped) and identity issued until then (Unix seconds); raises `ServiceError`."""


@dataclass(frozen=True, slots=True)
class RoomApi:
    """Calls on rooms, wherever they live."""

    placement: PlacementClient
    nodes: NodeClients
    roles: Roles
    revoke: Revoke

    async def remove(self, room_name: str, identity: str) -> None:
        """Remove a participant on the server's own account; raise `ServiceError`, `NotFound` for nobody."""
        name = "RemoveParticipant"
        request = room.RoomParticipantIdentity(identity=identity)
        lease = await self.placement.find(room_name)
        method = METHODS[ROOM_SERVICE][name]
        await self._on_home(method, _call(ROOM_SERVICE, name, request, b""), lease)

    async def call(
        self, context: TwirpContext, service: str, name: str, request: Message
    ) -> Message:
        """Perform one call; raise `ServiceError` with the code server SDKs expect."""
        method = METHODS[service][name]
        grants = context.grants
        role_identity = check(method, grants, request, self.roles)
        assert grants is not None  # check refuses a call without grants
        claims = claims_of(grants).SerializeToString()
        room_name = scoped(grants.project, method.room_of(request))
        if isinstance(request, room.MoveParticipantRequest | room.ForwardParticipantRequest):
            request.room = room_name
            request.destination_room = scoped(grants.project, request.destination_room)
        match method.owner:
            case Owner.ELSEWHERE:
                raise Unimplemented(
                    f"{service} is not part of this server: nothing here answers {name}"
                )
            case Owner.ALL_ROOMS:
                return await self._list_rooms(service, name, request, grants)
            case Owner.CREATES_ROOM:
                node_id = request.node_id if isinstance(request, room.CreateRoomRequest) else ""
                assigned = await self.placement.assign(
                    room_name, create=True, preferred_node_id=node_id
                )
                call = _call(service, name, request, claims)
                call.room_created = assigned.created
                return await self._on_home(method, call, assigned.lease, create=True)
            case Owner.ROOM:
                try:
                    lease = await self.placement.find(room_name)
                    if (
                        isinstance(request, room.RoomParticipantIdentity)
                        and request.revoke_token_ts
                    ):
                        await self._revoke_tokens(lease, request, claims)
                    call = _call(service, name, request, claims)
                    call.role_identity = role_identity
                    call.patience_ms = method.patience_ms(request)
                    return await self._on_home(method, call, lease)
                except NotFound:
                    if name == "ListParticipants":
                        return room.ListParticipantsResponse()
                    raise

    async def _revoke_tokens(
        self, lease: placement_pb2.Lease, request: room.RoomParticipantIdentity, claims: bytes
    ) -> None:
        """Before somebody who is there is removed, so that the old token does not bring them back."""
        name = "GetParticipant"
        method = METHODS[ROOM_SERVICE][name]
        await self._on_home(method, _call(ROOM_SERVICE, name, request, claims), lease)
        await self.revoke(lease.room_name, request.identity, seconds_of(request.revoke_token_ts))

    async def _on_home(
        self,
        method: Method,
        call: node_pb2.CallApiRequest,
        lease: placement_pb2.Lease,
        *,
        create: bool = False,
    ) -> Message:
        """Call the room's home; where it surely did not do it, look for the present one, and call that."""
        delays_s = iter(RETRY_DELAYS_S)
        while True:
            try:
                return await self._on_node(method, call, lease)
            except LeaseRefused as error:
                delay_s = next(delays_s, None)
                if delay_s is None:
                    raise Unavailable(error.message) from None
                await asyncio.sleep(delay_s)
            lease = await self._look_closely(lease, create=create)
            call.room_created = False

    async def _look_closely(
        self, lease: placement_pb2.Lease, *, create: bool
    ) -> placement_pb2.Lease:
        try:
            return await self.placement.doubt(lease.room_name, lease.epoch, create=create)
        except NotFound:
            raise NotFound("requested room does not exist") from None
        except Unavailable:
            return lease  # placement cannot say now: the node may be back

    async def _on_node(
        self, method: Method, call: node_pb2.CallApiRequest, lease: placement_pb2.Lease
    ) -> Message:
        call.room_name = lease.room_name
        call.room_sid = lease.room_sid
        call.epoch = lease.epoch
        call.node_id = lease.node_id
        return method.response.FromString(await self.nodes.of(lease).call(call))

    async def _list_rooms(
        self, service: str, name: str, request: Message, grants: Grants
    ) -> Message:
        assert isinstance(request, room.ListRoomsRequest)
        claims = claims_of(grants).SerializeToString()
        names = [scoped(grants.project, bare) for bare in request.names]
        leases = [
            lease
            for lease in await self.placement.list(names)
            if split(lease.room_name)[0] == grants.project
        ]
        method = METHODS[service][name]
        found = await self._rooms_on_nodes(leases, claims)
        known = {shown.sid for shown in found.rooms}

        async def one(lease: placement_pb2.Lease) -> Message | None:
            try:
                return await self._on_node(method, _call(service, name, request, claims), lease)
            except ServiceError:
                return None  # a room that ended, or whose node is going, is absent from a list

        # Those left by a home that died, to which nobody came back yet.
        left = [lease for lease in leases if lease.room_sid not in known]
        for answer in await asyncio.gather(*(one(lease) for lease in left)):
            if isinstance(answer, room.ListRoomsResponse):
                found.MergeFrom(answer)
        return found

    async def _rooms_on_nodes(
        self, leases: list[placement_pb2.Lease], claims: bytes
    ) -> room.ListRoomsResponse:
        """The rooms as their nodes show them, by few calls to each; what a node does not know is absent."""
        by_node: dict[str, list[placement_pb2.Lease]] = {}
        for lease in leases:
            by_node.setdefault(lease.node_id, []).append(lease)
        chunks = [
            here[begin : begin + ROOMS_PER_CALL]
            for here in by_node.values()
            for begin in range(0, len(here), ROOMS_PER_CALL)
        ]

        async def ask(chunk: list[placement_pb2.Lease]) -> bytes:
            wanted = room.ListRoomsRequest(names=[lease.room_name for lease in chunk])
            call = _call(ROOM_SERVICE, "ListRooms", wanted, claims)
            call.node_id = chunk[0].node_id
            try:
                return await self.nodes.of(chunk[0]).call(call)
            except ServiceError:
                return b""  # each is asked for by itself

        found = room.ListRoomsResponse()
        for answer in await asyncio.gather(*(ask(chunk) for chunk in chunks)):
            found.MergeFromString(answer)
        return found


def seconds_of(timestamp: int) -> int:
    """Unix seconds of a time given in seconds or, as some callers have it, in milliseconds."""
    return timestamp // 1000 if timestamp > LATEST_SECONDS else timestamp


def _call(service: str, name: str, request: Message, claims: bytes) -> node_pb2.CallApiRequest:
    return node_pb2.CallApiRequest(
        service=service, method=name, request=request.SerializeToString(), claims=claims
    )

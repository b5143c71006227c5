"""Inbound: `roomwright.AccessService` over Twirp, our own: tokens that are to be good no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from chassis import subjects, tokens
from chassis.clock import Clock
from chassis.errors import InvalidArgument, KvError, NotAllowed, NotFound, TokenError, Unavailable
from chassis.keys import ApiKeys
from chassis.kv import OpenKv
from chassis.projects import scoped
from chassis.revocations import Revocations
from chassis.tokens import Grants
from chassis.twirp import Methods, TwirpContext
from contracts.access.v1 import access_pb2
from signaling.core.join import MAX_IDENTITY_BYTES, MAX_ROOM_NAME_BYTES

ACCESS_SERVICE: Final = "roomwright.AccessService"
METHODS: Final[Methods] = {
    "RevokeParticipant": (
        access_pb2.RevokeParticipantRequest,
        access_pb2.RevokeParticipantResponse,
    ),
    "RevokeToken": (access_pb2.RevokeTokenRequest, access_pb2.RevokeTokenResponse),
}


@dataclass(frozen=True, slots=True)
class AccessApi:
    """Revocations as server APIs ask for them."""

    keys: ApiKeys
    revocations: Revocations
    kv: OpenKv
    clock: Clock
    remove: Callable[[str, str], Awaitable[None]]
    heard: Callable[[], Awaitable[None]]
    """Ends sessions here whose token is revoked."""

    async def call(
        self, context: TwirpContext, _service: str, _name: str, request: Message
    ) -> Message:
        """Perform one call; raise `ServiceError`."""
        if context.grants is None:
            raise NotAllowed
        match request:
            case access_pb2.RevokeParticipantRequest():
                return await self._revoke_participant(context.grants, request)
            case access_pb2.RevokeTokenRequest():
                return await self._revoke_token(context.grants, request)
        raise NotAllowed

    async def revoke_participant(self, room: str, identity: str, not_before: int) -> None:
        """Refuse tokens of a room (scoped) and identity; raise `Unavailable` when that cannot be kept.

        Raises `InvalidArgument` for an identity that nobody can have.
        """
        if len(identity.encode()) > MAX_IDENTITY_BYTES:
            raise InvalidArgument(f"identity exceeds {MAX_IDENTITY_BYTES} bytes")
        try:
            bucket = await self.kv(subjects.REVOCATIONS)
            await self.revocations.revoke_participant(bucket, room, identity, not_before)
        except KvError as error:
            raise Unavailable("revocations cannot be stored now, try again") from error

    async def _revoke_participant(
        self, grants: Grants, request: access_pb2.RevokeParticipantRequest
    ) -> access_pb2.RevokeParticipantResponse:
        _require_admin(grants, request.room)
        if not request.room or not request.identity:
            raise InvalidArgument("room and identity are required")
        if len(request.room.encode()) > MAX_ROOM_NAME_BYTES:
            raise InvalidArgument(f"room name exceeds {MAX_ROOM_NAME_BYTES} bytes")
        if request.not_before < 0:
            raise InvalidArgument("not_before is a time in Unix seconds")
        room = scoped(grants.project, request.room)
        now = self.clock.wall_ms() // 1000
        await self.revoke_participant(room, request.identity, request.not_before or now)
        try:
            await self.remove(room, request.identity)
        except NotFound:
            return access_pb2.RevokeParticipantResponse()
        return access_pb2.RevokeParticipantResponse(was_present=True)

    async def _revoke_token(
        self, grants: Grants, request: access_pb2.RevokeTokenRequest
    ) -> access_pb2.RevokeTokenResponse:
        now = self.clock.wall_ms() / 1000
        try:
            given = tokens.verify(request.token, self.keys, now)
        except TokenError as error:
            raise InvalidArgument(f"the token needs no revocation: {error}") from None
        _require_admin(grants, given.video.room)
        if self.keys.project_of(given.api_key) != grants.project:
            raise NotAllowed
        try:
            bucket = await self.kv(subjects.REVOCATIONS)
            digest = given.origin or given.digest
            await self.revocations.revoke_token(bucket, digest, int(now), given.expires_at)
        except KvError as error:
            raise Unavailable("revocations cannot be stored now, try again") from error
        await self.heard()
        return access_pb2.RevokeTokenResponse(room=given.video.room, identity=given.identity)


def _require_admin(grants: Grants, room: str) -> None:
    if not grants.video.admits(room):
        raise NotAllowed

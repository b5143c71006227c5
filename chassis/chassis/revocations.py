"""Tokens that are refused although they are genuine: those of a removed participant, and single ones.

Kept in the bucket `revocations`, watched by every replica that verifies tokens. A refresh token carries the digest of
the token its session began with, so that revoking that one revokes what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from chassis import kv
from chassis.errors import KeyExists, WrongRevision
from chassis.kv import CaughtUp, Change, Deleted, Entry, Kv
from contracts.access.v1 import access_pb2

log = structlog.get_logger(__name__)

SCHEMA: Final = 1
ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class TokenUse:
    """What of a token decides whether it is revoked; `room` is the scoped name."""

    room: str
    identity: str
    issued_at: float
    """Unix seconds; 0: the token does not say, which counts as long ago."""
    digests: tuple[str, ...]
    """Its own, and that of the token it comes from."""


@dataclass(slots=True)
class Revocations:
    """Every revocation there is, as far as this replica knows."""

    heard: Callable[[], None] = lambda: None
    """Called when there is a new one."""
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    _not_before: dict[str, int] = field(default_factory=dict)

    def refuses(self, use: TokenUse) -> bool:
        """Is the token revoked?"""
        if any(_token_key(digest) in self._not_before for digest in use.digests):
            return True
        not_before = self._not_before.get(_participant_key(use.room, use.identity))
        return not_before is not None and use.issued_at <= not_before

    def learn(self, change: Change) -> None:
        """What the bucket says now."""
        match change:
            case Entry(key, value):
                try:
                    record = access_pb2.RevocationRecord.FromString(value)
                except DecodeError:
                    log.error("a revocation cannot be read")  # noqa: TRY400
                    return
                self._not_before[key] = record.not_before
                self.heard()
            case Deleted(key):
                self._not_before.pop(key, None)
            case CaughtUp():
                self.caught_up.set()

    async def follow(self, open_bucket: Callable[[], Awaitable[Kv]]) -> None:
        """Learn of every change until canceled."""
        async for change in (await open_bucket()).watch():
            self.learn(change)

    async def revoke_participant(
        self, bucket: Kv, room: str, identity: str, not_before: int
    ) -> None:
        """Refuse tokens for this identity and room (scoped) issued at `not_before` (Unix seconds) or earlier."""
        await self._write(bucket, _participant_key(room, identity), not_before, 0)

    async def revoke_token(self, bucket: Kv, digest: str, now: int, expires_at: int) -> None:
        """Refuse one token, and the refresh tokens that came of it."""
        await self._write(bucket, _token_key(digest), now, expires_at)

    async def _write(self, bucket: Kv, key: str, not_before: int, forget_after: int) -> None:
        """Never back in time: of two revocations of one participant the later counts."""
        for _ in range(ATTEMPTS):
            entry = await bucket.get(key)
            before = 0
            if entry is not None:
                before = access_pb2.RevocationRecord.FromString(entry.value).not_before
            record = access_pb2.RevocationRecord(
                schema=SCHEMA, not_before=max(before, not_before), forget_after=forget_after
            )
            try:
                if entry is None:
                    await bucket.create(key, record.SerializeToString())
                else:
                    await bucket.update(key, record.SerializeToString(), entry.revision)
            except (KeyExists, WrongRevision):
                continue
            # This replica need not wait until it hears of it.
            self._not_before[key] = record.not_before
            return
        raise WrongRevision(f"the revocation was written {ATTEMPTS} times by others meanwhile")


def _participant_key(room: str, identity: str) -> str:
    return kv.path("participant", room, identity)


def _token_key(digest: str) -> str:
    return kv.path("token", digest)

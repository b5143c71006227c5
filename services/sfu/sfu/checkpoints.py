"""Writes what a room's next home needs to the `checkpoints` bucket, and reads what a last one left.

One writer serves all rooms of the node. A change costs a mark; the latest value is asked for and
written later, at most once in a window for each key. Nothing here makes a room wait: while NATS is
slow or away, marks wait. Every write is a compare-and-set: who finds a record of a higher epoch has
lost the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from chassis.clock import Clock
from chassis.errors import BusError, KeyExists, KvError, Unavailable, WrongRevision
from chassis.kv import Kv, path
from chassis.subjects import CHECKPOINTS
from contracts.room.v1 import checkpoint_pb2
from sfu.core.pace import Pace
from sfu.metrics import SfuMetrics

log = structlog.get_logger(__name__)

WRITES_AT_ONCE = 16
READ_S = 2.0
RETRY_S = 0.5


class Writing(Protocol):
    """A room that writes checkpoints: `sfu.runner.RoomRunner`."""

    @property
    def room_name(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def is_superseded(self) -> bool:
        """The keys are another home's by now."""
        ...

    def checkpoint(self, participant_sid: str) -> bytes | None:
        """The record of a participant or, with "", of the room; None: it is to be gone."""
        ...

    def superseded(self, epoch: int) -> None:
        """A record of this higher epoch was found."""
        ...


@dataclass(frozen=True, slots=True)
class Saved:
    """What the bucket holds of a room."""

    room: checkpoint_pb2.RoomCheckpoint
    participants: tuple[checkpoint_pb2.ParticipantCheckpoint, ...]
    revisions: Mapping[str, int] = field(default_factory=dict)  # by participant sid; "": the room


Key = tuple[str, str]  # room name, participant sid; "": the room


@dataclass(slots=True)
class _Row:
    """A key that was written, or is to be. Revision 0: nothing is known to be there."""

    owner: Writing
    revision: int = 0
    is_doubtful: bool = False  # a write was not acknowledged: `revision` may be an older one


class Checkpoints:
    """The node's only way to the bucket."""

    def __init__(
        self, open_bucket: Callable[[], Awaitable[Kv]], clock: Clock, metrics: SfuMetrics
    ) -> None:
        self._open_bucket = open_bucket
        self._clock = clock
        self._metrics = metrics
        self._bucket: Kv | None = None
        self._rows: dict[Key, _Row] = {}
        self._pace: Pace[Key] = Pace()
        self._wake = asyncio.Event()
        self._writes: set[asyncio.Task[None]] = set()
        self._is_away = False

    @property
    def waiting(self) -> int:
        """Records whose latest value is not stored."""
        return self._pace.waiting

    # ----------------------------------------------------------------------------------- from rooms

    def touch(self, owner: Writing, participant_sid: str) -> None:
        """A record changed, or is to be gone; never waits."""
        key = (owner.room_name, participant_sid)
        row = self._rows.get(key)
        if row is None:
            self._rows[key] = _Row(owner)
        elif owner.epoch >= row.owner.epoch:
            row.owner = owner
        else:
            return
        was_idle = self._pace.next_timeout() is None
        self._pace.change(key, self._clock.now())
        if was_idle:  # else the task wakes for what was due before
            self._wake.set()

    def adopt(self, owner: Writing, saved: Saved) -> None:
        """What an earlier home left is this room's now: written anew, or taken away."""
        for sid, revision in saved.revisions.items():
            self._rows[owner.room_name, sid] = _Row(owner, revision)
            self.touch(owner, sid)

    async def read(self, room_name: str) -> Saved | None:
        """What there is of a room; `Unavailable` when it cannot be read in a moment."""
        try:
            async with asyncio.timeout(READ_S):
                bucket = await self._opened()
                entry = await bucket.get(path(room_name))
                if entry is None:
                    return None
                members = await bucket.entries(path(room_name))
            record = checkpoint_pb2.RoomCheckpoint.FromString(entry.value)
            participants = [
                checkpoint_pb2.ParticipantCheckpoint.FromString(member.value) for member in members
            ]
        except (TimeoutError, KvError, BusError) as error:
            reason = str(error) or "no answer in time"
            raise Unavailable(f"what was left of the room cannot be read now: {reason}") from error
        except DecodeError as error:
            log.warning("checkpoint cannot be decoded", room=room_name, error=str(error))
            return None
        revisions = {"": entry.revision}
        for member in members:
            revisions[_sid(room_name, member.key)] = member.revision
        return Saved(record, tuple(participants), revisions)

    # ------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Until canceled."""
        while True:
            free = WRITES_AT_ONCE - len(self._writes)
            for key in self._pace.take(self._clock.now(), free):
                writing = asyncio.create_task(self._write(key))
                self._writes.add(writing)
                writing.add_done_callback(self._written)
            self._wake.clear()
            due = self._pace.next_timeout()
            if len(self._writes) >= WRITES_AT_ONCE:
                due = None  # a write that ends makes room
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    None if due is None else max(0.0, due - self._clock.now())
                ):
                    await self._wake.wait()

    async def flush(self, grace_s: float) -> None:
        """Write what waits, but no longer than `grace_s`; `run` goes on meanwhile."""
        self._pace.hurry()
        self._wake.set()
        try:
            async with asyncio.timeout(grace_s):
                while self._pace.waiting:  # noqa: ASYNC110 - only at the process's end
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("checkpoints not written", waiting=self._pace.waiting)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        self._wake.set()

    async def _write(self, key: Key) -> None:
        row = self._rows.get(key)
        if row is None:
            self._pace.done(key, self._clock.now())
            return
        try:
            is_stored = await self._store(key, row)
        except (KvError, BusError) as error:
            is_stored, row.is_doubtful = False, True
            self._metrics.checkpoints_failed.add()
            if not self._is_away:
                log.warning("checkpoints are not stored; rooms go on", error=str(error))
            self._is_away = True
            await asyncio.sleep(RETRY_S)
        except Exception:
            self._pace.failed(key, self._clock.now())
            raise
        else:
            self._is_away = False
        now = self._clock.now()
        if is_stored:
            self._pace.done(key, now)
        else:
            self._pace.failed(key, now)

    async def _store(self, key: Key, row: _Row) -> bool:
        """One attempt; False: what is there was another than thought, try again."""
        bucket = await self._opened()
        if row.is_doubtful:
            await self._look(bucket, key, row)
        owner, value = row.owner, row.owner.checkpoint(key[1])
        if owner.is_superseded or (value is None and not row.revision):
            self._forget(key, row, owner)
            return True
        if value is not None and len(value) > CHECKPOINTS.max_value_bytes:
            log.error("checkpoint too large: not stored", room=key[0], bytes=len(value))
            self._metrics.checkpoints_failed.add()
            return True
        name = _name(key)
        try:
            if value is None:
                await bucket.delete(name, row.revision)
                row.revision = 0
                self._forget(key, row, owner)
            elif row.revision:
                row.revision = await bucket.update(name, value, row.revision)
            else:
                row.revision = await bucket.create(name, value)
        except (KeyExists, WrongRevision):
            await self._look(bucket, key, row)
            return False
        return True

    async def _look(self, bucket: Kv, key: Key, row: _Row) -> None:
        """Somebody else wrote, or a write of ours was not acknowledged."""
        entry = await bucket.get(_name(key))
        row.revision, row.is_doubtful = 0 if entry is None else entry.revision, False
        value = None if entry is None else entry.value
        if entry is None and key[1]:
            # Taken away by a later home, or the bucket lost its data: the room's own record tells.
            room = await bucket.get(path(key[0]))
            value = None if room is None else room.value
        epoch = 0 if value is None else _epoch(value)
        if epoch > row.owner.epoch:
            row.owner.superseded(epoch)

    def _forget(self, key: Key, row: _Row, owner: Writing) -> None:
        """Unless a newer room of this name has the key by now."""
        if self._rows.get(key) is row and row.owner is owner:
            del self._rows[key]

    async def _opened(self) -> Kv:
        if self._bucket is None:
            self._bucket = await self._open_bucket()
        return self._bucket


def _name(key: Key) -> str:
    return path(key[0], key[1]) if key[1] else path(key[0])


def _sid(room_name: str, name: str) -> str:
    return name[len(path(room_name, "")) :]


def _epoch(value: bytes) -> int:
    """Of either record: they begin alike. What cannot be read is nobody's."""
    try:
        return checkpoint_pb2.RoomCheckpoint.FromString(value).epoch
    except DecodeError:
        return 0

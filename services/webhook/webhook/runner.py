"""Drives the machines: reads shards of EVENTS, sends what `Delivery` says, saves how far each target has got."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import structlog
from google.protobuf.message import DecodeError
from pydantic import SecretStr

from chassis import kv, subjects
from chassis.bus import Bus, Message
from chassis.clock import Clock
from chassis.errors import BusError, KvError, KvUnavailable
from chassis.events import webhook_body
from chassis.kv import CaughtUp, Deleted, Entry, Kv
from contracts.events.v1 import events_pb2
from contracts.webhook.v1 import webhook_pb2
from webhook.clients import (
    SCHEMA,
    DeadLetters,
    Outcome,
    ProgressRecords,
    Sender,
    ShardRecords,
    owner_of,
)
from webhook.core.delivery import Answer, Delivery, Effect, GiveUp, Policy, Send
from webhook.core.shards import BEAT_S, GiveBack, Shards, Take, partitions_of
from webhook.core.signing import headers
from webhook.core.targets import Target
from webhook.metrics import WebhookMetrics

log = structlog.get_logger(__name__)
T = TypeVar("T")

WINDOW: Final = 2000
"""Facts of one shard that may wait for one target in this process; the others wait in the stream."""
READ_BATCH: Final = 256
READ_WAIT_S: Final = 5.0
SAVE_S: Final = 0.5
"""How long a delivery may be unsaved: what a crash repeats."""
CACHE_BYTES: Final = 8 * 1024 * 1024
"""Of facts that wait, per target; what is beyond is read from the stream again in its turn."""
AGAIN_S: Final = 1.0
ENDING_S: Final = 12.0

Lost = Callable[[int], None]
"""Told of a shard that turns out to be somebody else's."""


class TargetRunner:
    """One target: everything between the stream and its URL."""

    def __init__(
        self,
        target: Target,
        key: Callable[[], tuple[str, SecretStr] | None],
        policy: Policy,
        bus: Bus,
        sender: Sender,
        records: ProgressRecords,
        dead: DeadLetters,
        clock: Clock,
        metrics: WebhookMetrics,
        lost: Lost,
    ) -> None:
        self.target = target
        self.delivery = Delivery(policy)
        self._key = key
        self._bus = bus
        self._sender = sender
        self._records = records
        self._dead = dead
        self._clock = clock
        self._metrics = metrics
        self._lost = lost
        self._log = log.bind(target=target.id, url=target.shown)
        self._cache: dict[int, bytes] = {}
        self._cached_bytes = 0
        self._saved: dict[int, webhook_pb2.ProgressRecord] = {}
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        self._was_down = False

    async def run(self) -> None:
        """Deliver until canceled."""
        await asyncio.gather(self._deliver(), self._save_regularly())

    def begin(self, shard: int) -> None:
        """Deliver a shard from where its record says."""
        if shard not in self._readers:
            self._readers[shard] = asyncio.create_task(self._read(shard))

    async def end(self, shard: int, *, save: bool = True) -> None:
        """Deliver it no more; with `save` others go on from here."""
        reader = self._readers.pop(shard, None)
        if reader is None:
            return
        reader.cancel()
        await asyncio.wait({reader})
        if shard in self._saved:
            if save:
                with suppress(KvError):
                    await self._save(shard)
            for sequence in self.delivery.progress(shard).pending:
                self._forget(sequence)
            del self._saved[shard]
        self.delivery.end(shard)

    async def close(self) -> None:
        """Let requests under way end, save, and stop."""
        for reader in self._readers.values():
            reader.cancel()
        if self._requests:
            await asyncio.wait(self._requests, timeout=ENDING_S)
        for shard in list(self._readers):
            await self.end(shard)

    async def _read(self, shard: int) -> None:
        start = await self._again(partial(self._begin, shard))
        wanted = [subjects.partition_subject(partition) for partition in partitions_of(shard)]
        reader = self._bus.open_reader(subjects.EVENTS, wanted, start + 1)
        try:
            while True:
                while self.delivery.waiting_of(shard) >= WINDOW:
                    self._done.clear()
                    await self._done.wait()
                for message in await self._again(lambda: reader.read(READ_BATCH, READ_WAIT_S)):
                    self._take(shard, message)
                self._wake.set()
        finally:
            await reader.close()

    async def _begin(self, shard: int) -> int:
        """Take up a shard; the sequence up to which it was read before."""
        record = await self._records.read(self.target, shard)
        await self._bus.open_stream(subjects.EVENTS)
        ends = await self._bus.stream_ends(subjects.EVENTS)
        if record is None:
            # Saved at once: after a crash it is not a new target that begins with what happens then.
            record = webhook_pb2.ProgressRecord(schema=SCHEMA, read=ends.last)
            if not await self._records.save(self.target, shard, record):
                raise KvUnavailable("another replica began with this shard just now")
        elif record.read > ends.last:
            self._log.error("the stream has lost its facts: begins anew", read=record.read)
            record = webhook_pb2.ProgressRecord(schema=SCHEMA)
        pending = [await self._bus.stored_message(subjects.EVENTS, seq) for seq in record.pending]
        self.delivery.begin(shard, record.read)
        self._saved[shard] = record
        for message in pending:
            if message is None:
                self._metrics.unreadable.add(1)
                self._log.error("a fact that was to be delivered is no longer in the stream")
            else:
                self._take(shard, message)
        self._wake.set()
        return record.read

    def _take(self, shard: int, message: Message) -> None:
        fact = self._decoded(message)
        if fact is None or not self.target.wants(fact.name, fact.project, fact.replay_to):
            self.delivery.skipped(shard, message.sequence)
            return
        if self._cached_bytes + len(message.data) <= CACHE_BYTES:
            self._cache[message.sequence] = message.data
            self._cached_bytes += len(message.data)
        now = self._clock.now()
        # A fact told again is as old as its being told again.
        created_at = self._wall_s() if fact.replay_to else float(fact.created_at)
        self.delivery.arrived(shard, message.sequence, fact.room_name, created_at, now)

    def _decoded(self, message: Message) -> events_pb2.RoomEvent | None:
        try:
            return events_pb2.RoomEvent.FromString(message.data)
        except DecodeError:
            self._metrics.unreadable.add(1)
            self._log.error("a fact cannot be read: passed over", sequence=message.sequence)
            return None

    async def _deliver(self) -> None:
        while True:
            self._wake.clear()
            self._perform(self.delivery.due(self._clock.now(), self._wall_s()))
            due_at = self.delivery.next_timeout()
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    None if due_at is None else max(0.0, due_at - self._clock.now())
                ):
                    await self._wake.wait()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(sequence):
                    task = asyncio.create_task(self._send(sequence))
                case GiveUp():
                    task = asyncio.create_task(self._bury(effect))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _send(self, sequence: int) -> None:
        fact = await self._fact(sequence)
        now = self._clock.now()
        if fact is None:
            self._metrics.unreadable.add(1)
            self.delivery.buried(sequence, now)
        else:
            try:
                body = webhook_body(fact)
            except DecodeError:
                outcome = Outcome(Answer.REFUSED, "what the fact holds cannot be read")
            else:
                outcome = await self._post(body)
            self._answered(sequence, fact, outcome)
        self._done.set()
        self._wake.set()

    async def _post(self, body: bytes) -> Outcome:
        key = self._key()
        if key is None:
            return Outcome(Answer.UNREACHABLE, "there is no API key to sign with: add it again")
        signed = headers(body, *key, self._wall_s())
        return await self._sender.post(self.target, body, dict(signed))

    def _answered(self, sequence: int, fact: events_pb2.RoomEvent, outcome: Outcome) -> None:
        wall_s = self._wall_s()
        self._metrics.requests.add(1, self.target.id, outcome.answer.value)
        if outcome.answer is Answer.TAKEN:
            self._metrics.dispatched.add(1, "success")
            self._metrics.delay.observe(max(0.0, wall_s - fact.created_at))
            self._forget(sequence)
        else:
            self._log.info("webhook not taken", id=fact.id, name=fact.name, error=outcome.error)
        effects = self.delivery.answered(
            sequence,
            outcome.answer,
            self._clock.now(),
            wall_s,
            error=outcome.error,
            retry_after_s=outcome.retry_after_s,
        )
        self._note_down(outcome.error)
        self._perform(effects)

    def _note_down(self, error: str) -> None:
        is_down = self.delivery.is_down
        if is_down != self._was_down:
            self._was_down = is_down
            if is_down:
                self._log.warning("webhook target does not answer; it is asked again", error=error)
            else:
                self._log.info("webhook target answers again", waiting=self.delivery.waiting)

    async def _bury(self, effect: GiveUp) -> None:
        fact = await self._fact(effect.sequence)
        if fact is not None:
            letter = webhook_pb2.DeadLetter(
                schema=SCHEMA,
                target=self.target.id,
                url=self.target.shown,
                reason=effect.reason,
                attempts=effect.attempts,
                died_at=int(self._wall_s()),
                event=fact.SerializeToString(),
            )
            message_id = f"{self.target.id}.{effect.sequence}"
            await self._again(lambda: self._dead.bury(letter, message_id))
            self._log.warning(
                "webhook given up: it is a dead letter now",
                id=fact.id,
                name=fact.name,
                reason=effect.reason,
                attempts=effect.attempts,
            )
        self._metrics.dispatched.add(1, "failure")
        self._forget(effect.sequence)
        self.delivery.buried(effect.sequence, self._clock.now())
        self._done.set()
        self._wake.set()

    async def _fact(self, sequence: int) -> events_pb2.RoomEvent | None:
        data = self._cache.get(sequence)
        if data is not None:
            return events_pb2.RoomEvent.FromString(data)
        message = await self._again(lambda: self._bus.stored_message(subjects.EVENTS, sequence))
        return None if message is None else self._decoded(message)

    def _forget(self, sequence: int) -> None:
        data = self._cache.pop(sequence, None)
        if data is not None:
            self._cached_bytes -= len(data)

    async def _again(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it until NATS lets it be done."""
        is_known = False
        while True:
            try:
                return await work()
            except (BusError, KvError) as error:
                if not is_known:
                    self._log.warning("NATS does not answer; webhooks wait", error=str(error))
                is_known = True
                await asyncio.sleep(AGAIN_S)

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            for shard in list(self._saved):
                try:
                    if shard in self._saved and not await self._save(shard):
                        self._lost(shard)
                except KvError:
                    break  # said by who reads; saved when it is back

    async def _save(self, shard: int) -> bool:
        progress = self.delivery.progress(shard)
        record = webhook_pb2.ProgressRecord(
            schema=SCHEMA,
            read=progress.read,
            pending=progress.pending,
            url=self.target.shown,
            failures=self.delivery.failures,
            last_error=self.delivery.last_error,
        )
        if record == self._saved[shard]:
            return True
        if not await self._records.save(self.target, shard, record):
            return False
        if shard in self._saved:
            self._saved[shard] = record
        return True

    def _wall_s(self) -> float:
        return self._clock.wall_ms() / 1000


class Dispatcher:
    """This replica: the shards it has, and a runner for each target."""

    def __init__(
        self,
        replica: str,
        bucket: Kv,
        clock: Clock,
        metrics: WebhookMetrics,
        make_runner: Callable[[Target, Lost], TargetRunner],
    ) -> None:
        self.shards = Shards(replica)
        self._replica = replica
        self._bucket = bucket
        self._records = ShardRecords(bucket, replica)
        self._clock = clock
        self._make_runner = make_runner
        self._runners: dict[str, tuple[TargetRunner, asyncio.Task[None]]] = {}
        self._taken_away: set[int] = set()
        self._changing = asyncio.Lock()
        metrics.shards.read_by(lambda: float(len(self.shards.owned)))
        metrics.waiting.read_by(lambda: float(sum(one.delivery.waiting for one in self.runners)))
        metrics.down.read_rows_by(
            lambda: {(one.target.id,): float(one.delivery.is_down) for one in self.runners}
        )

    @property
    def runners(self) -> list[TargetRunner]:
        """One for each target."""
        return [runner for runner, _ in self._runners.values()]

    async def aim(self, targets: Mapping[str, Target]) -> None:
        """Deliver to these targets from now on; those that stay go on as they are."""
        async with self._changing:
            for runner, task in list(self._runners.values()):
                if targets.get(runner.target.id) != runner.target:
                    del self._runners[runner.target.id]
                    await runner.close()
                    task.cancel()
            for name, target in targets.items():
                if name in self._runners:
                    continue
                runner = self._make_runner(target, self._taken_away.add)
                self._runners[name] = (runner, asyncio.create_task(runner.run()))
                for shard in self.shards.owned:
                    runner.begin(shard)

    async def run(self) -> None:
        """Take shards and keep them, until canceled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                try:
                    await self._beat()
                except KvError as error:
                    log.warning("shards cannot be kept while NATS is away", error=str(error))
                failed = [task for _, task in self._runners.values() if task.done()]
                for task in (*failed, *((watching,) if watching.done() else ())):
                    task.result()
                await asyncio.sleep(BEAT_S)
        finally:
            watching.cancel()

    async def close(self) -> None:
        """Save, and let others have the shards."""
        async with self._changing:
            await asyncio.gather(*(runner.close() for runner in self.runners))
            for _, task in self._runners.values():
                task.cancel()
            for shard in sorted(self.shards.owned):
                await self._records.give_back(shard)
            with suppress(KvError):
                await self._records.say_goodbye()

    async def _beat(self) -> None:
        async with self._changing:
            await self._records.say_alive()
            for shard in sorted(self.shards.owned):
                if shard in self._taken_away or not await self._records.beat(shard):
                    await self._lose(shard)
            self._taken_away.clear()
            for decision in self.shards.decide(self._clock.now()):
                match decision:
                    case Take(shard, revision):
                        if await self._records.take(shard, revision):
                            self.shards.took(shard)
                            for runner in self.runners:
                                runner.begin(shard)
                    case GiveBack(shard):
                        await asyncio.gather(*(runner.end(shard) for runner in self.runners))
                        await self._records.give_back(shard)
                        self.shards.gave_back(shard)

    async def _lose(self, shard: int) -> None:
        log.warning("a shard was taken by another replica", shard=shard)
        self.shards.gave_back(shard)
        await asyncio.gather(*(runner.end(shard, save=False) for runner in self.runners))

    async def _watch(self) -> None:
        async for change in self._bucket.watch():
            now = self._clock.now()
            match change:
                case Entry(key, value, revision) if key.startswith(_SHARD):
                    shard = int(key.removeprefix(_SHARD))
                    self.shards.saw_shard(shard, owner_of(value), revision, now)
                case Entry(key) if key.startswith(_REPLICA):
                    self.shards.saw_replica(key.removeprefix(_REPLICA), now)
                case Deleted(key) if key.startswith(_REPLICA):
                    self.shards.replica_gone(key.removeprefix(_REPLICA))
                case Entry() | Deleted() | CaughtUp():
                    pass


_SHARD: Final = kv.path("shard", "")
_REPLICA: Final = kv.path("replica", "")

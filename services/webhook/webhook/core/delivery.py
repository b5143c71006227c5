"""What one target is sent next, and how far it has got.

One `Delivery` per target: it is told of facts as they are read and of what became of each request, and says what to
send and what to give up. Facts of one room go out one after the other in their order; rooms do not wait for each other,
so a fact that its target refuses holds up its own room alone. A target that does not answer at all is asked with one
fact at a time, ever more rarely, until it does. What it is not: memory of the facts themselves; it knows their
sequences in the stream.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum


class Answer(Enum):
    """What became of one request."""

    TAKEN = "taken"  # 2xx
    REFUSED = "refused"  # this fact is not wanted: most of 4xx, and 501
    FAILED = "failed"  # the target's own fault with this fact: 5xx, a redirect
    UNREACHABLE = (
        "unreachable"  # no answer at all, or that the target is overloaded: 429, 502, 503, 504
    )


@dataclass(frozen=True, slots=True)
class Send:
    """Send this fact now."""

    sequence: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody will take this fact: keep it aside, and say so with `buried`."""

    sequence: int
    reason: str
    attempts: int


Effect = Send | GiveUp


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be. Times in seconds."""

    in_flight: int = 64
    """Requests at a time to one target."""
    first_delay_s: float = 1.0
    last_delay_s: float = 600.0
    """Doubled from the first to the last, for each fact anew."""
    down_last_delay_s: float = 60.0
    """The longest time between two questions whether a target is back."""
    down_after: int = 3
    """Requests without an answer in a row, with none answered between them, after which the target counts as down."""
    refusals: int = 5
    """Attempts of a fact that its target refuses."""
    give_up_after_s: float = 3 * 24 * 3600.0
    """Age of a fact, since it happened, after which it is given up."""


@dataclass(frozen=True, slots=True)
class Progress:
    """All of a shard up to `read` is done, but for `pending` (ascending)."""

    read: int
    pending: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Fact:
    sequence: int
    shard: int
    created_at: float


@dataclass(slots=True)
class _Room:
    """Facts of one room that wait, the first of them perhaps under way."""

    facts: deque[_Fact] = field(default_factory=deque)
    attempts: int = 0  # of the first
    ready_at: float = 0.0  # when the first may go
    is_busy: bool = False
    was_unreachable: bool = False
    error: str = ""


@dataclass(slots=True)
class _Shard:
    read: int
    pending: dict[int, None] = field(default_factory=dict)


class Delivery:
    """All that waits for one target; see the module."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._shards: dict[int, _Shard] = {}
        self._rooms: dict[str, _Room] = {}
        self._room_of: dict[int, str] = {}  # of what waits, by sequence
        self._ready: list[
            tuple[float, int, str]
        ] = []  # rooms whose first fact may go: (when, order, room)
        self._order = itertools.count()
        self._in_flight: set[int] = set()
        self.failures = 0
        """Requests without an answer in a row; 0 once one is answered."""
        self.last_error = ""
        """What the last request failed with, since one was taken."""
        self._probe_sequence = 0  # of the request that asks whether a silent target is back
        self._probes = 0  # such requests in a row
        self._down_until = 0.0

    @property
    def is_down(self) -> bool:
        """Does the target not answer at all?"""
        return self.failures >= self._policy.down_after

    @property
    def waiting(self) -> int:
        """Facts not done."""
        return len(self._room_of)

    def waiting_of(self, shard: int) -> int:
        """Facts of a shard not done."""
        return len(self._shards[shard].pending) if shard in self._shards else 0

    def begin(self, shard: int, read: int) -> None:
        """Deliver a shard's facts: all up to `read` are done, or arrive next."""
        self._shards[shard] = _Shard(read)

    def end(self, shard: int) -> None:
        """Forget a shard: somebody else delivers it. Requests under way end as they end."""
        gone = self._shards.pop(shard, None)
        for sequence in list(gone.pending) if gone is not None else ():
            name = self._room_of.pop(sequence)
            # A room's facts are all of one shard.
            self._rooms.pop(name, None)

    def skipped(self, shard: int, sequence: int) -> None:
        """A fact that this target is not to be told."""
        if shard in self._shards:
            self._shards[shard].read = max(self._shards[shard].read, sequence)

    def arrived(self, shard: int, sequence: int, room: str, created_at: float, now: float) -> None:
        """A fact to be told; of each shard in the order of the stream. `created_at` is Unix time."""
        state = self._shards.get(shard)
        if state is None or sequence in self._room_of:
            return
        state.read = max(state.read, sequence)
        state.pending[sequence] = None
        self._room_of[sequence] = room
        queue = self._rooms.get(room)
        if queue is None:
            self._rooms[room] = queue = _Room()
            self._ready_at(now, room)
        queue.facts.append(_Fact(sequence, shard, created_at))

    def due(self, now: float, wall_s: float) -> list[Effect]:
        """What to do now; `wall_s` is Unix time."""
        if self.is_down:
            return self._probe(now, wall_s)
        effects: list[Effect] = []
        while self._ready and len(self._in_flight) < self._policy.in_flight:
            if self._ready[0][0] > now:
                break
            when, _, name = heapq.heappop(self._ready)
            queue = self._rooms.get(name)
            if queue is not None and not queue.is_busy and queue.ready_at == when:
                effects.append(self._send(queue))
        return effects

    def next_timeout(self) -> float | None:
        """When `due` may have something, if nothing happens before."""
        if self.is_down:
            return None if self._in_flight or not self._rooms else self._down_until
        if len(self._in_flight) >= self._policy.in_flight or not self._ready:
            return None
        return self._ready[0][0]

    def answered(
        self,
        sequence: int,
        answer: Answer,
        now: float,
        wall_s: float,
        *,
        error: str = "",
        retry_after_s: float = 0.0,
    ) -> list[Effect]:
        """What became of a `Send`; what to do about it."""
        self._in_flight.discard(sequence)
        self._note(sequence, answer, now, error, retry_after_s)
        queue = self._rooms.get(self._room_of.get(sequence, ""))
        if queue is None or not queue.facts or queue.facts[0].sequence != sequence:
            return []  # of a shard that somebody else delivers now
        if answer is Answer.TAKEN:
            self._done(sequence, now)
            return []
        queue.attempts += 1
        queue.error = error
        queue.was_unreachable = answer is Answer.UNREACHABLE
        is_final = answer is Answer.REFUSED and queue.attempts >= self._policy.refusals
        if is_final or self._is_too_old(queue.facts[0], wall_s):
            return [GiveUp(sequence, error, queue.attempts)]  # busy until it is buried
        queue.is_busy = False
        delay_s = max(self._delay_s(queue.attempts, self._policy.last_delay_s), retry_after_s)
        self._ready_at(now + delay_s, self._room_of[sequence])
        return []

    def buried(self, sequence: int, now: float) -> None:
        """A fact that was given up is kept elsewhere: on with the next."""
        if sequence in self._room_of:
            self._done(sequence, now)

    def progress(self, shard: int) -> Progress:
        """How far the target has got with a shard."""
        state = self._shards[shard]
        return Progress(state.read, tuple(sorted(state.pending)))

    def _send(self, queue: _Room) -> Send:
        queue.is_busy = True
        sequence = queue.facts[0].sequence
        self._in_flight.add(sequence)
        return Send(sequence)

    def _probe(self, now: float, wall_s: float) -> list[Effect]:
        if self._in_flight or now < self._down_until:
            return []
        effects: list[Effect] = list(self._too_old(wall_s))
        free = (queue for queue in self._rooms.values() if not queue.is_busy and queue.facts)
        oldest = min(free, key=lambda queue: queue.facts[0].sequence, default=None)
        if oldest is not None:
            effects.append(self._send(oldest))
            self._probe_sequence = oldest.facts[0].sequence
        return effects

    def _too_old(self, wall_s: float) -> Iterator[GiveUp]:
        for queue in self._rooms.values():
            if not queue.is_busy and queue.facts and self._is_too_old(queue.facts[0], wall_s):
                queue.is_busy = True
                reason = queue.error or self.last_error
                yield GiveUp(queue.facts[0].sequence, reason, queue.attempts)

    def _note(
        self, sequence: int, answer: Answer, now: float, error: str, retry_after_s: float
    ) -> None:
        was_down = self.is_down
        if answer is Answer.UNREACHABLE:
            self.failures += 1
            self.last_error = error
            # Requests that were under way together fail together: that is one sign, not many.
            if not was_down or sequence == self._probe_sequence:
                self._probes = self._probes + 1 if was_down else 1
                delay_s = self._delay_s(self._probes, self._policy.down_last_delay_s)
                self._down_until = now + max(delay_s, retry_after_s)
            return
        self.failures = 0
        self.last_error = "" if answer is Answer.TAKEN else error
        if was_down:
            self._resume(now)

    def _resume(self, now: float) -> None:
        """The target is back: what only waited for that goes at once, in the order of the stream."""
        waited = [
            (queue.facts[0].sequence, name)
            for name, queue in self._rooms.items()
            if queue.facts and not queue.is_busy and (queue.was_unreachable or not queue.attempts)
        ]
        for _, name in sorted(waited):
            self._rooms[name].attempts = 0
            self._ready_at(now, name)

    def _done(self, sequence: int, now: float) -> None:
        name = self._room_of.pop(sequence)
        queue = self._rooms[name]
        fact = queue.facts.popleft()
        self._shards[fact.shard].pending.pop(sequence, None)
        queue.attempts, queue.is_busy, queue.was_unreachable, queue.error = 0, False, False, ""
        if queue.facts:
            self._ready_at(now, name)
        else:
            del self._rooms[name]

    def _ready_at(self, when: float, room: str) -> None:
        self._rooms[room].ready_at = when
        heapq.heappush(self._ready, (when, next(self._order), room))

    def _is_too_old(self, fact: _Fact, wall_s: float) -> bool:
        return wall_s - fact.created_at > self._policy.give_up_after_s

    def _delay_s(self, attempts: int, most_s: float) -> float:
        return min(self._policy.first_delay_s * 2.0 ** min(max(attempts - 1, 0), 32), most_s)

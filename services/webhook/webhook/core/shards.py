"""Which shards of EVENTS this replica delivers: a fair share, taken by compare-and-set, given back when others come.

A shard is a fixed set of the stream's partitions. A replica that stands still is noticed by the others by their own
clocks since they last saw a change, never by timestamps. What it is not: certainty that nobody else delivers; two may
for the length of a beat, and then a target gets a fact twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from chassis.subjects import EVENT_PARTITIONS

SHARDS: Final = 8
BEAT_S: Final = 1.0
SILENT_AFTER_S: Final = 5.0


def partitions_of(shard: int) -> tuple[int, ...]:
    """The partitions of EVENTS in a shard."""
    return tuple(range(shard, EVENT_PARTITIONS, SHARDS))


@dataclass(frozen=True, slots=True)
class Take:
    """Write this replica as the owner, over exactly that revision; 0: there is no record."""

    shard: int
    revision: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Stop delivering a shard, save how far it got, and write it free."""

    shard: int


@dataclass(slots=True)
class _Seen:
    owner: str = ""
    revision: int = 0
    changed_at: float = 0.0


@dataclass(slots=True)
class Shards:
    """What this replica knows of all shards and of the other replicas."""

    replica: str
    owned: set[int] = field(default_factory=set)
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _replicas: dict[str, float] = field(default_factory=dict)

    def saw_shard(self, shard: int, owner: str, revision: int, now: float) -> None:
        """A shard's record is this now."""
        seen = self._seen.get(shard)
        if seen is None or seen.revision < revision:
            self._seen[shard] = _Seen(owner, revision, now)

    def saw_replica(self, replica: str, now: float) -> None:
        """Another replica lives."""
        self._replicas[replica] = now

    def replica_gone(self, replica: str) -> None:
        """It said goodbye."""
        self._replicas.pop(replica, None)

    def took(self, shard: int) -> None:
        """A `Take` succeeded."""
        self.owned.add(shard)

    def gave_back(self, shard: int) -> None:
        """A `GiveBack` is done, or the shard was lost."""
        self.owned.discard(shard)

    def decide(self, now: float) -> list[Take | GiveBack]:
        """What to do at this beat."""
        alive = {name for name, at in self._replicas.items() if now - at < SILENT_AFTER_S}
        share = math.ceil(SHARDS / len(alive | {self.replica}))
        if len(self.owned) > share:
            return [GiveBack(max(self.owned))]
        free = [shard for shard in range(SHARDS) if self._is_free(shard, now)]
        # Not all begin with the same one.
        begin = sum(self.replica.encode()) % SHARDS
        free.sort(key=lambda shard: (shard - begin) % SHARDS)
        wanted = free[: share - len(self.owned)]
        return [Take(shard, self._seen.get(shard, _Seen()).revision) for shard in wanted]

    def _is_free(self, shard: int, now: float) -> bool:
        if shard in self.owned:
            return False
        seen = self._seen.get(shard)
        if seen is None or not seen.owner or seen.owner == self.replica:
            return True
        return now - seen.changed_at >= SILENT_AFTER_S

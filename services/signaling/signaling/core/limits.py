"""Token buckets by key: how much one address or API key may ask for, in bounded memory.

What it is not: a ban. Whoever waits as long as told is served again.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

MAX_KEYS = 100_000


@dataclass(slots=True)
class Buckets:
    """One bucket for each key that asked lately: filled at `per_second` up to `burst`; a rate of 0 limits nothing."""

    per_second: float
    burst: float
    max_keys: int = MAX_KEYS
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """Tokens left, and when that was; least recently asked first."""

    def take(self, key: str, now: float, cost: float = 1.0) -> float:
        """Take `cost` tokens if there is one at least: 0. Else take none: the seconds until there is one."""
        if self.per_second <= 0:
            return 0.0
        level = self._level(key, now)
        if level < 1.0:
            return (1.0 - level) / self.per_second
        self._put(key, level - cost, now)
        return 0.0

    def charge(self, key: str, now: float, cost: float) -> None:
        """Take `cost` tokens whether they are there or not, down to an empty bucket."""
        if self.per_second > 0:
            self._put(key, max(0.0, self._level(key, now) - cost), now)

    def __len__(self) -> int:
        return len(self._levels)

    def _level(self, key: str, now: float) -> float:
        found = self._levels.get(key)
        if found is None:
            return self.burst
        level, at = found
        return min(self.burst, level + (now - at) * self.per_second)

    def _put(self, key: str, level: float, now: float) -> None:
        self._levels[key] = (level, now)
        self._levels.move_to_end(key)
        # A full bucket is as good as none; too many keys cost the longest silent one its memory.
        while self._levels:
            oldest = next(iter(self._levels))
            if len(self._levels) <= self.max_keys and self._level(oldest, now) < self.burst:
                return
            del self._levels[oldest]

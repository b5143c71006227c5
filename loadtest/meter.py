"""From the counters of received tracks to figures: what should have come, what came, what is missing. Has no clock.

A track counts from its first packet on, or from `GRACE_S` after it was offered, so that a publisher who never sends is
seen, and the moment between an offer and its first packet is not held against anybody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from loadtest.figures import MediaFigures

GRACE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class TrackCount:
    """Totals of one received track."""

    track: int
    kind: str
    packets: int
    lost: int


@dataclass(frozen=True, slots=True)
class _Seen:
    count: TrackCount
    since: float


@dataclass(slots=True)
class Meter:
    """Remembers the last reading. `rates`: packets a second of a published track, by kind."""

    rates: Mapping[str, float]
    _tracks: dict[int, _Seen] = field(default_factory=dict)
    _read_at: float | None = None

    def read(self, counts: Iterable[TrackCount], now: float) -> MediaFigures:
        """Expected, received and lost since the last reading, over the tracks that were there then and are now."""
        seconds = 0.0 if self._read_at is None else now - self._read_at
        before, self._tracks, self._read_at = self._tracks, {}, now
        expected, received, lost = 0.0, 0, 0
        for count in counts:
            seen = before.get(count.track)
            self._tracks[count.track] = _Seen(count, now if seen is None else seen.since)
            if seen is not None and (seen.count.packets > 0 or now - seen.since > GRACE_S):
                expected += self.rates.get(count.kind, 0.0) * seconds
                received += count.packets - seen.count.packets
                lost += count.lost - seen.count.lost
        return MediaFigures(expected=expected, received=received, lost=lost)

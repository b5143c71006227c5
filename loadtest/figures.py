"""What a run measured, as values that add up: over reports, swarms and machines. No clock, no files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from loadtest.latency import percentile_ms

JOIN: Final = "JOIN"
API: Final = "API"
RECONNECT: Final = "RECONNECT"
MEDIA: Final = "MEDIA"
"""Types of what Locust shows. The first three are things done, each of which can fail; the last is looked at."""
OPERATIONS: Final = (JOIN, API, RECONNECT)


@dataclass(frozen=True, slots=True)
class MediaFigures:
    """Media packets at the subscribers, of some span of time. Sums, except `participants`, which is a level."""

    participants: int = 0
    """Joined now, with peer connections."""
    expected: float = 0.0
    """Packets that publishers are to have sent to their subscribers."""
    received: int = 0
    lost: int = 0
    """Missing in sequence; may fall again when late packets come."""
    latency: tuple[int, ...] = ()
    """Histogram as in `loadtest.latency`; only of packets whose publisher is in the subscriber's process."""
    drops: int = 0
    """Sessions that ended without being asked to."""
    rejected: int = 0
    """Commands that the swarm's engine refused: defects of the swarm or of the server's descriptions."""

    def __add__(self, other: "MediaFigures") -> "MediaFigures":
        """Both together, at the same time or one after the other in different swarms."""
        return MediaFigures(
            self.participants + other.participants,
            self.expected + other.expected,
            self.received + other.received,
            self.lost + other.lost,
            _sum_bins(self.latency, other.latency),
            self.drops + other.drops,
            self.rejected + other.rejected,
        )

    @property
    def received_percent(self) -> float | None:
        """Of the expected packets; None when none were expected."""
        return 100 * self.received / self.expected if self.expected > 0 else None

    @property
    def loss_percent(self) -> float | None:
        """Of the packets received and missing; None when there were none."""
        total = self.received + self.lost
        return 100 * max(self.lost, 0) / total if total > 0 else None

    def latency_ms(self, share: float) -> float | None:
        """The latency that `share` of the measured packets did not exceed; None when none was measured."""
        return percentile_ms(self.latency, share) if any(self.latency) else None

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """From `asdict`, also when it went through JSON."""
        return cls(**{**content, "latency": tuple(content["latency"])})


def total(parts: Iterable[MediaFigures]) -> MediaFigures:
    """All together."""
    return sum(parts, MediaFigures())


@dataclass(slots=True)
class Tally:
    """Media figures of several sources as their reports come in: sums over time, the latest level of each source."""

    _sums: MediaFigures = field(default_factory=MediaFigures)
    _levels: dict[str, int] = field(default_factory=dict)

    def add(self, source: str, figures: MediaFigures) -> None:
        """What `source` measured since its last report."""
        self._levels[source] = figures.participants
        self._sums = self._sums + figures

    def remove(self, source: str) -> None:
        """A source is gone: what it counted stays, its participants do not."""
        self._levels.pop(source, None)

    def read(self) -> MediaFigures:
        """Up to now."""
        sums = asdict(self._sums)
        return MediaFigures(**{**sums, "participants": sum(self._levels.values())})

    def take(self) -> MediaFigures:
        """Since the last `take`."""
        figures = self.read()
        self._sums = MediaFigures()
        return figures


@dataclass(frozen=True, slots=True)
class OperationFigures:
    """Joins, API calls or reconnects: how many, how many failed, and how long those took that did not."""

    count: int = 0
    failures: int = 0
    times_ms: Mapping[int, int] = field(default_factory=dict)
    """How many took how long, as Locust rounds it: two digits above 100 ms."""

    def __add__(self, other: "OperationFigures") -> "OperationFigures":
        """Both together."""
        times = Counter(self.times_ms)
        times.update(other.times_ms)
        return OperationFigures(
            self.count + other.count, self.failures + other.failures, dict(times)
        )

    def since(self, before: "OperationFigures") -> "OperationFigures":
        """What came after `before`, an earlier reading; all when the counting began anew in between."""
        if before.count > self.count:
            return self
        times = Counter(self.times_ms)
        times.subtract(before.times_ms)
        return OperationFigures(
            self.count - before.count, self.failures - before.failures, dict(+times)
        )

    def percentile_ms(self, share: float) -> float | None:
        """The time that `share` of those that went well did not exceed; None when none did."""
        wanted = share * sum(self.times_ms.values())
        below = 0
        for time, count in sorted(self.times_ms.items()):
            below += count
            if below >= wanted:
                return float(time)
        return None

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """From `asdict`, also when it went through JSON, which knows only text as keys."""
        times = {int(time): count for time, count in content["times_ms"].items()}
        return cls(content["count"], content["failures"], times)


@dataclass(frozen=True, slots=True)
class Figures:
    """A whole run."""

    operations: Mapping[str, OperationFigures]
    """By type: `JOIN`, `API`, `RECONNECT`."""
    media: MediaFigures
    seconds: float
    most_participants: int
    accidents: Sequence[str] = ()
    """Sentences about what went wrong with the load test itself, such as the death of a swarm."""

    def operation(self, kind: str) -> OperationFigures:
        """Those of one type, none when there were none."""
        return self.operations.get(kind, OperationFigures())

    @property
    def failures_percent(self) -> float | None:
        """Of everything done; None when nothing was."""
        count = sum(self.operation(kind).count for kind in OPERATIONS)
        failures = sum(self.operation(kind).failures for kind in OPERATIONS)
        return 100 * failures / count if count else None

    def write(self) -> dict[str, Any]:
        """As JSON's values."""
        return asdict(self)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """From `write`."""
        return cls(
            {kind: OperationFigures.read(it) for kind, it in content["operations"].items()},
            MediaFigures.read(content["media"]),
            content["seconds"],
            content["most_participants"],
            tuple(content["accidents"]),
        )


def _sum_bins(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    shorter, longer = sorted((one, other), key=len)
    padded = [*shorter, *([0] * (len(longer) - len(shorter)))]
    return tuple(a + b for a, b in zip(padded, longer, strict=True))

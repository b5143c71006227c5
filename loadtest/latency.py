"""Percentiles of the engine's latency histogram; not a recorder of single samples.

Bin `i` counts latencies from `10 ** (i / 10)` microseconds up to the next bin, so a percentile is exact to a quarter
of its value.
"""

from collections.abc import Sequence

BINS_PER_DECADE = 10


def since(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """What was counted after `before`, a shorter or equally long snapshot of the same histogram."""
    padded = [*before, *([0] * (len(now) - len(before)))]
    return [max(new - old, 0) for new, old in zip(now, padded, strict=True)]


def percentile_ms(counts: Sequence[int], share: float) -> float:
    """The latency that `share` (above 0, at most 1) of the samples do not exceed, in milliseconds.

    Within a bin samples count as spread evenly over its logarithm. No samples: not a number.
    """
    total = sum(counts)
    if total == 0:
        return float("nan")
    wanted = share * total
    below = 0
    for place, count in enumerate(counts):
        if count and below + count >= wanted:
            exponent = (place + (wanted - below) / count) / BINS_PER_DECADE
            return float(10**exponent) / 1000
        below += count
    raise ValueError("share must be above 0 and at most 1")

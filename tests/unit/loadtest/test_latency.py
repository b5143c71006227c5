"""Percentiles out of a histogram of tenths of a decade."""

import math

import pytest

from loadtest.latency import percentile_ms, since


def test_a_percentile_lies_in_the_bin_that_holds_it() -> None:
    counts = [0] * 40
    counts[20], counts[30] = 99, 1  # 100..126 us and 1000..1259 us
    assert 0.100 <= percentile_ms(counts, 0.5) <= 0.126
    assert 0.100 <= percentile_ms(counts, 0.99) <= 0.126
    assert 1.000 <= percentile_ms(counts, 1.0) <= 1.259


def test_within_a_bin_samples_are_spread() -> None:
    counts = [0] * 20 + [100]
    assert percentile_ms(counts, 0.01) < percentile_ms(counts, 0.5) < percentile_ms(counts, 0.99)
    assert percentile_ms(counts, 1.0) == pytest.approx(10**2.1 / 1000)


def test_no_samples_have_no_percentile() -> None:
    assert math.isnan(percentile_ms([], 0.5))
    assert math.isnan(percentile_ms([0, 0], 0.99))


def test_only_what_came_since_a_snapshot_counts() -> None:
    assert since([5, 7, 2], [5, 4]) == [0, 3, 2]
    assert since([1], []) == [1]


def test_a_histogram_that_began_anew_never_counts_below_zero() -> None:
    assert since([1, 2], [3, 1]) == [0, 1]

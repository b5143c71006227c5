"""Rate limits: who waits gets on, one does not pay for another, and memory ends somewhere."""

import pytest

from signaling.core.limits import Buckets


def test_a_burst_passes_and_then_the_rate_counts() -> None:
    buckets = Buckets(per_second=2.0, burst=3.0)
    assert [buckets.take("a", 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a", 10.0) == pytest.approx(0.5)
    assert buckets.take("a", 10.4) == pytest.approx(0.1)
    assert buckets.take("a", 10.5) == 0.0
    assert buckets.take("b", 10.5) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = Buckets(per_second=10.0, burst=2.0)
    buckets.take("a", 0.0)
    assert [buckets.take("a", 1000.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]


def test_a_charge_empties_a_bucket_and_no_further() -> None:
    buckets = Buckets(per_second=1.0, burst=20.0)
    for _ in range(5):
        buckets.charge("a", 0.0, 10.0)
    assert buckets.take("a", 0.0, 0) == pytest.approx(1.0)
    assert buckets.take("a", 1.0, 0) == 0.0
    assert buckets.take("a", 1.0) == 0.0


def test_a_rate_of_zero_limits_nothing_and_remembers_nothing() -> None:
    buckets = Buckets(per_second=0.0, burst=1.0)
    assert {buckets.take("a", 0.0) for _ in range(100)} == {0.0}
    buckets.charge("a", 0.0, 10.0)
    assert len(buckets) == 0


def test_full_buckets_are_forgotten() -> None:
    buckets = Buckets(per_second=1.0, burst=10.0)
    for number in range(100):
        buckets.take(f"early {number}", 0.0)
    assert len(buckets) == 100
    buckets.take("late", 1.0)
    assert len(buckets) == 1


def test_memory_is_bounded_whatever_addresses_come() -> None:
    buckets = Buckets(per_second=0.001, burst=1.0, max_keys=1000)
    for number in range(5000):
        assert buckets.take(str(number), 0.0) == 0.0
    assert len(buckets) == 1000
    assert buckets.take("4999", 0.0) > 0

"""Leases are certain for five seconds after what renewed them was said."""

from sfu.core.renewal import LEASE_LIFE, Renewal


def test_leases_lapse_when_nothing_renewed_them_in_time() -> None:
    renewal = Renewal(100.0)
    assert not renewal.is_lapsed(100.0 + LEASE_LIFE - 0.001)
    assert renewal.is_lapsed(100.0 + LEASE_LIFE)


def test_a_renewal_counts_from_when_it_was_said_and_older_ones_change_nothing() -> None:
    renewal = Renewal(100.0)
    renewal.renew(103.0, 103.5)
    renewal.renew(101.0, 103.6)
    assert renewal.lapses_at == 103.0 + LEASE_LIFE


def test_leases_that_had_lapsed_are_doubtful_until_what_is_left_of_them_was_asked_for() -> None:
    renewal = Renewal(100.0)
    renewal.renew(110.0, 110.1)
    assert renewal.is_doubtful
    assert renewal.is_lapsed(110.2)
    renewal.confirm(110.0)  # of before they were renewed
    assert renewal.is_lapsed(110.2)
    renewal.confirm(110.2)
    assert not renewal.is_lapsed(110.3)
    assert renewal.is_lapsed(110.0 + LEASE_LIFE)


def test_a_renewal_in_time_raises_no_doubts() -> None:
    renewal = Renewal(100.0)
    renewal.renew(104.0, 104.1)
    assert not renewal.is_doubtful

"""Leases are certain for five seconds after what renewed them was said."""

from sfu.core.renewal import LEASE_LIFE, Renewal


def test_leases_lapse_when_nothing_renewed_them_in_time() -> None:
    renewal = Renewal(100.0)
    assert not renewal.is_lapsed(100.0 + LEASE_LIFE - 0.001)
    assert renewal.is_lapsed(100.0 + LEASE_LIFE)


def test_a_renewal_counts_from_when_it_was_said_and_older_ones_change_nothing() -> None:
    renewal = Renewal(100.0)
    renewal.renew(103.0)
    renewal.renew(101.0)
    assert renewal.lapses_at == 103.0 + LEASE_LIFE

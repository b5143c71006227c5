"""Whose request it is, behind proxies that are trusted and headers that are not."""

import pytest

from signaling.core.addresses import client_address, limit_key, networks

TRUSTED = networks(["10.0.0.0/8", "2001:db8:ff::/48", "192.0.2.7"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # a stranger's word
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        (
            "10.1.2.3",
            "198.51.100.1, 203.0.113.9",
            "203.0.113.9",
        ),  # the first is the client's own claim
        ("10.1.2.3", "198.51.100.1, 203.0.113.9, 10.9.9.9,192.0.2.7", "203.0.113.9"),
        ("10.1.2.3", "10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "[2001:db8::5]:4711", "2001:db8::5"),
        ("10.1.2.3", "203.0.113.9, unknown", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9, unknown, 10.0.0.1", "10.0.0.1"),
        ("10.1.2.3", ",,,", "10.1.2.3"),
        ("::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("2001:db8:ff::1", "2001:db8::5", "2001:db8::5"),
        ("", "203.0.113.9", ""),
    ],
)
def test_the_rightmost_untrusted_address_is_the_client(
    peer: str, forwarded_for: str, expected: str
) -> None:
    assert client_address(peer, forwarded_for, TRUSTED) == expected


def test_an_ipv6_client_is_its_network() -> None:
    assert limit_key("2001:db8:1:2:3:4:5:6") == limit_key("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert limit_key("2001:db8:1:3::9") != limit_key("2001:db8:1:2::9")
    assert limit_key("fe80::1%eth0") == "fe80::/64"
    assert limit_key("198.51.100.1") == limit_key("::ffff:198.51.100.1") == "198.51.100.1"
    assert len(limit_key("x" * 1000)) == 64


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.0/99' is neither an address nor a network"):
        networks(["10.0.0.0/8", "10.0.0.0/99"])

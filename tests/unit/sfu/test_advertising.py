"""Which address each media socket is told under, by family and source."""

import pytest

from sfu.core.advertising import (
    Advertised,
    Reachable,
    Search,
    parse_addresses,
    wildcard_families,
)

V4, V6 = Reachable("203.0.113.5"), Reachable("2001:db8::5")
BOTH = ["0.0.0.0:7882", "[::]:7882"]


def test_each_wildcard_is_told_as_the_address_of_its_family() -> None:
    assert Advertised((V4, V6)).bindings(BOTH, is_udp=True) == [
        ("0.0.0.0:7882", "203.0.113.5"),
        ("[::]:7882", "2001:db8::5"),
    ]


def test_wildcard_of_a_family_without_address_stays_closed() -> None:
    assert Advertised((V4,)).bindings(BOTH, is_udp=True) == [("0.0.0.0:7882", "203.0.113.5")]


def test_ports_of_a_load_balancer_are_told() -> None:
    addresses = (Reachable("203.0.113.5", 30000, 30001), Reachable("2001:db8::5", 30000, 30001))
    told = Advertised(addresses)
    assert told.bindings(BOTH, is_udp=True)[1] == ("[::]:7882", "[2001:db8::5]:30000")
    assert told.bindings(BOTH, is_udp=False)[0] == ("0.0.0.0:7882", "203.0.113.5:30001")


@pytest.mark.parametrize(("replaces", "told"), [(False, None), (True, "203.0.113.5")])
def test_only_a_given_address_replaces_a_specific_host(replaces: bool, told: str | None) -> None:
    advertised = Advertised((V4,), replaces_hosts=replaces)
    assert advertised.bindings(["10.0.0.5:7882"], is_udp=True) == [("10.0.0.5:7882", told)]


def test_only_wildcards_need_an_address() -> None:
    assert wildcard_families(["0.0.0.0:1", "127.0.0.1:1"]) == {4}
    assert wildcard_families(["[::]:1", "[::1]:1", "nonsense"]) == {6}


def test_each_family_takes_the_first_source_that_knows_one() -> None:
    search = Search({4, 6})
    search.add([V4])
    search.add([Reachable("203.0.113.9"), V6])
    assert search.result() == (V4, V6)


def test_family_that_no_socket_needs_is_not_taken() -> None:
    search = Search({4})
    search.add([V6])
    assert search.result() == ()


def test_private_host_address_is_the_last_resort_and_no_companion_of_a_better_one() -> None:
    hosts = [Reachable("10.0.0.5"), Reachable("fd00::5")]
    alone = Search({4, 6})
    alone.add_last(hosts)
    assert alone.result() == tuple(hosts)
    beside = Search({4, 6})
    beside.add([V4])
    beside.add_last(hosts)
    assert beside.result() == (V4,)


def test_public_host_address_completes_the_other_family() -> None:
    search = Search({4, 6})
    search.add([V4])
    search.add_last([Reachable("2606:4700::1")])
    assert [address.family for address in search.result()] == [4, 6]


def test_addresses_are_parsed_and_what_is_none_is_named() -> None:
    assert parse_addresses(" 203.0.113.5, 2001:DB8:0::5 ") == (V4, V6)
    assert parse_addresses("") == ()
    with pytest.raises(ValueError, match="'here'"):
        parse_addresses("203.0.113.5,here")

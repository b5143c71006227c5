"""Which address clients are told for each socket of the media engine.

A socket has one advertised address (or its own), so there is at most one of each family. A wildcard
socket of a family without an address is left closed: nobody could be told about it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Family = int
"""4 or 6."""


@dataclass(frozen=True, slots=True)
class Reachable:
    """Where clients reach this node."""

    ip: str
    udp_port: int = 0
    """0: the port that the socket is bound to."""
    tcp_port: int = 0

    @property
    def family(self) -> Family:
        """4 or 6."""
        return ipaddress.ip_address(self.ip).version


@dataclass(frozen=True, slots=True)
class Advertised:
    """What clients are told."""

    addresses: tuple[Reachable, ...] = ()
    """At most one of each family."""
    replaces_hosts: bool = False
    """In place of specific bound hosts, too, and not of wildcards only?"""

    def bindings(self, bound: Sequence[str], *, is_udp: bool) -> list[tuple[str, str | None]]:
        """`host:port` to open and what to tell in its place; sockets that nobody reaches left out."""
        found = {address.family: address for address in self.addresses}
        bindings: list[tuple[str, str | None]] = []
        for host_port in bound:
            family, is_wildcard = _host(host_port)
            address = found.get(family) if is_wildcard or self.replaces_hosts else None
            if address is not None:
                port = address.udp_port if is_udp else address.tcp_port
                bindings.append((host_port, _text(address.ip, port)))
            elif not is_wildcard:
                bindings.append((host_port, None))
        return bindings


@dataclass(slots=True)
class Search:
    """Fills the families that wildcard sockets need, source by source, best first."""

    missing: set[Family]
    found: dict[Family, Reachable] = field(default_factory=dict)

    def add(self, addresses: Iterable[Reachable]) -> None:
        """What one source knows; of each family the first counts."""
        for address in addresses:
            if address.family in self.missing:
                self.missing.remove(address.family)
                self.found[address.family] = address

    def add_last(self, addresses: Iterable[Reachable]) -> None:
        """What this machine calls itself: beside a better address of the other family, public ones only."""
        only_public = bool(self.found)
        self.add(a for a in addresses if not only_public or ipaddress.ip_address(a.ip).is_global)

    def result(self) -> tuple[Reachable, ...]:
        """IPv4 first."""
        return tuple(self.found[family] for family in sorted(self.found))


def wildcard_families(bound: Iterable[str]) -> set[Family]:
    """Of the sockets that are bound to no address in particular."""
    return {family for family, is_wildcard in map(_host, bound) if is_wildcard}


def parse_addresses(text: str) -> tuple[Reachable, ...]:
    """One or more IP addresses, separated by commas; ValueError names what is none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(Reachable(str(ipaddress.ip_address(part))) for part in parts)


def _host(host_port: str) -> tuple[Family, bool]:
    host = host_port.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return 0, False  # the engine says what is wrong with it
    return address.version, address.is_unspecified


def _text(ip: str, port: int) -> str:
    if not port:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"

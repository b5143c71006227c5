"""Which addresses a webhook may be sent to: what a name resolves to decides, not the name.

A URL may name, now or later, a machine's own services or its cloud's metadata: those are refused unless listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Networks of clusters and companies, where most receivers are."""


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks of their texts; ValueError names the wrong one."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            raise ValueError(f"{text!r} is not a network like 10.0.0.0/8") from None
    return tuple(found)


def is_allowed(address: str, allowed: Sequence[Network]) -> bool:
    """May a request go to this address: one of the public internet, or of an allowed network?"""
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None:
            found = inner
    if any(found.version == network.version and found in network for network in allowed):
        return True
    return found.is_global and not found.is_multicast

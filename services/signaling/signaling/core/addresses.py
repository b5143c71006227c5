"""Whose request it is: the client's address behind proxies, and what counts as one client in a limit."""

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

IPV6_CLIENT_PREFIX = 64  # what a network gives one host, and one host may change within at will


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks like `10.0.0.0/8`, or single addresses; ValueError names the one that is none."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            raise ValueError(f"{text!r} is neither an address nor a network") from None
    return tuple(found)


def client_address(peer: str, forwarded_for: str, trusted: tuple[Network, ...]) -> str:
    """The rightmost address of `X-Forwarded-For` that is no trusted proxy; the peer itself when that is none.

    Proxies append who they were asked by, so only what trusted ones appended is believed.
    """
    nearest = _parsed(peer)
    if nearest is None or not _is_trusted(nearest, trusted):
        return peer
    for part in reversed(forwarded_for.split(",")):
        address = _parsed(part)
        if address is None:
            break
        nearest = address
        if not _is_trusted(address, trusted):
            break
    return str(nearest)


def limit_key(address: str) -> str:
    """What is limited as one client: an IPv4 address, or an IPv6 network of 64 bits."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_CLIENT_PREFIX), strict=False))
    return str(parsed) if parsed is not None else address[:64]


def _is_trusted(address: Address, trusted: tuple[Network, ...]) -> bool:
    return any(address in network for network in trusted)


def _parsed(text: str) -> Address | None:
    """An address, perhaps with a port as some proxies write it."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address

"""The two STUN messages (RFC 8489) by which a process learns the address it is seen under.

A binding request without attributes, and the success response to it. Not ICE's use of STUN: that is
the media core's.
"""

from __future__ import annotations

import ipaddress
import struct

TRANSACTION_ID_BYTES = 12


def binding_request(transaction_id: bytes) -> bytes:
    """RFC 8489 section 5; `transaction_id`: 12 random bytes."""
    return _HEADER.pack(_BINDING_REQUEST, 0, _MAGIC_COOKIE, transaction_id)


def mapped_address(datagram: bytes, transaction_id: bytes) -> str | None:
    """The address in a success response to that request; None for every other datagram."""
    if len(datagram) < _HEADER.size:
        return None
    kind, length, cookie, answered = _HEADER.unpack_from(datagram)
    if (kind, cookie, answered) != (_BINDING_SUCCESS, _MAGIC_COOKIE, transaction_id):
        return None
    if length % 4 or len(datagram) != _HEADER.size + length:
        return None
    found: dict[int, str] = {}
    for attribute, value in _attributes(datagram[_HEADER.size :]):
        address = None
        if attribute == _XOR_MAPPED_ADDRESS:
            address = _address(value, datagram[4:20])
        elif attribute == _MAPPED_ADDRESS:
            address = _address(value, bytes(16))
        if address is not None:
            found.setdefault(attribute, address)
    # A NAT that rewrites addresses in payloads spoils the plain one (section 14.2).
    return found.get(_XOR_MAPPED_ADDRESS) or found.get(_MAPPED_ADDRESS)


def _attributes(body: bytes) -> list[tuple[int, bytes]]:
    """Type and value of each (section 14), up to one that is cut short."""
    attributes = []
    offset = 0
    while offset + 4 <= len(body):
        attribute, length = struct.unpack_from("!HH", body, offset)
        value = body[offset + 4 : offset + 4 + length]
        if len(value) < length:
            break
        attributes.append((attribute, value))
        offset += 4 + length + -length % 4
    return attributes


def _address(value: bytes, mask: bytes) -> str | None:
    """Sections 14.1 and 14.2: family, port, address; the mask is all zeros for the plain one."""
    if len(value) < 4:
        return None
    masked = value[4:]
    if (value[1], len(masked)) not in ((_IPV4, 4), (_IPV6, 16)):
        return None
    plain = bytes(byte ^ other for byte, other in zip(masked, mask, strict=False))
    return str(ipaddress.ip_address(plain))


_HEADER = struct.Struct("!HHI12s")
_MAGIC_COOKIE = 0x2112A442
_BINDING_REQUEST, _BINDING_SUCCESS = 0x0001, 0x0101
_MAPPED_ADDRESS, _XOR_MAPPED_ADDRESS = 0x0001, 0x0020
_IPV4, _IPV6 = 0x01, 0x02

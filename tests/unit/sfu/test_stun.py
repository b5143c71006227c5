"""Learning one's address from a STUN server (RFC 8489); test vectors of RFC 5769."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfu.core.stun import binding_request, mapped_address

ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
IPV4_RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
IPV6_RESPONSE = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)


def response(attributes: bytes, kind: int = 0x0101) -> bytes:
    return struct.pack("!HHI12s", kind, len(attributes), 0x2112A442, ID) + attributes


def plain(ip: bytes, family: int = 1) -> bytes:
    return struct.pack("!HHBBH", 1, 4 + len(ip), 0, family, 5000) + ip


@pytest.mark.parametrize(
    ("datagram", "ip"),
    [
        (IPV4_RESPONSE, "192.0.2.1"),
        (IPV6_RESPONSE, "2001:db8:1234:5678:11:2233:4455:6677"),
        (response(plain(bytes((192, 0, 2, 7)))), "192.0.2.7"),
        (response(plain(bytes((10, 0, 0, 1))) + IPV4_RESPONSE[36:48]), "192.0.2.1"),
    ],
    ids=["IPv4", "IPv6", "plain address of an old server", "masked one before the plain one"],
)
def test_success_response_tells_the_address(datagram: bytes, ip: str) -> None:
    assert mapped_address(datagram, ID) == ip


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        IPV4_RESPONSE[:19],
        IPV4_RESPONSE[:-4],
        IPV4_RESPONSE + bytes(4),
        response(IPV4_RESPONSE[20:], kind=0x0111),
        response(plain(bytes(4), family=2)),
        response(plain(bytes(16), family=1)),
        response(b"\x00\x20\x00\xff" + bytes(8)),
        response(b""),
        binding_request(ID),
    ],
)
def test_other_datagrams_tell_nothing(datagram: bytes) -> None:
    assert mapped_address(datagram, ID) is None


def test_answer_to_another_request_tells_nothing() -> None:
    assert mapped_address(IPV4_RESPONSE, bytes(12)) is None


def test_request_is_a_bare_header() -> None:
    assert binding_request(ID).hex() == "000100002112a442" + ID.hex()


@given(st.binary(max_size=80))
@example(IPV4_RESPONSE[20:])
def test_no_body_breaks_the_parser(body: bytes) -> None:
    for datagram in (body, response(body), response(body + bytes(-len(body) % 4))):
        found = mapped_address(datagram, ID)
        assert found is None or found

"""Records behind their length and checksum; what is torn or broken ends the reading."""

import pytest

from sfu.core import spooling

PAYLOADS = [b"one", b"", b"three" * 100]


def segment() -> bytes:
    return b"".join(spooling.encode(payload) for payload in PAYLOADS)


def test_records_are_read_back_from_any_record_on() -> None:
    records = spooling.decode(segment())
    assert [payload for payload, _ in records] == PAYLOADS
    assert records[-1][1] == len(segment())
    assert spooling.decode(segment(), records[0][1]) == records[1:]


@pytest.mark.parametrize("cut", range(1, 508, 23))
def test_a_torn_end_loses_the_last_record_alone(cut: int) -> None:
    read = [payload for payload, _ in spooling.decode(segment()[:-cut])]
    assert read == PAYLOADS[:2]


def test_a_changed_byte_ends_the_reading_before_it() -> None:
    broken = bytearray(segment())
    broken[-1] ^= 1
    assert [payload for payload, _ in spooling.decode(bytes(broken))] == PAYLOADS[:2]
    assert spooling.decode(b"\xff" * 100) == []

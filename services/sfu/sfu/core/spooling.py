"""The format of a spool's segments: records, each behind its length and checksum.

    u32 length, u32 CRC-32 of the payload, payload; big endian

A segment is only appended to, so that what a crash tore is at its end and is left out.
"""

from __future__ import annotations

import struct
import zlib

_HEADER = struct.Struct(">II")
HEADER_BYTES = _HEADER.size
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024  # a length beyond this is no length but noise


def encode(payload: bytes) -> bytes:
    """One record."""
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes, start: int = 0) -> list[tuple[bytes, int]]:
    """The whole records from `start` on, each with the position behind it; stops at a broken one."""
    records: list[tuple[bytes, int]] = []
    at = start
    while at + HEADER_BYTES <= len(data):
        length, checksum = _HEADER.unpack_from(data, at)
        end = at + HEADER_BYTES + length
        payload = data[at + HEADER_BYTES : end]
        if length > MAX_PAYLOAD_BYTES or end > len(data) or zlib.crc32(payload) != checksum:
            break
        records.append((payload, end))
        at = end
    return records

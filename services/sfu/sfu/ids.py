"""Where a node's stages get their ids and random numbers.

It is not a registry: an engine id carries the number of the stage that made it, so nothing is kept.
"""

from __future__ import annotations

import itertools
import secrets

from chassis import ids
from sfu.core.media_events import OWNER_SHIFT

UFRAG_SYMBOLS = 12  # RFC 8445 section 5.3: at least 4 characters; 12 make it unique on a node
PASSWORD_SYMBOLS = 24  # RFC 8445 section 5.3: at least 22 characters


_COUNT = len(ids.ALPHABET)
_SYMBOL_OF_BYTE = bytes(ord(ids.ALPHABET[byte % 64 % _COUNT]) for byte in range(256))
_LEFT_OUT = bytes(byte for byte in range(256) if byte % 64 >= _COUNT)
"""Bytes that would make some symbols likelier than others."""


def text(symbols: int) -> str:
    """Random text of the LiveKit id alphabet, about 5.8 bits a symbol."""
    found = b""
    while len(found) < symbols:
        # All at once: a join needs some eighty symbols, and a call of the kernel for each took 0.3 ms.
        found += secrets.token_bytes(2 * symbols).translate(_SYMBOL_OF_BYTE, _LEFT_OUT)
    return found[:symbols].decode()


class StageIds:
    """The ids of one stage; `owner` is its number on the node, positive and never used twice."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self._engine_ids = itertools.count((owner << OWNER_SHIFT) + 1)

    def sid(self, prefix: str) -> str:
        """`prefix` and 12 random symbols."""
        return prefix + text(ids.SYMBOLS)

    def ice_credentials(self) -> tuple[str, str]:
        """(ufrag, pwd) for one ICE session."""
        return text(UFRAG_SYMBOLS), text(PASSWORD_SYMBOLS)

    def engine_id(self) -> int:
        """The next integer for a peer connection, track or sender."""
        return next(self._engine_ids)

    def number(self, low: int, high: int) -> int:
        """A random integer, both ends included."""
        return low + secrets.randbelow(high - low + 1)

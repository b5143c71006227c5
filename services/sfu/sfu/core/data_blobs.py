"""What one participant stored for the others to get: small contents by key, as long as it is here.

Not for media or history: all of it together is bounded. Source: LiveKit signal protocol.
"""

from __future__ import annotations

from typing import Final

from livekit.protocol import models

MAX_KEY_BYTES: Final = 256
MAX_TOTAL_BYTES: Final = 64_000
"""Keys and contents of one participant together."""


class DataBlobs:
    """The blobs of one participant."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}

    def store(self, blob: models.DataBlob) -> bool:
        """Keep a blob in the place of an older one of its key; False when there is no room for it."""
        key = _name(blob.key)
        others = sum(len(k) + len(c) for k, c in self._blobs.items() if k != key)
        if others + len(key) + len(blob.contents) > MAX_TOTAL_BYTES:
            return False
        self._blobs[key] = blob.contents
        return True

    def get(self, key: models.DataBlobKey) -> models.DataBlob | None:
        """The blob of a key."""
        contents = self._blobs.get(_name(key))
        return None if contents is None else models.DataBlob(key=key, contents=contents)


def is_key(key: models.DataBlobKey) -> bool:
    """Whether a key names something, and is not too long."""
    return key.WhichOneof("key") is not None and 0 < _size(key) <= MAX_KEY_BYTES


def _size(key: models.DataBlobKey) -> int:
    if key.WhichOneof("key") == "generic":
        return len(key.generic.encode())
    return len(key.schema_id.SerializeToString())


def _name(key: models.DataBlobKey) -> bytes:
    return key.SerializeToString(deterministic=True)

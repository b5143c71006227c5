"""How large a participant's name, metadata and attributes may be; a room's metadata counts alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProfileLimits:
    """Sizes in bytes of UTF-8; 0: no limit. Attributes count with their keys, all together."""

    max_metadata_bytes: int = 512 * 1024
    max_attributes_bytes: int = 64 * 1024
    max_name_bytes: int = 256

    def excess(
        self, *, name: str = "", metadata: str = "", attributes: Mapping[str, str] | None = None
    ) -> str | None:
        """What is too large and by how much; None when all fits."""
        pairs = (attributes or {}).items()
        for what, size, limit in (
            ("name", len(name.encode()), self.max_name_bytes),
            ("metadata", len(metadata.encode()), self.max_metadata_bytes),
            (
                "attributes",
                sum(len(key.encode()) + len(value.encode()) for key, value in pairs),
                self.max_attributes_bytes,
            ),
        ):
            if limit and size > limit:
                verb = "are" if what == "attributes" else "is"
                return f"{what} {verb} {size} bytes, the limit is {limit}"
        return None


DEFAULT_LIMITS = ProfileLimits()

"""The form of a backup: compressed JSON lines that begin with their version and end with their number and digest.

    {"roomwright_backup": 1, "made": "2026-11-24T12:00:00Z"}
    {"kind": "room", "name": "lobby", "sid": "RM_...", "record": "<base64>"}
    ...
    {"records": 1, "sha256": "<hex, of the lines before>"}

What it is not: a copy of NATS's streams. It holds what somebody set up or would miss, by kind, so that a later release
can read it and a cluster that runs can take it in.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from roomwright.errors import CommandError

VERSION: Final = 1

Record = dict[str, Any]
"""One line; `kind` says what it is of."""


def write(path: Path, records: Sequence[Record], made: str) -> int:
    """Write the file for its owner alone, all of it or nothing; how many bytes it has. Raises `CommandError`."""
    lines = [json.dumps({"roomwright_backup": VERSION, "made": made})]
    lines += [json.dumps(record, sort_keys=True) for record in records]
    text = "".join(f"{line}\n" for line in lines).encode()
    end = {"records": len(records), "sha256": hashlib.sha256(text).hexdigest()}
    content = gzip.compress(text + json.dumps(end).encode() + b"\n", mtime=0)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    return len(content)


def read(path: Path) -> list[Record]:
    """The records of a whole and unchanged backup. Raises `CommandError`."""
    try:
        text = gzip.decompress(path.read_bytes())
    except OSError as error:
        reason = error.strerror or "it is no backup"
        raise CommandError(f"{path} cannot be read: {reason}") from None
    except (EOFError, zlib.error):
        raise CommandError(f"{path} is cut off or damaged") from None
    head, _, rest = text.partition(b"\n")
    first = _line(head, path)
    if "roomwright_backup" not in first:
        raise CommandError(f"{path} is no backup of Roomwright")
    if first["roomwright_backup"] != VERSION:
        raise CommandError(
            f"{path} is a backup of version {first['roomwright_backup']}, this is for {VERSION}: "
            "restore it with the release that made it, or a later one"
        )
    *lines, last = rest.splitlines() or [b""]
    end = _line(last, path)
    digest = hashlib.sha256(text[: len(text) - len(last) - 1]).hexdigest()
    if end.get("sha256") != digest or end.get("records") != len(lines):
        raise CommandError(f"{path} is cut off or damaged")
    return [_line(line, path) for line in lines]


def _line(text: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CommandError(f"{path} is cut off or damaged")
    return found

"""A queue of payloads that outlives the process: append-only segments in a directory.

What was appended is in the operating system's hands when `append` returns: the end of the process
loses nothing of it, the end of the machine may (nothing is synced to the disk; a pod's directory
does not outlive its machine anyway). The place of the first record not yet removed is noted now and
then, so that some records come twice after a crash: whoever takes them goes by their ids. Its calls
may wait for a disk: call them on a thread.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from chassis.errors import SettingsError
from sfu.core import spooling

SEGMENT_BYTES = 1024 * 1024
NOTE_EVERY = 64  # removals between two notes of the place


class Spool(Protocol):
    """First in, first out. One caller at a time."""

    @property
    def waiting(self) -> int:
        """Payloads appended and not removed."""
        ...

    def append(self, payloads: Sequence[bytes]) -> int:
        """Take as many of them as there is room for, the first ones; how many. Raises OSError."""
        ...

    def read(self, limit: int) -> list[bytes]:
        """The first payloads that wait, up to `limit`; they stay. Raises OSError."""
        ...

    def remove(self) -> None:
        """Forget the first payload of the last `read`."""
        ...

    def close(self) -> None:
        """Nothing is asked of it after this."""
        ...


class MemorySpool:
    """One that ends with the process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._payloads: deque[bytes] = deque()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """See `Spool.waiting`."""
        return len(self._payloads)

    def append(self, payloads: Sequence[bytes]) -> int:
        """See `Spool.append`."""
        for taken, payload in enumerate(payloads):
            if self._bytes + len(payload) > self._max_bytes:
                return taken
            self._payloads.append(payload)
            self._bytes += len(payload)
        return len(payloads)

    def read(self, limit: int) -> list[bytes]:
        """See `Spool.read`."""
        return [payload for payload, _ in zip(self._payloads, range(limit), strict=False)]

    def remove(self) -> None:
        """See `Spool.remove`."""
        self._bytes -= len(self._payloads.popleft())

    def close(self) -> None:
        """See `Spool.close`."""


class DiskSpool:
    """One in a directory, of which it is the only user."""

    def __init__(self, directory: Path, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Continue with what is there. `SettingsError` when the directory cannot be used."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = max(1, min(segment_bytes, max_bytes // 4))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(f"cannot use the spool directory {directory}: {error}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise SettingsError(
                f"the spool directory {directory} is used by another process: give each its own"
            ) from None
        self._sizes = self._found()  # segment number -> bytes, oldest first
        self._first = self._noted()  # of what waits: (segment, position)
        self._ahead: deque[tuple[int, int]] = deque()  # where the records after `_first` end
        self._unnoted = 0
        self._file = -1  # of the newest segment, once something is appended
        self._waiting = 0
        self._count()

    @property
    def waiting(self) -> int:
        """See `Spool.waiting`."""
        return self._waiting

    def append(self, payloads: Sequence[bytes]) -> int:
        """See `Spool.append`."""
        total = sum(self._sizes.values())
        taken = 0
        while taken < len(payloads):
            number = self._open_segment()
            data = bytearray()
            begun = taken
            while taken < len(payloads) and self._sizes[number] + len(data) < self._segment_bytes:
                record = spooling.encode(payloads[taken])
                if total + len(data) + len(record) > self._max_bytes:
                    break
                data += record
                taken += 1
            if taken == begun:
                break
            self._write(number, data)
            self._waiting += taken - begun
            total += len(data)
        return taken

    def read(self, limit: int) -> list[bytes]:
        """See `Spool.read`."""
        found: list[bytes] = []
        self._ahead.clear()
        for number in list(self._sizes):
            if number < self._first[0]:
                continue
            start = self._first[1] if number == self._first[0] else 0
            for payload, end in spooling.decode(self._path(number).read_bytes(), start):
                if len(found) == limit:
                    return found
                found.append(payload)
                self._ahead.append((number, end))
        return found

    def remove(self) -> None:
        """See `Spool.remove`."""
        self._first = self._ahead.popleft()
        self._waiting -= 1
        for number in [n for n in self._sizes if n < self._first[0] or not self._waiting]:
            self._drop(number)
        self._unnoted += 1
        if self._unnoted >= NOTE_EVERY:
            self._note()

    def close(self) -> None:
        """Note the place, and let another process have the directory."""
        self._note()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        os.close(self._lock)

    def _open_segment(self) -> int:
        """The newest segment with room; never one of an earlier process, whose end may be torn."""
        newest = max(self._sizes, default=self._first[0])
        if self._file >= 0 and self._sizes.get(newest, 0) < self._segment_bytes:
            return newest
        if self._file >= 0:
            os.close(self._file)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(self._path(newest + 1), flags, 0o600)
        self._sizes[newest + 1] = 0
        return newest + 1

    def _write(self, number: int, data: bytearray) -> None:
        """All of it or nothing: what was half written would hide what comes after it."""
        before = self._sizes[number]
        written = 0
        try:
            written = os.write(self._file, data)
        finally:
            if written != len(data):
                os.ftruncate(self._file, before)
        if written != len(data):
            raise OSError("the disk is full")
        self._sizes[number] = before + len(data)

    def _drop(self, number: int) -> None:
        newest = max(self._sizes)
        del self._sizes[number]
        if number == newest and self._file >= 0:
            os.close(self._file)
            self._file = -1
        if number == newest:
            self._first = (number, self._first[1])
        self._path(number).unlink(missing_ok=True)

    def _count(self) -> None:
        for number in list(self._sizes):
            if number < self._first[0]:
                self._drop(number)
        for number in self._sizes:
            start = self._first[1] if number == self._first[0] else 0
            self._waiting += len(spooling.decode(self._path(number).read_bytes(), start))
        if not self._waiting:
            for number in list(self._sizes):
                self._drop(number)

    def _found(self) -> dict[int, int]:
        numbers = sorted(
            int(match[1])
            for path in self._directory.iterdir()
            if (match := _SEGMENT.fullmatch(path.name))
        )
        return {number: self._path(number).stat().st_size for number in numbers}

    def _noted(self) -> tuple[int, int]:
        try:
            noted = spooling.decode((self._directory / "first").read_bytes())
            number, position = (int(text) for text in noted[0][0].split())
        except (OSError, IndexError, ValueError):
            return next(iter(self._sizes), 0), 0
        if number not in self._sizes:
            return max(number, next(iter(self._sizes), 0)), 0
        return number, position

    def _note(self) -> None:
        self._unnoted = 0
        place = spooling.encode(b"%d %d" % self._first)
        fresh = self._directory / "first.new"
        fresh.write_bytes(place)
        fresh.replace(self._directory / "first")

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}.facts"


_SEGMENT = re.compile(r"(\d{12})\.facts")

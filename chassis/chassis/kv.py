"""Key-value buckets with revisions: JetStream, and a double in memory.

Decisions are made by compare-and-set (`create`, `update`, `delete` with a revision) and by nothing
else: reads go to the stream's leader, watches are hints. A write without an acknowledgement raises
`OutcomeUnknown`; who needs to know writes a nonce and reads it back.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js import api as jetstream
from nats.js.kv import KeyValue

from chassis.bus import ACK_TIMEOUT_S, NatsBus
from chassis.errors import (
    InvalidKey,
    KeyExists,
    KvUnavailable,
    NotConnected,
    OutcomeUnknown,
    WrongRevision,
)
from chassis.subjects import Bucket

DELETE_MARKER_TTL_S: Final = 3600.0
"""How long a deleted key leaves a trace in the bucket, for watchers that were cut off."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value now. Revisions only grow, across all keys of a bucket."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key is gone."""

    key: str
    revision: int
    """Of its removal; the last one that was told when it went without a trace: the bucket lost data, or the trace
    expired."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A watch has given every value there was when it began; what follows is news."""


Change = Entry | Deleted | CaughtUp


class Kv(Protocol):
    """One bucket."""

    async def get(self, key: str) -> Entry | None:
        """The entry, or None. Raises `KvUnavailable`."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """Write a key that is not there; its revision. Raises `KeyExists`, `OutcomeUnknown`."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Replace exactly that revision; the new one. Raises `WrongRevision`, `OutcomeUnknown`."""
        ...

    async def put(self, key: str, value: bytes) -> int:
        """Write whatever is there; the new revision."""
        ...

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove the key, only at that revision when one is given; no error when it is not there.

        Raises `WrongRevision`, `OutcomeUnknown`.
        """
        ...

    async def keys(self) -> list[str]:
        """Every key there is now, sorted."""
        ...

    async def entries(self, under: str) -> list[Entry]:
        """Every entry now whose key is `path(under, ...)`, sorted by key; others cost nothing."""
        ...

    async def last_revision(self) -> int:
        """The bucket's highest revision so far: one that no later write can have."""
        ...

    def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """Entries there are, `CaughtUp`, then changes as they come, for keys with `prefix`.

        A watch outlives a lost connection: it then gives what changed meanwhile. It may skip
        states that were replaced quickly, never the last one.
        """
        ...


OpenKv = Callable[[Bucket], Awaitable[Kv]]
"""Opens a bucket, making it when it is not there."""


class NatsKv:
    """A bucket on JetStream; made when first used, so opening needs no connection."""

    def __init__(self, bus: NatsBus, bucket: Bucket) -> None:
        self._bus = bus
        self._bucket = bucket
        self._made_for = -1

    async def get(self, key: str) -> Entry | None:
        """See `Kv.get`."""
        store = await self._store()
        try:
            entry = await store.get(encode_key(key), validate_keys=False)
        except nats.js.errors.KeyNotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            raise self._unavailable(error) from error
        return Entry(key, entry.value or b"", entry.revision or 0)

    async def create(self, key: str, value: bytes) -> int:
        """See `Kv.create`."""
        store = await self._store()
        try:
            return await store.create(encode_key(key), value, validate_keys=False)
        except nats.js.errors.KeyWrongLastSequenceError:
            raise KeyExists(f"{self._bucket.name}: {key!r} exists") from None
        except (nats.errors.Error, TimeoutError) as error:
            raise self._write_failed(key, error) from error

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """See `Kv.update`."""
        store = await self._store()
        try:
            return await store.update(encode_key(key), value, revision, validate_keys=False)
        except nats.js.errors.KeyWrongLastSequenceError:
            raise self._wrong_revision(key, revision) from None
        except (nats.errors.Error, TimeoutError) as error:
            raise self._write_failed(key, error) from error

    async def put(self, key: str, value: bytes) -> int:
        """See `Kv.put`."""
        store = await self._store()
        try:
            return await store.put(encode_key(key), value, validate_keys=False)
        except (nats.errors.Error, TimeoutError) as error:
            raise self._write_failed(key, error) from error

    async def delete(self, key: str, revision: int | None = None) -> None:
        """See `Kv.delete`."""
        await self._store()
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        try:
            # The client library's own delete keeps its marker for ever: a leak per room name.
            await self._jetstream().publish(
                f"$KV.{self._bucket.name}.{encode_key(key)}",
                headers=headers,
                msg_ttl=DELETE_MARKER_TTL_S,
            )
        except nats.js.errors.APIError as error:
            if error.err_code in _WRONG_LAST_SEQUENCE:
                raise self._wrong_revision(key, revision or 0) from None
            raise self._write_failed(key, error) from error
        except (nats.errors.Error, TimeoutError) as error:
            raise self._write_failed(key, error) from error

    async def keys(self) -> list[str]:
        """See `Kv.keys`."""
        return [entry.key for entry in await self._entries(">", meta_only=True)]

    async def entries(self, under: str) -> list[Entry]:
        """See `Kv.entries`."""
        return await self._entries(f"{encode_key(under)}.>")

    async def _entries(self, pattern: str, *, meta_only: bool = False) -> list[Entry]:
        store = await self._store()
        found: dict[str, Entry] = {}
        try:
            watcher = await store.watch(pattern, meta_only=meta_only)
            try:
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    async for update in whole(watcher):
                        if update is None:
                            break
                        key = decode_key(update.key)
                        if update.operation not in _REMOVALS:
                            found[key] = Entry(key, update.value or b"", update.revision or 0)
            finally:
                await watcher.stop()  # type: ignore[no-untyped-call]
        except (nats.errors.Error, TimeoutError) as error:
            raise self._unavailable(error) from error
        return [found[key] for key in sorted(found)]

    async def last_revision(self) -> int:
        """See `Kv.last_revision`."""
        await self._store()
        try:
            info = await self._jetstream().stream_info(f"KV_{self._bucket.name}")
        except (nats.errors.Error, TimeoutError) as error:
            raise self._unavailable(error) from error
        return int(info.state.last_seq)

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """See `Kv.watch`."""
        known = _Known(prefix)
        while True:
            connection = self._bus.connections
            try:
                watcher = await (await self._store()).watchall()
            except (nats.errors.Error, TimeoutError, KvUnavailable):
                await self._pause(connection)
                continue
            known.begin()
            try:
                async for entry in self._until_reconnected(watcher, connection):
                    for change in known.learn(entry):
                        yield change
            finally:
                with suppress(nats.errors.Error, TimeoutError):
                    await watcher.stop()  # type: ignore[no-untyped-call]

    async def _until_reconnected(
        self, watcher: KeyValue.KeyWatcher, connection: int
    ) -> AsyncIterator[KeyValue.Entry | None]:
        changed = asyncio.create_task(self._bus.wait_for_reconnection(connection))
        updates = whole(watcher)
        try:
            while not changed.done():
                update = asyncio.ensure_future(anext(updates, _End()))
                try:
                    await asyncio.wait({update, changed}, return_when=asyncio.FIRST_COMPLETED)
                    if not update.done():
                        return
                    entry = update.result()
                finally:
                    update.cancel()
                if isinstance(entry, _End):
                    return
                yield entry
        finally:
            changed.cancel()

    async def _pause(self, connection: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_S):
                await self._bus.wait_for_reconnection(connection)

    async def _store(self) -> KeyValue:
        """The client library's view of the bucket, made once per connection."""
        js = self._jetstream()
        if self._made_for != self._bus.connections:
            connection = self._bus.connections
            try:
                await self._make(js)
            except (nats.errors.Error, TimeoutError) as error:
                raise self._unavailable(error) from error
            self._made_for = connection
        name = self._bucket.name
        return KeyValue(name, f"KV_{name}", f"$KV.{name}.", js, direct=False)

    async def _make(self, js: JetStreamContext) -> None:
        config = jetstream.KeyValueConfig(
            bucket=self._bucket.name,
            history=1,
            max_value_size=self._bucket.max_value_bytes,
            ttl=self._bucket.ttl_s,
            replicas=self._bus.replicas,
            direct=False,
        )
        try:
            await js.create_key_value(config)
        except nats.js.errors.APIError as error:
            # Made already, by a release whose limits were others: it serves as it is.
            if error.err_code != _STREAM_NAME_IN_USE:
                raise

    def _jetstream(self) -> JetStreamContext:
        try:
            return self._bus.jetstream()
        except NotConnected as error:
            raise KvUnavailable(f"{self._bucket.name}: {error}") from None

    def _wrong_revision(self, key: str, revision: int) -> WrongRevision:
        return WrongRevision(f"{self._bucket.name}: {key!r} is not at revision {revision}")

    def _unavailable(self, error: BaseException) -> KvUnavailable:
        return KvUnavailable(f"{self._bucket.name}: {error or type(error).__name__}")

    def _write_failed(self, key: str, error: BaseException) -> KvUnavailable | OutcomeUnknown:
        """Refused writes did not happen; unanswered ones may have."""
        if isinstance(error, nats.js.errors.Error | nats.errors.MaxPayloadError):
            return self._unavailable(error)
        return OutcomeUnknown(f"{self._bucket.name}: no acknowledgement for {key!r}")


async def whole(watcher: KeyValue.KeyWatcher) -> AsyncIterator[KeyValue.Entry | None]:
    """A watcher's updates, with the None that ends the initial values where they do end.

    The client library gives it at once when nothing was looked at yet, also when the server has sent
    values that still wait in the socket: then it belongs behind the last of them.
    """
    is_first, is_early = True, False
    async for update in watcher:
        if update is None and is_first:
            is_first, is_early = False, await _has_more(watcher)
            if is_early:
                continue
        is_first = False
        yield update
        if is_early and update is not None and not update.delta:
            is_early = False
            yield None


async def _has_more(watcher: KeyValue.KeyWatcher) -> bool:
    """Did the server send values before the watcher gave any?"""
    assert watcher._sub is not None  # the library sets it before it gives a watcher
    try:
        info = await watcher._sub.consumer_info()
    except (nats.errors.Error, TimeoutError):
        return False  # the connection is going, and the watch will begin anew
    sent = info.delivered.consumer_seq if info.delivered else 0
    return bool(sent or info.num_pending)


class _End:
    """What the client library's watcher gives when it is over."""


class _Known:
    """What a watch has told so far; turns the client library's updates into changes.

    The library's watcher begins anew after a reconnection. What it repeats is no news, and what it
    does not repeat is gone.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._revisions: dict[str, int] = {}
        self._fresh: set[str] = set()
        self._caught_up = False

    def begin(self) -> None:
        """A watcher begins: it will repeat everything that is there, then end it with None."""
        self._fresh.clear()

    def learn(self, update: KeyValue.Entry | None) -> list[Change]:
        """The changes that one update means; None ends the initial values."""
        if update is None:
            return self._settle()
        key, revision = decode_key(update.key), update.revision or 0
        if not key.startswith(self._prefix):
            return []
        if update.operation in _REMOVALS:
            known = self._revisions.pop(key, None)
            return [] if known is None else [Deleted(key, revision)]
        self._fresh.add(key)
        if self._revisions.get(key) == revision:
            return []
        self._revisions[key] = revision
        return [Entry(key, update.value or b"", revision)]

    def _settle(self) -> list[Change]:
        gone = sorted(self._revisions.keys() - self._fresh)
        changes: list[Change] = [Deleted(key, self._revisions.pop(key)) for key in gone]
        if not self._caught_up:
            self._caught_up = True
            changes.append(CaughtUp())
        return changes


class MemoryKv:
    """A bucket inside one process, for tests; `available` can be switched off to act an outage."""

    def __init__(self, bucket: Bucket) -> None:
        self.available = True
        self._bucket = bucket
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._watchers: list[asyncio.Queue[Change]] = []

    async def get(self, key: str) -> Entry | None:
        """See `Kv.get`."""
        encode_key(key)
        self._require()
        return self._entries.get(key)

    async def create(self, key: str, value: bytes) -> int:
        """See `Kv.create`."""
        encode_key(key)
        self._require(value)
        if key in self._entries:
            raise KeyExists(f"{self._bucket.name}: {key!r} exists")
        return self._write(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """See `Kv.update`."""
        encode_key(key)
        self._require(value)
        self._require_revision(key, revision)
        return self._write(key, value)

    async def put(self, key: str, value: bytes) -> int:
        """See `Kv.put`."""
        encode_key(key)
        self._require(value)
        return self._write(key, value)

    async def delete(self, key: str, revision: int | None = None) -> None:
        """See `Kv.delete`."""
        encode_key(key)
        self._require()
        if revision is not None:
            self._require_revision(key, revision)
        self._revision += 1
        if self._entries.pop(key, None) is not None:
            self._tell(Deleted(key, self._revision))

    async def keys(self) -> list[str]:
        """See `Kv.keys`."""
        self._require()
        return sorted(self._entries)

    async def entries(self, under: str) -> list[Entry]:
        """See `Kv.entries`."""
        self._require()
        return [
            self._entries[key] for key in sorted(self._entries) if key.startswith(under + _LEVEL)
        ]

    async def last_revision(self) -> int:
        """See `Kv.last_revision`."""
        self._require()
        return self._revision

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """See `Kv.watch`."""
        changes: asyncio.Queue[Change] = asyncio.Queue()
        for entry in sorted(self._entries.values(), key=lambda entry: entry.revision):
            changes.put_nowait(entry)
        changes.put_nowait(CaughtUp())
        self._watchers.append(changes)
        try:
            while True:
                change = await changes.get()
                if isinstance(change, CaughtUp) or change.key.startswith(prefix):
                    yield change
        finally:
            self._watchers.remove(changes)

    def _write(self, key: str, value: bytes) -> int:
        self._revision += 1
        self._entries[key] = Entry(key, value, self._revision)
        self._tell(self._entries[key])
        return self._revision

    def _tell(self, change: Change) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(change)

    def _require(self, value: bytes = b"") -> None:
        if not self.available:
            raise KvUnavailable(f"{self._bucket.name}: no connection to the bus")
        if len(value) > self._bucket.max_value_bytes:
            raise KvUnavailable(f"{self._bucket.name}: the value is too large")

    def _require_revision(self, key: str, revision: int) -> None:
        entry = self._entries.get(key)
        if entry is None or entry.revision != revision:
            raise WrongRevision(f"{self._bucket.name}: {key!r} is not at revision {revision}")


def nats_buckets(bus: NatsBus) -> OpenKv:
    """Buckets of a NATS server."""

    async def open_kv(bucket: Bucket) -> Kv:
        return NatsKv(bus, bucket)

    return open_kv


def memory_buckets() -> OpenKv:
    """Buckets in memory: the same one for the same name."""
    opened: dict[str, MemoryKv] = {}

    async def open_kv(bucket: Bucket) -> Kv:
        return opened.setdefault(bucket.name, MemoryKv(bucket))

    return open_kv


def path(*names: str) -> str:
    """A key below another: `path(room, sid)` is among `entries(path(room))`; any names will do."""
    return _LEVEL.join(name.replace("%", "%25").replace(_LEVEL, "%1F") for name in names)


def encode_key(key: str) -> str:
    """A key as NATS allows it, a token for each level: itself if possible, else `=` and base64url.

    Raises `InvalidKey`: the server ends the connection of who names a subject that is too long.
    """
    encoded = ".".join(_encode_level(level) for level in key.split(_LEVEL))
    if len(encoded) > MAX_KEY_CHARACTERS:
        raise InvalidKey(f"a key of {len(encoded)} characters: {MAX_KEY_CHARACTERS} at most")
    return encoded


def decode_key(encoded: str) -> str:
    """The inverse of `encode_key`."""
    return _LEVEL.join(_decode_level(level) for level in encoded.split("."))


def _encode_level(level: str) -> str:
    if _PLAIN_KEY.fullmatch(level):
        return level
    return "=" + base64.urlsafe_b64encode(level.encode()).rstrip(b"=").decode()


def _decode_level(encoded: str) -> str:
    if not encoded.startswith("="):
        return encoded
    text = encoded[1:]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


MAX_KEY_CHARACTERS: Final = 2000
"""Encoded. A whole protocol line of NATS has 4096 bytes unless its server is told otherwise."""
_LEVEL: Final = "\x1f"  # ASCII unit separator: in no key that was not made by `path`
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_REMOVALS: Final = ("DEL", "PURGE")
_RETRY_S: Final = 0.5
_STREAM_NAME_IN_USE: Final = 10058
_WRONG_LAST_SEQUENCE: Final = (10071, 10164)

"""`roomwright backup` and `restore`: what a cluster holds beside calls, in one file, while everything runs."""

from __future__ import annotations

import argparse
import base64
import hashlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from livekit.protocol import models as lk
from livekit.protocol.room import RoomConfiguration

from chassis import subjects
from chassis.errors import ChassisError, KeyExists, SettingsError
from chassis.kv import Kv, path
from chassis.run import run_loop
from chassis.settings import parse_keys
from contracts.access.v1 import access_pb2
from contracts.placement.v1 import placement_pb2
from contracts.room.v1 import checkpoint_pb2
from roomwright import backup, connection
from roomwright.backup import Record
from roomwright.connection import Connection
from roomwright.errors import CommandError

SCHEMA: Final = 1
PERSISTENT: Final = "roomwright.persistent"
NOBODY: Final = "ND_restored"
"""Holds the lease of a room that was restored: no node has this id, so that the room is given to one that lives."""


def add_to(commands: Any) -> None:
    """Declare the commands."""
    save = commands.add_parser(
        "backup",
        help="save what the cluster holds beside calls",
        description="Saves persistent rooms, API keys (without their secrets), revocations and the dead letters of "
        "webhooks, while everything runs. Calls and their history are not in it.",
    )
    save.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=Path(),
        help="a file, or a directory for roomwright-<time>.jsonl.gz (default: here)",
    )
    save.add_argument(
        "--keep",
        type=int,
        default=0,
        metavar="N",
        help="of the directory's files of such names, remove all but the newest N",
    )
    save.add_argument(
        "--with-secrets",
        action="store_true",
        help="put the secrets of API keys into the file, too: whoever reads it makes tokens for anybody",
    )
    save.set_defaults(run=lambda options: _run(options, _save))

    restore = commands.add_parser(
        "restore",
        help="bring back what a backup holds",
        description="Adds what is not there. What is there stays as it is, so that it can be done again at any time.",
    )
    restore.add_argument("file", type=Path)
    restore.add_argument(
        "--keys-file",
        type=Path,
        metavar="FILE",
        help="`key: secret` lines: the secrets of the keys whose secrets the backup does not hold",
    )
    restore.add_argument(
        "--dry-run", action="store_true", help="check the file and say what it holds"
    )
    restore.set_defaults(run=_restore_or_show)
    for command in (save, restore):
        connection.add_flags(command)


def _run(options: argparse.Namespace, action: Callable[[Connection, Any], Awaitable[None]]) -> None:
    async def connected() -> None:
        async with connection.connected(options) as opened:
            try:
                await action(opened, options)
            except ChassisError as error:
                raise CommandError(f"NATS: {error}") from None

    run_loop(connected())


# ------------------------------------------------------------------------------------------ save


async def _save(opened: Connection, options: argparse.Namespace) -> None:
    made = datetime.fromtimestamp(int(time.time()), UTC)
    file = _place(options.file, options.keep, f"{made:%Y%m%dT%H%M%SZ}")
    records = [record async for record in _records(opened, options.with_secrets)]
    size = backup.write(file, records, f"{made:%Y-%m-%dT%H:%M:%SZ}")
    _say(f"{file}: {_counted(records)}; {size} bytes")
    if options.keep:
        _remove_older(file.parent, options.keep)


def _place(given: Path, keep: int, time_text: str) -> Path:
    if given.is_dir():
        return given / f"roomwright-{time_text}.jsonl.gz"
    if keep:
        raise CommandError(f"--keep is for a directory, and {given} is none")
    return given


def _remove_older(directory: Path, keep: int) -> None:
    """Of the backups named by their time, all but the newest; called when the last one is whole."""
    for old in sorted(directory.glob("roomwright-*Z.jsonl.gz"))[:-keep]:
        old.unlink()
        _say(f"{old}: removed, {keep} are kept")


async def _records(opened: Connection, with_secrets: bool) -> AsyncIterator[Record]:
    async for name, value in _entries(await opened.kv(subjects.CHECKPOINTS)):
        room = _persistent_room(value)
        if room is not None:
            yield {"kind": "room", "name": name, "sid": room.sid, "record": _text(value)}
    async for name, value in _entries(await opened.kv(subjects.KEYS)):
        key = access_pb2.KeyRecord.FromString(value)
        has_secret = bool(key.secret)
        if not with_secrets:
            key.secret = ""
        yield {
            "kind": "key",
            "name": name,
            "record": _text(key.SerializeToString()),
            "needs_secret": has_secret and not with_secrets,
        }
    async for name, value in _entries(await opened.kv(subjects.REVOCATIONS)):
        yield {"kind": "revocation", "name": name, "record": _text(value)}
    async for letter in opened.messages(subjects.WEBHOOKS_DEAD):
        yield {"kind": "dead_letter", "name": letter.subject, "record": _text(letter.data)}


async def _entries(bucket: Kv) -> AsyncIterator[tuple[str, bytes]]:
    for key in await bucket.keys():
        entry = await bucket.get(key)
        if entry is not None:
            yield key, entry.value


def _persistent_room(value: bytes) -> lk.Room | None:
    """The room of a checkpoint, when it is one of a persistent room and not of a participant."""
    try:
        saved = checkpoint_pb2.RoomCheckpoint.FromString(value)
        tags = RoomConfiguration.FromString(saved.configuration).tags
        return lk.Room.FromString(saved.room) if tags.get(PERSISTENT) == "true" else None
    except DecodeError:
        return None


# --------------------------------------------------------------------------------------- restore


@dataclass(slots=True)
class _Done:
    """What a restore did."""

    added: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    keys_without_secret: list[str] = field(default_factory=list)

    def count(self, kind: str, is_added: bool) -> None:
        """One record more."""
        (self.added if is_added else self.there)[kind] += 1


def _restore_or_show(options: argparse.Namespace) -> None:
    records = backup.read(options.file)
    if options.dry_run:
        _say(f"{options.file}: {_counted(records)}")
        return
    secrets = _secrets(options.keys_file)

    async def restore(opened: Connection, _: argparse.Namespace) -> None:
        await _restore(opened, records, secrets)

    _run(options, restore)


async def _restore(opened: Connection, records: list[Record], secrets: dict[str, str]) -> None:
    done = _Done()
    for record in records:
        value = _bytes(record)
        if record["kind"] == "room":
            done.count("room", await _restore_room(opened, record, value))
        elif record["kind"] == "key":
            await _restore_key(opened, record, value, secrets, done)
        elif record["kind"] == "revocation":
            bucket = await opened.kv(subjects.REVOCATIONS)
            done.count("revocation", await _create(bucket, record["name"], value))
    await _restore_letters(opened, records, done)
    _say(f"restored: {_words(done.added)}; there already: {_words(done.there)}")
    if done.keys_without_secret:
        names = ", ".join(done.keys_without_secret)
        _say(
            f"not restored, since the backup does not hold their secrets: API keys {names}; "
            "run this again with --keys-file, or add them with `roomwright keys add`"
        )


async def _restore_room(opened: Connection, record: Record, value: bytes) -> bool:
    """Its record first: a lease without one would make an empty room of the name."""
    rooms = await opened.kv(subjects.ROOMS)
    name = record["name"]
    if await rooms.get(path(name)) is not None:
        return False  # a room of this name lives
    saved = checkpoint_pb2.RoomCheckpoint.FromString(value)
    saved.epoch = 0  # any lease is newer
    checkpoints = await opened.kv(subjects.CHECKPOINTS)
    await checkpoints.put(path(name), saved.SerializeToString())
    lease = placement_pb2.Lease(room_name=name, room_sid=record["sid"], node_id=NOBODY)
    held = placement_pb2.RoomRecord(schema=SCHEMA, lease=lease)
    return await _create(rooms, path(name), held.SerializeToString())


async def _restore_key(
    opened: Connection, record: Record, value: bytes, secrets: dict[str, str], done: _Done
) -> None:
    bucket, name = await opened.kv(subjects.KEYS), record["name"]
    key = access_pb2.KeyRecord.FromString(value)
    if record.get("needs_secret"):
        if await bucket.get(name) is not None:
            done.count("key", is_added=False)
            return
        if name not in secrets:
            done.keys_without_secret.append(name)
            return
        key.secret = secrets[name]
    done.count("key", await _create(bucket, name, key.SerializeToString()))


async def _restore_letters(opened: Connection, records: list[Record], done: _Done) -> None:
    wanted = [record for record in records if record["kind"] == "dead_letter"]
    if not wanted:
        return
    await opened.bus.open_stream(subjects.WEBHOOKS_DEAD)
    there = {_digest(letter.data) async for letter in opened.messages(subjects.WEBHOOKS_DEAD)}
    for record in wanted:
        value = _bytes(record)
        digest = _digest(value)
        if digest not in there:
            await opened.bus.publish_durable(record["name"], value, digest)
        done.count("dead_letter", digest not in there)


async def _create(bucket: Kv, key: str, value: bytes) -> bool:
    try:
        await bucket.create(key, value)
    except KeyExists:
        return False
    return True


def _secrets(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        return parse_keys(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--keys-file {file}: {error.__class__.__name__}") from None
    except SettingsError as error:
        raise CommandError(f"--keys-file {file}: {error}") from None


# ----------------------------------------------------------------------------------------- words


_PLURALS: Final = {
    "room": "rooms",
    "key": "API keys",
    "revocation": "revocations",
    "dead_letter": "dead letters",
}


def _counted(records: list[Record]) -> str:
    return _words(Counter(record["kind"] for record in records))


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[kind]} {plural}" for kind, plural in _PLURALS.items())


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(record: Record) -> bytes:
    return base64.b64decode(record["record"])


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")

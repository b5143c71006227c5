"""How the commands for operators reach NATS: a server of a cluster, or that of a `roomwright dev`.

The flags of every such command are added here. What it is not: a way around permissions; on a cluster the user
given is to be the operator's own (`admin`).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chassis import logs
from chassis.bus import Message, NatsBus
from chassis.errors import BusError
from chassis.kv import OpenKv, nats_buckets
from chassis.subjects import Stream
from roomwright.errors import CommandError
from roomwright.nats_server import connection_file

URL_VARIABLE: Final = "ROOMWRIGHT_NATS_URL"
USER_VARIABLE: Final = "ROOMWRIGHT_NATS_USER"
PASSWORD_VARIABLE: Final = "ROOMWRIGHT_NATS_PASSWORD"
CONNECT_S: Final = 5.0
READ_BATCH: Final = 500
READ_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A connected bus and its buckets."""

    bus: NatsBus
    kv: OpenKv

    async def messages(self, stream: Stream) -> AsyncIterator[Message]:
        """What the stream has now, in order; nothing when there is no such stream yet."""
        try:
            ends = await self.bus.stream_ends(stream)
        except BusError:
            return
        reader = self.bus.open_reader(stream, stream.subjects, ends.first)
        try:
            place = ends.first - 1
            while place < ends.last:
                messages = await reader.read(READ_BATCH, READ_WAIT_S)
                if not messages:
                    return
                for message in messages:
                    place = message.sequence
                    if place <= ends.last:
                        yield message
        finally:
            await reader.close()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where NATS is, and as whom to connect."""
    add = parser.add_argument
    add(
        "--nats",
        metavar="URL",
        help=f"nats://host:4222; also {URL_VARIABLE} (default: of --data-dir)",
    )
    add("--nats-user", metavar="NAME", help=f"also {USER_VARIABLE}")
    add(
        "--nats-password-file",
        type=Path,
        metavar="FILE",
        help=f"holds the password, which {PASSWORD_VARIABLE} can hold, too",
    )
    add(
        "--data-dir",
        type=Path,
        default=Path(".roomwright"),
        metavar="DIR",
        help="without --nats: that of a running `roomwright dev` (default .roomwright)",
    )


@asynccontextmanager
async def connected(options: argparse.Namespace) -> AsyncIterator[Connection]:
    """Connect as the flags say. Raises `CommandError` when nothing answers there."""
    logs.configure(json=False, level="warning")
    url, user, password = _found(options)
    bus = NatsBus(url, user=user, password=password, name="roomwright command")
    await bus.start(wait_s=CONNECT_S)
    try:
        if not bus.connected:
            raise CommandError(f"no NATS answers at {url}: is it running, and is the user right?")
        yield Connection(bus, nats_buckets(bus))
    finally:
        await bus.close()


def _found(options: argparse.Namespace) -> tuple[str, str, str]:
    url = options.nats or os.environ.get(URL_VARIABLE, "")
    if not url:
        return _of_dev(options.data_dir)
    user = options.nats_user or os.environ.get(USER_VARIABLE, "")
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if options.nats_password_file is not None:
        try:
            password = options.nats_password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.__class__.__name__
            raise CommandError(
                f"--nats-password-file {options.nats_password_file}: {reason}"
            ) from None
    return url, user, password


def _of_dev(data_dir: Path) -> tuple[str, str, str]:
    try:
        found = json.loads(connection_file(data_dir / "nats").read_text(encoding="utf-8"))
        return str(found["url"]), str(found["user"]), str(found["password"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CommandError(
            f"no `roomwright dev` runs with --data-dir {data_dir}: give the address of NATS with "
            f"--nats or {URL_VARIABLE}"
        ) from None

"""`roomwright keys`: API keys of the whole cluster, changed while it runs."""

from __future__ import annotations

import argparse
import secrets
import string
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chassis import subjects
from chassis.errors import ChassisError, KeyExists
from chassis.kv import Kv
from chassis.run import run_loop
from chassis.settings import MIN_SECRET_CHARACTERS
from contracts.access.v1 import access_pb2
from roomwright import connection
from roomwright.errors import CommandError
from roomwright.token_command import seconds

SCHEMA: Final = 1
SECRET_CHARACTERS: Final = 48

Action = Callable[[Kv, argparse.Namespace], Awaitable[None]]


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "keys",
        help="add, end and remove API keys while everything runs",
        description="API keys that every service knows within a second, beside those of settings and Secrets. "
        "To replace a key: add the new one, let your backend sign with it, then end the old one.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    add = actions.add_parser(
        "add", help="a new key; its secret is printed once, unless it is given"
    )
    add.add_argument("key", help="its name: letters, digits, - and _")
    add.add_argument("--project", default="", help="the namespace of its rooms")
    add.add_argument("--secret-file", type=Path, metavar="FILE", help="holds the secret")
    add.add_argument("--valid-for", default="", metavar="TIME", help="30s, 15m, 6h or 7d")

    actions.add_parser("list", help="the keys of the cluster, without their secrets")

    end = actions.add_parser("disable", help="refuse a key from now on, or from some time on")
    end.add_argument("key")
    end.add_argument("--in", dest="delay", default="", metavar="TIME", help="30s, 15m, 6h or 7d")

    enable = actions.add_parser("enable", help="take it again")
    enable.add_argument("key")

    remove = actions.add_parser("remove", help="forget a key; one of settings or a Secret stays")
    remove.add_argument("key")

    for name, action in _ACTIONS.items():
        one = actions.choices[name]
        connection.add_flags(one)
        one.set_defaults(run=lambda options, action=action: _run(options, action))


def _run(options: argparse.Namespace, action: Action) -> None:
    async def connected() -> None:
        async with connection.connected(options) as opened:
            try:
                await action(await opened.kv(subjects.KEYS), options)
            except ChassisError as error:
                raise CommandError(f"NATS: {error}") from None

    run_loop(connected())


async def _add(bucket: Kv, options: argparse.Namespace) -> None:
    _require_name(options.key)
    given = _secret_of(options.secret_file) if options.secret_file is not None else ""
    secret = given or _new_secret()
    record = access_pb2.KeyRecord(
        schema=SCHEMA,
        secret=secret,
        project=_project(options.project),
        not_after=_later(options.valid_for),
    )
    try:
        await bucket.create(options.key, record.SerializeToString())
    except KeyExists:
        raise CommandError(f"there is a key {options.key!r} already: remove it first") from None
    if not given:
        _say(f"{options.key}: {secret}")


async def _list(bucket: Kv, _options: argparse.Namespace) -> None:
    names = await bucket.keys()
    for name in names:
        record = await _record(bucket, name)
        state = "disabled" if record.disabled else "good"
        if not record.disabled and record.not_after:
            state = f"until {datetime.fromtimestamp(record.not_after, UTC):%Y-%m-%d %H:%M:%SZ}"
        where = "" if record.secret else ", given by settings or a Secret"
        project = f"project {record.project}" if record.project else "no project"
        _say(f"{name}  {project}  {state}{where}")
    if not names:
        _say("the cluster has no keys beside those of settings and Secrets")


async def _disable(bucket: Kv, options: argparse.Namespace) -> None:
    _require_name(options.key)
    record = await _record(bucket, options.key)
    record.schema = SCHEMA
    if options.delay:
        record.not_after = _later(options.delay)
    else:
        record.disabled = True
    await bucket.put(options.key, record.SerializeToString())


async def _enable(bucket: Kv, options: argparse.Namespace) -> None:
    record = await _record(bucket, options.key)
    record.disabled, record.not_after = False, 0
    if record.secret:
        await bucket.put(options.key, record.SerializeToString())
    else:
        await bucket.delete(options.key)


async def _remove(bucket: Kv, options: argparse.Namespace) -> None:
    if await bucket.get(options.key) is None:
        raise CommandError(
            f"the cluster has no key {options.key!r}; one of settings is disabled instead"
        )
    await bucket.delete(options.key)


async def _record(bucket: Kv, name: str) -> access_pb2.KeyRecord:
    entry = await bucket.get(name)
    return access_pb2.KeyRecord.FromString(b"" if entry is None else entry.value)


def _require_name(name: str) -> None:
    if not name or not all(char.isascii() and (char.isalnum() or char in "-_") for char in name):
        raise CommandError(f"{name!r} is no name for a key: letters, digits, - and _ alone")


def _project(name: str) -> str:
    if name and not name.isprintable():
        raise CommandError("a project's name is printable text")
    return name


def _secret_of(path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--secret-file {path}: {error.__class__.__name__}") from None
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise CommandError(f"the secret is shorter than {MIN_SECRET_CHARACTERS} characters")
    return secret


def _new_secret() -> str:
    return "".join(
        secrets.choice(string.ascii_letters + string.digits) for _ in range(SECRET_CHARACTERS)
    )


def _later(duration: str) -> int:
    return int(time.time() + seconds(duration)) if duration else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


_ACTIONS: Final[dict[str, Action]] = {
    "add": _add,
    "list": _list,
    "disable": _disable,
    "enable": _enable,
    "remove": _remove,
}

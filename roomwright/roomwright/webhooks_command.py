"""`roomwright webhooks`: how webhooks fare, which nobody took, and telling them again."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError

from chassis import subjects
from chassis.errors import ChassisError
from chassis.run import run_loop
from contracts.events.v1 import events_pb2
from contracts.webhook.v1 import webhook_pb2
from roomwright import connection
from roomwright.connection import Connection
from roomwright.errors import CommandError
from roomwright.token_command import seconds


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "webhooks",
        help="see how webhooks fare, and tell some again",
        description="Shows how far webhook targets have got, lists dead letters, and tells facts again.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    status = actions.add_parser("status", help="each target: what waits, what fails")
    status.set_defaults(run=lambda options: _run(options, _status))

    dead = actions.add_parser("dead", help="list the dead letters, oldest first")
    _add_choice(dead)
    dead.set_defaults(run=lambda options: _run(options, _dead))

    replay = actions.add_parser(
        "replay",
        help="tell facts again",
        description="Tells facts again: dead letters (--dead) to the target that did not take them, or those of "
        "the last 7 days to every target, or to one. They keep their ids; each run tells them once more.",
    )
    replay.add_argument("--dead", action="store_true", help="dead letters, not the stream's facts")
    _add_choice(replay)
    replay.set_defaults(run=lambda options: _run(options, _replay))
    for action in (status, dead, replay):
        connection.add_flags(action)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", default="", metavar="ID", help="of or to this target alone; see `status`")
    add("--room", default="", help="of this room alone")
    add("--event", default="", metavar="NAME", help="room_started, participant_left, ... alone")
    add("--since", default="", metavar="TIME", help="not older than 30s, 15m, 2h or 7d")


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which facts are meant."""

    target: str
    room: str
    event: str
    since: float

    @classmethod
    def of(cls, options: argparse.Namespace) -> _Choice:
        """From flags."""
        since = time.time() - seconds(options.since) if options.since else 0.0
        return cls(options.target, options.room, options.event, since)

    def takes(self, fact: events_pb2.RoomEvent) -> bool:
        """Is this fact meant?"""
        return (
            not fact.replay_to
            and self.room in ("", fact.room_name)
            and self.event in ("", fact.name)
            and fact.created_at >= self.since
        )


def _run(options: argparse.Namespace, action: Any) -> None:
    async def connected() -> None:
        async with connection.connected(options) as opened:
            try:
                await action(opened, options)
            except ChassisError as error:
                raise CommandError(f"NATS: {error}") from None

    run_loop(connected())


async def _status(opened: Connection, _: argparse.Namespace) -> None:
    bucket = await opened.kv(subjects.WEBHOOK_PROGRESS)
    last = (await opened.bus.stream_ends(subjects.EVENTS)).last
    targets: dict[str, list[webhook_pb2.ProgressRecord]] = {}
    for key in await bucket.keys():
        entry = await bucket.get(key)
        if entry is not None:
            record = webhook_pb2.ProgressRecord.FromString(entry.value)
            targets.setdefault(key.partition("\x1f")[0], []).append(record)
    if not targets:
        _say("no target has been told anything yet")
    for target, records in sorted(targets.items()):
        waiting = sum(len(record.pending) for record in records)
        failures = max(record.failures for record in records)
        error = next((record.last_error for record in records if record.last_error), "")
        state = f"failing ({failures} in a row: {error})" if failures else "well"
        if error and not failures:
            state = f"well; last error: {error}"
        read = min(record.read for record in records)
        _say(f"{target}  {records[0].url}  {waiting} waiting, read to {read} of {last}, {state}")


async def _dead(opened: Connection, options: argparse.Namespace) -> None:
    count = 0
    async for letter, fact in _letters(opened, options):
        count += 1
        died = _time(letter.died_at)
        _say(
            f"{died}  {letter.target}  {fact.id}  {fact.name}  room {fact.room_name!r}  "
            f"after {letter.attempts} attempts: {letter.reason}"
        )
    _say(f"{count} dead letters" if count != 1 else "1 dead letter")


async def _replay(opened: Connection, options: argparse.Namespace) -> None:
    facts = (
        [(fact, letter.target) async for letter, fact in _letters(opened, options)]
        if options.dead
        else [(fact, options.target or "*") async for fact in _facts(opened, options)]
    )
    run = secrets.token_hex(4)
    for number, (fact, target) in enumerate(facts, start=1):
        again = events_pb2.RoomEvent()
        again.CopyFrom(fact)
        again.replay_to = target
        subject = subjects.event_subject(fact.room_name, fact.name)
        message_id = f"{fact.id}.{target}.{run}"
        await opened.bus.publish_durable(subject, again.SerializeToString(), message_id)
        if number % 1000 == 0:
            _say(f"{number} of {len(facts)} told again")
    _say("1 fact is told again" if len(facts) == 1 else f"{len(facts)} facts are told again")


async def _letters(
    opened: Connection, options: argparse.Namespace
) -> AsyncIterator[tuple[webhook_pb2.DeadLetter, events_pb2.RoomEvent]]:
    choice = _Choice.of(options)
    async for message in opened.messages(subjects.WEBHOOKS_DEAD):
        try:
            letter = webhook_pb2.DeadLetter.FromString(message.data)
            fact = events_pb2.RoomEvent.FromString(letter.event)
        except DecodeError:
            continue  # of a later release
        fact.replay_to = ""
        if choice.takes(fact) and choice.target in ("", letter.target):
            yield letter, fact


async def _facts(
    opened: Connection, options: argparse.Namespace
) -> AsyncIterator[events_pb2.RoomEvent]:
    choice = _Choice.of(options)
    async for message in opened.messages(subjects.EVENTS):
        try:
            fact = events_pb2.RoomEvent.FromString(message.data)
        except DecodeError:
            continue  # of a later release
        if choice.takes(fact):
            yield fact


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")

"""Who may do what on NATS: one table, from which the chart's server configuration is made.

Each service is a user of its own with an inbox of its own: it makes and uses the buckets and streams of its row, and
can neither read nor write what is not there. What it is not: authentication between the services (`chassis.rpc`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from chassis.subjects import (
    CHECKPOINTS,
    EVENTS,
    KEYS,
    NODES,
    REVOCATIONS,
    ROOM_TAKEN_OVER,
    ROOMS,
    WEBHOOK_PROGRESS,
    WEBHOOK_SHARDS,
    WEBHOOKS_DEAD,
    Bucket,
    Stream,
)

INBOX: Final = "_INBOX"


@dataclass(frozen=True, slots=True)
class User:
    """What one user of the bus needs."""

    writes: tuple[Bucket, ...] = ()
    """Buckets whose keys it reads, watches and writes; it makes them when they are not there."""
    reads: tuple[Bucket, ...] = ()
    """Buckets it reads and watches, and makes when they are not there; it writes no key."""
    publishes: tuple[Stream, ...] = ()
    """Streams it makes and appends to, and does not read."""
    follows: tuple[Stream, ...] = ()
    """Streams it reads, and makes when they are not there; it appends nothing."""
    tells: tuple[str, ...] = ()
    """Subjects of passing news that it publishes."""
    hears: tuple[str, ...] = ()
    """Subjects of passing news that it listens to."""
    may_everything: bool = False
    """The operator's own user."""


USERS: Final[Mapping[str, User]] = {
    "signaling": User(
        reads=(KEYS,), writes=(REVOCATIONS,), follows=(EVENTS,), hears=(ROOM_TAKEN_OVER,)
    ),
    "placement": User(reads=(NODES,), writes=(ROOMS,), tells=(ROOM_TAKEN_OVER,)),
    "sfu": User(reads=(KEYS,), writes=(NODES, CHECKPOINTS), publishes=(EVENTS,)),
    "webhook": User(
        reads=(KEYS,),
        writes=(WEBHOOK_SHARDS, WEBHOOK_PROGRESS),
        follows=(EVENTS,),
        publishes=(WEBHOOKS_DEAD,),
    ),
    "admin": User(may_everything=True),
}


def inbox_prefix(user: str) -> str:
    """Under which a user's answers come, so that nobody else can listen to them."""
    return f"{INBOX}.{user}" if user else INBOX


def may_publish(name: str) -> tuple[str, ...]:
    """Subjects the user may publish to."""
    user = USERS[name]
    if user.may_everything:
        return (">",)
    return tuple(dict.fromkeys(_publish(user)))


def may_subscribe(name: str) -> tuple[str, ...]:
    """Subjects the user may subscribe to."""
    user = USERS[name]
    return (">",) if user.may_everything else (f"{inbox_prefix(name)}.>", *user.hears)


def server_users() -> str:
    """The `authorization` block of nats-server's configuration; passwords come from its environment."""
    lines = ["authorization {", "  users: ["]
    for name in USERS:
        lines += [
            "    {",
            f"      user: {name}",
            f"      password: $NATS_{name.upper()}_PASSWORD",
            "      permissions: {",
            f"        publish: {_permission(may_publish(name))}",
            f"        subscribe: {_permission(may_subscribe(name))}",
            "      }",
            "    }",
        ]
    return "\n".join([*lines, "  ]", "}", ""])


def _publish(user: User) -> Iterator[str]:
    for bucket in (*user.writes, *user.reads):
        stream = f"KV_{bucket.name}"
        yield from _make(stream)
        yield from _read(stream)
    for bucket in user.writes:
        yield f"$KV.{bucket.name}.>"
    for events in user.publishes:
        yield from _make(events.name)
        yield from events.subjects
    for followed in user.follows:
        yield from _make(followed.name)
        yield from _read(followed.name)
        yield f"$JS.API.CONSUMER.MSG.NEXT.{followed.name}.>"
    yield from user.tells


def _make(stream: str) -> Iterator[str]:
    for verb in ("CREATE", "UPDATE", "INFO"):
        yield f"$JS.API.STREAM.{verb}.{stream}"


def _read(stream: str) -> Iterator[str]:
    yield f"$JS.API.STREAM.MSG.GET.{stream}"
    # Watches are consumers that live as long as the watch.
    yield f"$JS.API.CONSUMER.CREATE.{stream}"
    for verb in ("CREATE", "INFO", "DELETE"):
        yield f"$JS.API.CONSUMER.{verb}.{stream}.>"
    yield f"$JS.ACK.{stream}.>"
    yield f"$JS.FC.{stream}.>"


def _permission(subjects: tuple[str, ...]) -> str:
    # An empty list of allowed subjects would allow all of them.
    if not subjects:
        return '{ deny: [">"] }'
    return "[" + ", ".join(f'"{subject}"' for subject in subjects) + "]"

"""What the Secrets of an installation hold, and what is to be done to one: make, add to, or leave.

An entry that is there is never changed: pods, clients and NATS already know it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Choose = Callable[[str], str]
"""One of these characters at random, of cryptographic quality."""

MADE_BY_LABEL, MADE_BY = "roomwright.io/made-by", "make-secrets"
SECRET_CHARACTERS = 48
"""Of 62 each: 285 bits."""


@dataclass(frozen=True, slots=True)
class Leave:
    """It is there, with everything in it."""


@dataclass(frozen=True, slots=True)
class Make:
    """It is not there."""

    entries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Add:
    """It is ours and lacks these: an earlier release made it."""

    entries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Somebody else made it, and it lacks these."""

    missing: tuple[str, ...]


Decision = Leave | Make | Add | Refuse


@dataclass(frozen=True, slots=True)
class Present:
    """A Secret that is there: the names of its entries, and who made it."""

    entries: frozenset[str]
    labels: Mapping[str, str]

    @property
    def is_ours(self) -> bool:
        """Did `make-secrets` make it?"""
        return self.labels.get(MADE_BY_LABEL) == MADE_BY


def decide(wanted: Mapping[str, Callable[[], str]], present: Present | None) -> Decision:
    """What to do about one Secret; `wanted` makes each entry's value."""
    if present is None:
        return Make({name: make() for name, make in wanted.items()})
    missing = [name for name in wanted if name not in present.entries]
    if not missing:
        return Leave()
    if not present.is_ours:
        return Refuse(tuple(missing))
    return Add({name: wanted[name]() for name in missing})


def random_text(characters: int, choose: Choose) -> str:
    """Letters and digits, a letter first: a bare digit means a number to YAML and to NATS."""
    first = choose(string.ascii_letters)
    rest = (choose(string.ascii_letters + string.digits) for _ in range(characters - 1))
    return first + "".join(rest)


def keys_entries(choose: Choose) -> Mapping[str, Callable[[], str]]:
    """One API key with its secret, as every service reads them from a file."""

    def keys_file() -> str:
        key = "API" + random_text(12, choose)
        return f"{key}: {random_text(SECRET_CHARACTERS, choose)}\n"

    return {"keys.yaml": keys_file}


def internal_entries(choose: Choose) -> Mapping[str, Callable[[], str]]:
    """What services prove themselves to each other with."""
    return {"token": lambda: random_text(SECRET_CHARACTERS, choose)}


def nats_entries(users: Sequence[str], choose: Choose) -> Mapping[str, Callable[[], str]]:
    """A password for each user."""
    return {user: lambda: random_text(SECRET_CHARACTERS, choose) for user in users}

"""What Locust's side and a swarm process tell each other: one JSON object a line. Media never leaves the swarm."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from loadtest.figures import MediaFigures
from loadtest.scenario import Track

# ------------------------------------------------------------------------------------------------- to the swarm


@dataclass(frozen=True, slots=True)
class Open:
    """Comes first: the server to load, and how many peer connections there may be."""

    url: str
    key: str
    secret: str = field(repr=False)
    sockets: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    """Packets a second of a published track, by kind."""
    do: Literal["open"] = "open"


@dataclass(frozen=True, slots=True)
class Join:
    """Be a participant, and stay one through drops, until told to leave."""

    participant: int
    room: str
    identity: str
    publishes: tuple[Track, ...] = ()
    do: Literal["join"] = "join"


@dataclass(frozen=True, slots=True)
class Leave:
    """End one participant."""

    participant: int
    do: Literal["leave"] = "leave"


@dataclass(frozen=True, slots=True)
class Close:
    """Everybody leaves, and the process ends."""

    do: Literal["close"] = "close"


Command = Open | Join | Leave | Close

# ----------------------------------------------------------------------------------------------- from the swarm


@dataclass(frozen=True, slots=True)
class Ready:
    """The process is up and took its orders."""

    said: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Joined:
    """A participant's peer connections are up and its tracks are published."""

    participant: int
    seconds: float
    """From dialing to the peer connections."""
    said: Literal["joined"] = "joined"


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """An attempt failed; the participant tries again by itself."""

    participant: int
    reason: str
    said: Literal["join_failed"] = "join_failed"


@dataclass(frozen=True, slots=True)
class Reconnected:
    """A participant whose session ended unasked is back, under a new session."""

    participant: int
    seconds: float
    """From the end of the session to being back, its tracks published."""
    said: Literal["reconnected"] = "reconnected"


@dataclass(frozen=True, slots=True)
class NotBack:
    """A participant whose session ended unasked was not back in time. It goes on trying; that is told as joining."""

    participant: int
    reason: str
    said: Literal["not_back"] = "not_back"


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures since the last such report."""

    figures: MediaFigures
    said: Literal["measured"] = "measured"


Report = Ready | Joined | JoinFailed | Reconnected | NotBack | Measured

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="do")])
_REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="said")])


def encode(message: Command | Report) -> bytes:
    """A line."""
    adapter: TypeAdapter[Command] | TypeAdapter[Report] = (
        _COMMANDS if isinstance(message, Command) else _REPORTS
    )
    return adapter.dump_json(message) + b"\n"  # type: ignore[arg-type]


def decode_command(line: bytes) -> Command:
    """A line for the swarm; `ValueError` when it is none."""
    return _COMMANDS.validate_json(line)


def decode_report(line: bytes) -> Report:
    """A line of the swarm; `ValueError` when it is none."""
    return _REPORTS.validate_json(line)

"""A load scenario: who joins, what they send, how many, for how long, and what may not be exceeded. From a YAML file.

Values and checks only; nothing here runs anything. Every default of a scenario is in these models.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

SCENARIOS: Final = Path(__file__).resolve().parent / "scenarios"
REST: Final = "rest"


class ScenarioError(Exception):
    """The file is not a scenario; the text names the file, the place in it and what is wrong."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _count(value: object) -> object:
    if value == REST or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"give how many, 1 or more, or {REST!r}")


Count = Annotated[int | Literal["rest"], BeforeValidator(_count)]


class Range(_Part):
    """From `least` to `most` seconds, both included; each time one between is drawn."""

    least: NonNegativeFloat
    most: NonNegativeFloat

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least:g}) is more than most ({self.most:g})")
        return self


class Track(_Part):
    """What a publisher sends: frames in bursts of equal packets."""

    kind: Literal["audio", "video"]
    frames_per_second: PositiveFloat
    packets_per_frame: Annotated[int, Field(ge=1, le=200)]
    payload_bytes: Annotated[int, Field(ge=32, le=1200)]

    @property
    def packets_per_second(self) -> float:
        """As sent, and as each subscriber is to receive."""
        return self.frames_per_second * self.packets_per_frame


class Role(_Part):
    """Some of the participants of each room; they come in the order of the roles."""

    name: Annotated[str, Field(min_length=1)]
    count: Count
    """In each room; `rest`: everybody else, so that there is one room however many come."""
    publishes: tuple[str, ...] = ()
    """Names of tracks."""


class Media(_Part):
    """Participants with peer connections and media: the swarm."""

    weight: PositiveInt = 1
    """Share of the Locust users that are of this kind, beside the other kinds' weights."""
    participants_per_user: PositiveInt = 1
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    tracks: dict[str, Track] = Field(default_factory=lambda: dict(DEFAULT_TRACKS))
    """By name; `camera` and `microphone` are there unless the file names tracks of its own."""
    stay_s: Range | None = None
    """How long a participant stays before it leaves and another comes; absent: until the end."""
    pause_s: Range = Range(least=0, most=0)
    """Between one participant and the next of the same user."""

    @model_validator(mode="after")
    def _roles_fit(self) -> Self:
        for role in self.roles:
            for track in role.publishes:
                if track not in self.tracks:
                    known = ", ".join(sorted(self.tracks))
                    raise ValueError(
                        f"role {role.name!r} publishes {track!r}, which is none of the tracks ({known})"
                    )
        repeated = [name for name, n in Counter(role.name for role in self.roles).items() if n > 1]
        if repeated:
            raise ValueError(f"two roles are called {repeated[0]!r}")
        if any(role.count == REST for role in self.roles[:-1]):
            raise ValueError(f"only the last role may have the count {REST!r}")
        rates: dict[str, float] = {}
        for track_name in {name for role in self.roles for name in role.publishes}:
            sent = self.tracks[track_name]
            if rates.setdefault(sent.kind, sent.packets_per_second) != sent.packets_per_second:
                raise ValueError(
                    f"two {sent.kind} tracks that are published have different packet rates;"
                    " a subscriber's expected packets are counted by kind, so make them equal"
                )
        return self

    @property
    def room_size(self) -> int | None:
        """Participants in a full room; None: one room for all."""
        counts = [role.count for role in self.roles if isinstance(role.count, int)]
        return sum(counts) if len(counts) == len(self.roles) else None


class Joins(_Part):
    """Joins by signaling only: WebSocket, join response, leave. No peer connection, hence many."""

    weight: PositiveInt = 1
    paths: Annotated[tuple[Literal["/rtc", "/rtc/v1"], ...], Field(min_length=1)] = (
        "/rtc",
        "/rtc/v1",
    )
    room_size: PositiveInt = 10
    stay_s: Range = Range(least=0.5, most=2)
    pause_s: Range = Range(least=0, most=0.5)


ApiCall = Literal[
    "ListRooms",
    "ListParticipants",
    "UpdateRoomMetadata",
    "SendData",
    "CreateRoom",
]


class Api(_Part):
    """Calls of the server API, each Locust user with a room of its own."""

    weight: PositiveInt = 1
    calls_per_second: PositiveFloat = 5.0
    """Of each Locust user."""
    calls: Annotated[dict[ApiCall, PositiveInt], Field(min_length=1)] = Field(
        default_factory=lambda: dict(DEFAULT_CALLS)
    )
    """Each call's share. `CreateRoom` is followed by a `DeleteRoom` of the same room."""


class Budgets(_Part):
    """What a run may not exceed; a budget that is absent is not judged. One that nothing was measured for is broken."""

    join_p50_ms: NonNegativeFloat | None = None
    join_p99_ms: NonNegativeFloat | None = None
    api_p50_ms: NonNegativeFloat | None = None
    api_p99_ms: NonNegativeFloat | None = None
    failures_percent: NonNegativeFloat | None = None
    """Of joins, API calls and reconnects together."""
    loss_percent: NonNegativeFloat | None = None
    """Packets missing in sequence, of those received and missing."""
    received_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    """At least: packets received, of those that subscribed publishers are to have sent. Sees silence, too."""
    latency_p50_ms: NonNegativeFloat | None = None
    latency_p99_ms: NonNegativeFloat | None = None
    reconnects: Annotated[int, Field(ge=0)] | None = None
    """Sessions that ended without being asked to."""
    reconnect_p99_ms: NonNegativeFloat | None = None
    """From the end of a session to its participant joined and publishing again. No reconnect keeps it."""


class Scenario(_Part):
    """The whole file."""

    description: Annotated[str, Field(min_length=1)]
    users: PositiveInt
    """Locust users."""
    spawn_rate: PositiveFloat
    """Locust users a second."""
    duration_s: PositiveInt
    media: Media | None = None
    joins: Joins | None = None
    api: Api | None = None
    budgets: Budgets = Budgets()

    @model_validator(mode="after")
    def _has_a_load(self) -> Self:
        if self.media is None and self.joins is None and self.api is None:
            raise ValueError("give at least one of media, joins and api")
        return self

    @property
    def publishes(self) -> bool:
        """Whether anybody sends media."""
        return self.media is not None and any(role.publishes for role in self.media.roles)


DEFAULT_TRACKS: Final[dict[str, Track]] = {
    "camera": Track(kind="video", frames_per_second=30.0, packets_per_frame=4, payload_bytes=1100),
    "microphone": Track(
        kind="audio", frames_per_second=50.0, packets_per_frame=1, payload_bytes=100
    ),
}
DEFAULT_CALLS: Final[dict[ApiCall, int]] = {
    "ListRooms": 2,
    "ListParticipants": 4,
    "UpdateRoomMetadata": 2,
    "SendData": 4,
    "CreateRoom": 1,
}


def names() -> list[str]:
    """The scenarios that come with the load test."""
    return sorted(path.stem for path in SCENARIOS.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a scenario: one that comes with the load test by its name, or any by its path."""
    if name in names():
        return SCENARIOS / f"{name}.yaml"
    if (path := Path(name)).is_file():
        return path
    raise ScenarioError(
        f"no scenario {name!r}: give one of {', '.join(names())}, or the path of a scenario file"
    )


def load(path: Path) -> Scenario:
    """Read and check a file; `ScenarioError` says where and what is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ScenarioError(f"{path}: a scenario is a mapping with a description, users, ...")
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        problems = [_problem(it["loc"], it["msg"]) for it in error.errors(include_url=False)]
        raise ScenarioError("\n".join(f"{path}: {problem}" for problem in problems)) from None


def _problem(place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(step) for step in place)
    what = message.removeprefix("Value error, ")
    what = {
        "Extra inputs are not permitted": "no such setting",
        "Field required": "is missing",
    }.get(what, what)
    return f"{where}: {what}" if where else what

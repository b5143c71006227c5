"""Locust's users: callers of the server API, joiners by signaling, participants of the swarms.

Importing this imports Locust, which patches the standard library: never in a swarm process, never in a test's process.
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count as counting
from typing import Any, ClassVar, Final

from google.protobuf.message import Message
from livekit.protocol import models, room
from locust import User, constant_throughput, task
from locust.env import Environment

from loadtest.access import Target
from loadtest.figures import API, JOIN
from loadtest.room_api import RoomApi
from loadtest.scenario import Api, Joins, Media, Range, Scenario
from loadtest.signal_join import SignalJoin
from loadtest.swarms import Swarms

FOREVER_S: Final = 365 * 24 * 3600.0
ROOM_LIFETIME_S: Final = 24 * 3600
PAYLOAD: Final = b"x" * 100


def tell(
    environment: Environment,
    kind: str,
    name: str,
    seconds: float | None,
    failure: Exception | str | None = None,
) -> None:
    """One thing done, to Locust's statistics. Failures count without a time: a quick refusal is not a quick join."""
    environment.events.request.fire(
        request_type=kind,
        name=name,
        response_time=None if failure or seconds is None else 1000 * seconds,
        response_length=0,
        exception=Exception(failure) if isinstance(failure, str) else failure,
        context={},
    )


@contextmanager
def told(environment: Environment, kind: str, name: str) -> Iterator[None]:
    """What the block does is told as one thing; its exceptions are its failure, and end with it."""
    began = time.perf_counter()
    try:
        yield
    except Exception as failure:  # noqa: BLE001 - whatever it was, it is what the server made of the load
        tell(environment, kind, name, None, failure)
    else:
        tell(environment, kind, name, time.perf_counter() - began)


class MediaUser(User):
    """`participants_per_user` participants with peer connections and media, played by a swarm process."""

    abstract = True
    media: ClassVar[Media]
    swarms: ClassVar[Swarms | None] = None
    """Of the run that is on."""

    @task
    def attend(self) -> None:
        """Join, stay, leave."""
        swarms = type(self).swarms
        if swarms is None:
            return
        places = [swarms.join() for _ in range(self.media.participants_per_user)]
        try:
            time.sleep(FOREVER_S if self.media.stay_s is None else drawn(self.media.stay_s))
        finally:
            for place in places:
                swarms.leave(place)
        time.sleep(drawn(self.media.pause_s))


class JoinUser(User):
    """One participant after the other, by signaling alone."""

    abstract = True
    joins: ClassVar[Joins]
    target: ClassVar[Target]
    run_name: ClassVar[str] = secrets.token_hex(3)
    numbers: ClassVar[Iterator[int]] = counting()

    @task
    def visit(self) -> None:
        """Join, stay, leave. An end of the stay that we did not ask for is a failure of its own name."""
        number = next(self.numbers)
        path = random.choice(self.joins.paths)
        name = f"signal-{self.run_name}-{number // self.joins.room_size}"
        session: SignalJoin | None = None
        with told(self.environment, JOIN, f"signaling {path}"):
            session = SignalJoin(self.target, path, name, f"visitor-{self.run_name}-{number}")
        if session is not None:
            with session:
                try:
                    session.stay(drawn(self.joins.stay_s))
                except Exception as failure:  # noqa: BLE001 - whatever ended the stay
                    tell(self.environment, JOIN, f"signaling {path}, stay", None, failure)
        time.sleep(drawn(self.joins.pause_s))


class ApiUser(User):
    """A caller of the server API with a room of its own."""

    abstract = True
    calls: ClassVar[Api]
    target: ClassVar[Target]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._room = f"api-{secrets.token_hex(6)}"
        self._extra = counting()
        self._api = RoomApi(self.target, self._room)
        self._choices = list(self.calls.calls)
        self._weights = list(self.calls.calls.values())
        self._performed: dict[str, Callable[[], None]] = {
            "ListRooms": lambda: self._call(
                "ListRooms", room.ListRoomsRequest(), room.ListRoomsResponse
            ),
            "ListParticipants": lambda: self._call(
                "ListParticipants",
                room.ListParticipantsRequest(room=self._room),
                room.ListParticipantsResponse,
            ),
            "UpdateRoomMetadata": lambda: self._call(
                "UpdateRoomMetadata",
                room.UpdateRoomMetadataRequest(room=self._room, metadata=secrets.token_hex(16)),
                models.Room,
            ),
            "SendData": lambda: self._call(
                "SendData",
                room.SendDataRequest(
                    room=self._room,
                    data=PAYLOAD,
                    kind=models.DataPacket.Kind.RELIABLE,
                    topic="load",
                ),
                room.SendDataResponse,
            ),
            "CreateRoom": self._make_and_delete,
        }

    def on_start(self) -> None:
        """Make the room."""
        self._create(self._room)

    def on_stop(self) -> None:
        """Delete the room, on a new connection: whoever stopped us in a call left the old one taken for ever."""
        with RoomApi(self.target, self._room) as self._api:
            self._delete(self._room)

    @task
    def call(self) -> None:
        """One call, chosen by weight."""
        (choice,) = random.choices(self._choices, self._weights)
        self._performed[choice]()

    def _make_and_delete(self) -> None:
        name = f"{self._room}-{next(self._extra)}"
        self._create(name)
        self._delete(name)

    def _create(self, name: str) -> None:
        request = room.CreateRoomRequest(name=name, empty_timeout=ROOM_LIFETIME_S)
        self._call("CreateRoom", request, models.Room)

    def _delete(self, name: str) -> None:
        self._call("DeleteRoom", room.DeleteRoomRequest(room=name), room.DeleteRoomResponse)

    def _call(self, method: str, request: Message, answer: type[Message]) -> None:
        with told(self.environment, API, method):
            self._api.call(method, request, answer)


def drawn(span: Range) -> float:
    """Seconds between the ends."""
    return random.uniform(span.least, span.most)


def user_classes(scenario: Scenario, target: Target) -> dict[str, type[User]]:
    """Those of a scenario, by name, with their weights."""
    made: dict[str, type[User]] = {}

    def make(name: str, base: type[User], **settings: Any) -> None:
        shown = {
            "abstract": False,
            "host": target.url,
        }  # Locust's page shows the host, and asks when there is none
        made[name] = type(name, (base,), {**shown, **settings})

    if (media := scenario.media) is not None:
        make("Participants", MediaUser, weight=media.weight, media=media)
    if (joins := scenario.joins) is not None:
        make("Visitors", JoinUser, weight=joins.weight, joins=joins, target=target)
    if (api := scenario.api) is not None:
        pace = constant_throughput(api.calls_per_second)
        make("Callers", ApiUser, weight=api.weight, calls=api, target=target, wait_time=pace)
    return made

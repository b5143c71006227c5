"""How a node follows joins: who is told, what is counted, and that nothing stays behind."""

import pytest
import structlog

from chassis import telemetry
from chassis.telemetry import Metrics
from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2
from sfu.core import stage
from sfu.joins import Joins
from sfu.metrics import SfuMetrics

SOCKET = stage.SocketRef(1, 7)


class Watched:
    """The joins of a room, and what came of them."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self.told: list[tuple[stage.SocketRef, str]] = []
        log = structlog.get_logger("x")
        self.joins = Joins(SfuMetrics(self._metrics), log, lambda *it: self.told.append(it))

    def open(self, *, now: float, reconnect: bool = False) -> stage.SocketOpened:
        """A socket, and what its session tells the Room."""
        opened = node_pb2.OpenSession(room_name="r", epoch=5, reconnect=reconnect)
        event = stage.SocketOpened(SOCKET, opened, node_pb2.Claims())
        self.joins.taken(event, now)
        fact = room_pb2.Fact(participant_sid="PA_a")
        if reconnect:
            fact.resume_requested.SetInParent()
        else:
            fact.join_requested.protocol_version = 16
        self.joins.told(fact, event, now)
        return event

    def tell(self, name: str, *, now: float) -> None:
        """A fact of the session, whatever caused it."""
        fact = room_pb2.Fact(participant_sid="PA_a")
        getattr(fact, name).SetInParent()
        with telemetry.under(None):
            self.joins.told(fact, stage.Ticked(), now)

    def shown(self, start: str) -> list[str]:
        """Samples that begin like this."""
        return [line for line in self._metrics.render().splitlines() if line.startswith(start)]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_join_is_timed_from_its_opening_to_the_end(watched: Watched) -> None:
    watched.open(now=10.0)
    assert watched.told == [(SOCKET, "PA_a")]
    watched.joins.sent((SOCKET,), 10.02)
    watched.joins.sent((SOCKET,), 10.5)
    watched.tell("activated", now=10.25)
    watched.tell("activated", now=11.0)
    watched.tell("left", now=70.0)
    version = 'protocol_version="16"'
    assert watched.shown("livekit_session_join_latency_ms_count") == [
        f"livekit_session_join_latency_ms_count{{{version}}} 1"
    ]
    assert watched.shown(f'livekit_session_join_latency_ms_bucket{{{version},le="10"') == [
        f'livekit_session_join_latency_ms_bucket{{{version},le="10"}} 0'
    ]
    assert watched.shown(f'livekit_session_start_time_ms_bucket{{{version},le="300"')[0][-1] == "1"
    assert watched.shown("livekit_session_duration_ms_sum")[0].split()[1] == "60000"
    assert watched.shown("livekit_participant_join_total") == [
        'livekit_participant_join_total{state="signal_connected"} 1',
        'livekit_participant_join_total{state="rtc_init"} 1',
        'livekit_participant_join_total{state="rtc_connected"} 1',
    ]


def test_a_refused_join_is_counted_as_one(watched: Watched) -> None:
    watched.open(now=0.0)
    watched.joins.refused(SOCKET, 403, "not allowed")
    watched.joins.sent((SOCKET,), 1.0)
    watched.tell("left", now=2.0)
    assert watched.shown("livekit_node_service_operation{") == [
        'livekit_node_service_operation{type="participant_join",status="error",'
        'error_type="refused"} 1'
    ]
    assert watched.shown("livekit_session_duration_ms_count") == []


def test_a_resume_is_no_new_session(watched: Watched) -> None:
    watched.open(now=0.0, reconnect=True)
    watched.joins.sent((SOCKET,), 0.1)
    watched.tell("activated", now=1.0)
    assert watched.told == [(SOCKET, "PA_a")]
    assert watched.shown("livekit_participant_join_total{") == []
    assert watched.shown("livekit_session_start_time_ms_count") == []


def test_what_was_under_way_ends_with_the_room(watched: Watched) -> None:
    watched.open(now=0.0)
    watched.joins.close()
    watched.joins.sent((SOCKET,), 1.0)
    watched.tell("activated", now=2.0)
    assert watched.shown("livekit_session_join_latency_ms_count") == []

"""A signaling socket: accepted with the first response, closed after the last, never a burden to others."""

from livekit.protocol import models, rtc

from signaling.core.frames import Response
from signaling.core.leave import join_anew
from signaling.core.session import (
    ASK_INTERVAL_S,
    FIRST_RESPONSE_TIMEOUT_S,
    FLUSH_TIMEOUT_S,
    HOME_PATIENCE_S,
    LOST_NODE_PATIENCE_S,
    MAX_QUEUED_BYTES,
    Accept,
    Close,
    CloseArrived,
    Deny,
    Draining,
    FindHome,
    HomeFound,
    HomeNotFound,
    NodeBack,
    NodeLost,
    RefusalArrived,
    ResponseArrived,
    RoomMoved,
    SignalSocket,
    Started,
    Ticked,
    Write,
    Written,
)

LEAVE = Response.of(b"leave: join anew")
NO_HOME = HomeNotFound(404, "requested room does not exist", is_over=True)


def said(payload: bytes) -> ResponseArrived:
    return ResponseArrived(Response.of(payload))


def write(payload: bytes) -> Write:
    return Write(Response.of(payload))


def new_socket(opened_at: float = 0.0, *, reconnect: bool = False) -> SignalSocket:
    return SignalSocket(opened_at, LEAVE, reconnect=reconnect)


def opening(*, reconnect: bool = False) -> SignalSocket:
    socket = new_socket(reconnect=reconnect)
    assert socket.handle(Started(), 0.0) == [FindHome(doubted_epoch=0)]
    assert socket.handle(HomeFound(epoch=7), 0.0) == []
    return socket


def accepted() -> SignalSocket:
    socket = new_socket()
    assert socket.handle(said(b"join"), 0.1) == [Accept(), write(b"join")]
    assert socket.handle(Written(), 0.2) == []
    return socket


def test_responses_are_written_one_after_another_in_order() -> None:
    socket = new_socket()
    assert socket.handle(said(b"join"), 0.0) == [Accept(), write(b"join")]
    assert socket.handle(said(b"two"), 0.0) == []
    assert socket.handle(said(b"three"), 0.0) == []
    assert socket.handle(Written(), 0.0) == [write(b"two")]
    assert socket.handle(Written(), 0.0) == [write(b"three")]
    assert socket.handle(Written(), 0.0) == []


def test_a_refusal_before_the_first_response_is_an_http_status() -> None:
    socket = new_socket()
    assert socket.handle(RefusalArrived(403, "room is full"), 1.0) == [Deny(403, "room is full")]
    assert socket.handle(said(b"late"), 1.0) == []


def test_a_close_waits_for_what_was_sent_before() -> None:
    socket = accepted()
    assert socket.handle(said(b"leave"), 1.0) == [write(b"leave")]
    assert socket.handle(CloseArrived(1000), 1.0) == []
    assert socket.handle(said(b"after the close"), 1.0) == []
    assert socket.handle(Written(), 1.1) == [Close(1000)]
    assert socket.over


def test_a_lost_node_does_not_cut_the_last_words_it_sent() -> None:
    socket = accepted()
    assert socket.handle(said(b"leave"), 1.0) == [write(b"leave")]
    assert socket.handle(CloseArrived(1000), 1.0) == []
    assert socket.handle(NodeLost(), 1.0) == []
    assert socket.handle(Written(), 1.1) == [Close(1000)]


def test_a_close_does_not_wait_for_ever() -> None:
    socket = accepted()
    socket.handle(said(b"leave"), 1.0)
    socket.handle(CloseArrived(1000), 1.0)
    assert socket.next_timeout() == 1.0 + FLUSH_TIMEOUT_S
    assert socket.handle(Ticked(), 1.0 + FLUSH_TIMEOUT_S) == [Close(1000)]


def test_a_node_that_says_nothing_is_a_503() -> None:
    socket = new_socket(5.0)
    assert socket.next_timeout() == 5.0 + FIRST_RESPONSE_TIMEOUT_S
    assert socket.handle(Ticked(), 6.0) == []
    (denied,) = socket.handle(Ticked(), 5.0 + FIRST_RESPONSE_TIMEOUT_S)
    assert isinstance(denied, Deny)
    assert denied.http_status == 503


def test_a_lost_node_that_is_back_makes_the_client_resume() -> None:
    socket = accepted()
    assert socket.handle(NodeBack(), 1.0) == []
    assert socket.handle(NodeLost(), 1.0) == []
    assert socket.handle(NodeBack(), 1.5) == [Close(1011)]


def test_a_room_that_moved_makes_the_client_join_anew() -> None:
    socket = accepted()
    socket.handle(NodeLost(), 1.0)
    assert socket.handle(RoomMoved(), 6.0) == [Write(LEAVE)]
    assert socket.handle(RoomMoved(), 6.0) == []
    assert socket.handle(Written(), 6.1) == [Close(1000)]


def test_a_room_taken_over_while_its_old_home_still_answers_makes_the_client_join_anew() -> None:
    socket = accepted()
    assert socket.handle(RoomMoved(), 6.0) == [Write(LEAVE)]


def test_a_node_that_stays_lost_makes_the_client_try_a_resume() -> None:
    socket = accepted()
    socket.handle(NodeLost(), 1.0)
    assert socket.next_timeout() == 1.0 + LOST_NODE_PATIENCE_S
    assert socket.handle(Ticked(), LOST_NODE_PATIENCE_S) == []
    assert socket.handle(Ticked(), 1.0 + LOST_NODE_PATIENCE_S) == [Close(1011)]


def test_a_lease_refused_before_acceptance_is_doubted_at_once_and_then_now_and_then() -> None:
    socket = opening()
    refused = RefusalArrived(503, "not here", lease_refused=True)
    assert socket.handle(refused, 0.1) == [FindHome(doubted_epoch=7)]
    assert socket.handle(HomeFound(epoch=7), 0.1) == []
    assert socket.handle(NodeLost(), 0.2) == []
    assert socket.next_timeout() == 0.1 + ASK_INTERVAL_S
    assert socket.handle(Ticked(), 0.1 + ASK_INTERVAL_S) == [FindHome(doubted_epoch=7)]
    assert socket.handle(HomeFound(epoch=8), 0.7) == []
    assert socket.handle(refused, 1.2) == [FindHome(doubted_epoch=8)]
    assert socket.handle(HomeFound(epoch=9), 1.3) == []
    assert socket.handle(said(b"join"), 1.4) == [Accept(), write(b"join")]
    assert socket.next_timeout() is None


def test_looking_for_a_home_ends_with_a_503() -> None:
    socket = opening()
    assert socket.handle(NodeLost(), 0.0) == [FindHome(doubted_epoch=7)]
    assert socket.handle(HomeNotFound(503, "no node now"), 1.0) == [FindHome(doubted_epoch=7)]
    denied = socket.handle(HomeNotFound(503, "no node now"), HOME_PATIENCE_S)
    assert denied == [Deny(503, "no node now")]


def test_what_placement_says_without_a_doubt_is_said_on_at_once() -> None:
    socket = new_socket()
    socket.handle(Started(), 0.0)
    assert socket.handle(HomeNotFound(503, "no new rooms"), 0.1) == [Deny(503, "no new rooms")]
    socket = new_socket()
    socket.handle(Started(), 0.0)
    assert socket.handle(NO_HOME, 0.1) == [Deny(404, "requested room does not exist")]


def test_a_resume_into_a_room_that_is_over_is_answered_not_denied() -> None:
    socket = new_socket(reconnect=True)
    socket.handle(Started(), 0.0)
    assert socket.handle(NO_HOME, 0.1) == [Accept(), Write(LEAVE)]
    assert socket.handle(Written(), 0.2) == [Close(1000)]
    doubting = opening(reconnect=True)
    assert doubting.handle(NodeLost(), 0.1) == [FindHome(doubted_epoch=7)]
    assert doubting.handle(NO_HOME, 0.2) == [Accept(), Write(LEAVE)]


def test_a_drain_sends_the_client_away_after_what_was_sent_before() -> None:
    socket = accepted()
    assert socket.handle(said(b"update"), 1.0) == [write(b"update")]
    assert socket.handle(Draining(), 1.0) == []
    assert socket.handle(Written(), 1.1) == [Close(1012)]
    assert new_socket().handle(Draining(), 1.0) == []


def test_leave_is_said_as_the_clients_protocol_knows_it() -> None:
    leave = rtc.SignalResponse.FromString(join_anew(16)).leave
    assert (leave.action, leave.can_reconnect) == (rtc.LeaveRequest.RECONNECT, False)
    assert leave.reason == models.DisconnectReason.STATE_MISMATCH
    old = rtc.SignalResponse.FromString(join_anew(12)).leave
    assert (old.action, old.can_reconnect) == (rtc.LeaveRequest.DISCONNECT, True)


def test_a_socket_that_takes_nothing_is_closed_before_it_costs_more() -> None:
    socket = accepted()
    frame = b"x" * (1 << 20)
    effects = [effect for _ in range(5) for effect in socket.handle(said(frame), 1.0)]
    assert effects == [write(frame), Close(1008)]
    assert MAX_QUEUED_BYTES == 4 << 20
    assert socket.next_timeout() is None

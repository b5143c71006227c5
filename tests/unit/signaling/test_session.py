"""A signaling socket: accepted with the first response, closed after the last, never a burden to others."""

from signaling.core.session import (
    FIRST_RESPONSE_TIMEOUT_S,
    FLUSH_TIMEOUT_S,
    MAX_QUEUED_BYTES,
    Accept,
    Close,
    CloseArrived,
    Deny,
    NodeLost,
    RefusalArrived,
    ResponseArrived,
    SignalSocket,
    Ticked,
    Write,
    Written,
)


def accepted() -> SignalSocket:
    socket = SignalSocket(opened_at=0.0)
    assert socket.handle(ResponseArrived(b"join"), 0.1) == [Accept(), Write(b"join")]
    assert socket.handle(Written(), 0.2) == []
    return socket


def test_responses_are_written_one_after_another_in_order() -> None:
    socket = SignalSocket(opened_at=0.0)
    assert socket.handle(ResponseArrived(b"join"), 0.0) == [Accept(), Write(b"join")]
    assert socket.handle(ResponseArrived(b"two"), 0.0) == []
    assert socket.handle(ResponseArrived(b"three"), 0.0) == []
    assert socket.handle(Written(), 0.0) == [Write(b"two")]
    assert socket.handle(Written(), 0.0) == [Write(b"three")]
    assert socket.handle(Written(), 0.0) == []


def test_a_refusal_before_the_first_response_is_an_http_status() -> None:
    socket = SignalSocket(opened_at=0.0)
    assert socket.handle(RefusalArrived(403, "room is full"), 1.0) == [Deny(403, "room is full")]
    assert socket.handle(ResponseArrived(b"late"), 1.0) == []


def test_a_close_waits_for_what_was_sent_before() -> None:
    socket = accepted()
    assert socket.handle(ResponseArrived(b"leave"), 1.0) == [Write(b"leave")]
    assert socket.handle(CloseArrived(1000), 1.0) == []
    assert socket.handle(ResponseArrived(b"after the close"), 1.0) == []
    assert socket.handle(Written(), 1.1) == [Close(1000)]
    assert socket.over


def test_a_lost_node_does_not_cut_the_last_words_it_sent() -> None:
    socket = accepted()
    assert socket.handle(ResponseArrived(b"leave"), 1.0) == [Write(b"leave")]
    assert socket.handle(CloseArrived(1000), 1.0) == []
    assert socket.handle(NodeLost(), 1.0) == []
    assert socket.handle(Written(), 1.1) == [Close(1000)]


def test_a_close_does_not_wait_for_ever() -> None:
    socket = accepted()
    socket.handle(ResponseArrived(b"leave"), 1.0)
    socket.handle(CloseArrived(1000), 1.0)
    assert socket.next_timeout() == 1.0 + FLUSH_TIMEOUT_S
    assert socket.handle(Ticked(), 1.0 + FLUSH_TIMEOUT_S) == [Close(1000)]


def test_a_node_that_says_nothing_is_a_503() -> None:
    socket = SignalSocket(opened_at=5.0)
    assert socket.next_timeout() == 5.0 + FIRST_RESPONSE_TIMEOUT_S
    assert socket.handle(Ticked(), 6.0) == []
    (denied,) = socket.handle(Ticked(), 5.0 + FIRST_RESPONSE_TIMEOUT_S)
    assert isinstance(denied, Deny)
    assert denied.http_status == 503


def test_a_lost_node_makes_the_client_resume() -> None:
    assert accepted().handle(NodeLost(), 1.0) == [Close(1011)]
    (denied,) = SignalSocket(opened_at=0.0).handle(NodeLost(), 1.0)
    assert isinstance(denied, Deny)


def test_a_socket_that_takes_nothing_is_closed_before_it_costs_more() -> None:
    socket = accepted()
    frame = b"x" * (1 << 20)
    effects = [effect for _ in range(5) for effect in socket.handle(ResponseArrived(frame), 1.0)]
    assert effects == [Write(frame), Close(1008, too_slow=True)]
    assert MAX_QUEUED_BYTES == 4 << 20
    assert socket.next_timeout() is None

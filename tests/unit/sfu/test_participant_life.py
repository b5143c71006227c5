"""From joining to disconnected: what the others see of it, and why it ends."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.effects import ABNORMAL
from sfu.core.media_events import Failed
from sfu.core.stage import SignalArrived
from tests.support.scripted_room import Client, World

State = models.ParticipantInfo.State
Reason = models.DisconnectReason
HONORED = {
    Reason.CLIENT_INITIATED,
    Reason.USER_UNAVAILABLE,
    Reason.USER_REJECTED,
    Reason.AGENT_ERROR,
}


def seen(watcher: Client, sid: str) -> list[models.ParticipantInfo]:
    """Everything the watcher was told of a participant."""
    return [
        info
        for update in watcher.all("update")
        if isinstance(update, rtc.ParticipantUpdate)
        for info in update.participants
        if info.sid == sid
    ]


def test_states_and_versions_only_go_up(world: World) -> None:
    watcher = world.join("watcher", connect=True)
    a = world.join("a")
    sid = a.sid
    world.advance(1)
    a.connect()
    world.advance(1)
    a.send(leave=rtc.LeaveRequest())
    world.advance(1)
    told = seen(watcher, sid)
    assert [info.state for info in told] == [State.JOINED, State.ACTIVE, State.DISCONNECTED]
    versions = [info.version for info in told]
    assert versions == sorted(set(versions))
    assert told[-1].identity == "a"


@pytest.mark.parametrize("reason", sorted(Reason.values()))
def test_reason_of_a_goodbye_is_honored_if_it_is_the_clients_to_say(
    world: World, reason: int
) -> None:
    watcher, a = world.join("watcher", connect=True), world.join("a", connect=True)
    sid = a.sid
    world.advance(1)  # or nobody would hear of it at all
    a.send(leave=rtc.LeaveRequest(reason=reason))  # type: ignore[arg-type]
    world.advance(1)
    expected = reason if reason in HONORED else Reason.CLIENT_INITIATED
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.reason == expected
    assert seen(watcher, sid)[-1].disconnect_reason == expected


def test_who_never_becomes_active_is_gone_for_the_others_with_that_reason(world: World) -> None:
    watcher, a = world.join("watcher", connect=True), world.join("a")
    sid = a.sid
    world.advance(59)
    assert a.closed is None
    world.advance(2)
    assert a.closed is not None
    last = seen(watcher, sid)[-1]
    assert (last.state, last.disconnect_reason) == (State.DISCONNECTED, Reason.JOIN_FAILURE)


def test_who_loses_the_socket_before_media_is_gone_with_that_reason(world: World) -> None:
    watcher, a = world.join("watcher", connect=True), world.join("a")
    sid = a.sid
    world.advance(1)
    world.drop(a)
    world.advance(1)
    assert seen(watcher, sid)[-1].disconnect_reason == Reason.SIGNAL_CLOSE


def test_unknown_request_is_ignored(world: World) -> None:
    a = world.join("a", connect=True)
    a.clear()
    of_a_newer_protocol = b"\xca\x3e\x02\x08\x01"  # field 1001, a message
    world.feed(SignalArrived(a.socket, of_a_newer_protocol))
    world.feed(SignalArrived(a.socket, b""))
    assert a.inbox == []
    assert a.closed is None


def test_frame_that_cannot_be_read_ends_the_socket_and_not_the_call(world: World) -> None:
    a = world.join("a", connect=True)
    world.feed(SignalArrived(a.socket, b"\xff\xff\xff"))
    assert a.close_code == ABNORMAL
    assert a.is_present
    again = world.resume(a)
    assert again.cases()[0] == "reconnect"


def test_one_shot_client_lives_as_long_as_its_media(world: World) -> None:
    a = world.join("a", single=True, one_shot=True)
    a.offer({"mid": "0", "kind": "audio"})
    world.drop(a)
    assert a.is_present
    a.connect()
    world.advance(600)
    assert a.is_present
    world.media(Failed(a.primary, "test"))
    assert not a.is_present


def test_one_shot_client_whose_media_never_comes_is_forgotten(world: World) -> None:
    a = world.join("a", single=True, one_shot=True)
    world.drop(a)
    world.advance(60.0 - 0.1)
    assert a.is_present
    world.advance(0.2)
    assert not a.is_present


def test_one_shot_client_comes_back_to_say_goodbye(world: World) -> None:
    a = world.join("a", single=True, one_shot=True, connect=True)
    world.drop(a)
    again = world.resume(a)
    again.send(leave=rtc.LeaveRequest())
    assert again.cases()[-1] == "leave"
    assert not again.is_present

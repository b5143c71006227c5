"""Coming back: who may resume, what is said first, and what is checked."""

from livekit.protocol import models, rtc

from sfu.core.media_commands import RestartIce
from sfu.core.media_events import Failed
from tests.support.scripted_room import World

Action = rtc.LeaveRequest.Action


def test_resume_says_reconnect_then_everybody_then_the_room(world: World) -> None:
    a, _ = world.join("a", connect=True), world.join("b", connect=True)
    a.answer()
    world.advance(1)
    world.drop(a)
    again = world.resume(a, participant_sid=a.sid)
    assert again.cases()[:5] == ["reconnect", "update", "room_update", "refresh_token", "offer"]
    update = again.last("update")
    assert isinstance(update, rtc.ParticipantUpdate)
    assert {participant.identity for participant in update.participants} == {"a", "b"}
    assert len(world.told(RestartIce)) == 1


def test_resume_tells_who_left_meanwhile(world: World) -> None:
    a, b = world.join("a", connect=True), world.join("b", connect=True)
    world.advance(1)
    a.send(ping=1)
    world.drop(a)
    world.advance(1)
    b.send(leave=rtc.LeaveRequest())
    world.advance(1)
    again = world.resume(a)
    departed = again.inbox[1].update.participants
    assert [(p.identity, p.state) for p in departed] == [
        ("b", models.ParticipantInfo.State.DISCONNECTED)
    ]


def test_resume_of_nobody_is_a_leave_then_a_close(world: World) -> None:
    a = world.join("a", connect=True)
    a.send(leave=rtc.LeaveRequest())
    again = world.resume(a)
    assert again.cases() == ["leave"]
    assert again.inbox[0].leave.action == Action.RECONNECT
    assert again.inbox[0].leave.reason == models.DisconnectReason.STATE_MISMATCH
    assert again.closed is not None


def test_old_clients_are_told_that_they_may_reconnect(world: World) -> None:
    a = world.join("a")
    a.send(leave=rtc.LeaveRequest())
    assert world.resume(a, protocol=9).inbox[0].leave.can_reconnect


def test_resume_with_another_sid_is_refused(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a, participant_sid="PA_other")
    assert again.cases() == ["leave"]
    assert a.closed is None


def test_older_socket_is_closed_without_a_leave(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a)
    assert a.closed is not None
    assert "leave" not in a.cases()
    world.drop(a)
    assert again.closed is None
    assert not world.stage.is_empty


def test_resume_ends_the_grace_after_failed_media(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "test"))
    world.advance(4)
    again = world.resume(a)
    again.connect()
    world.advance(60)
    assert again.closed is None


def test_client_that_resumes_by_itself_after_failed_media_is_not_asked_to(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "test"))
    world.advance(0.5)
    again = world.resume(a)
    world.advance(10)
    assert again.closed is None
    assert "leave" not in again.cases()


def test_sync_state_with_an_unknown_track_starts_anew(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a)
    believed = rtc.TrackPublishedResponse(cid="x", track=models.TrackInfo(sid="TR_unknown"))
    again.send(sync_state=rtc.SyncState(publish_tracks=[believed]))
    leave = again.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == Action.RECONNECT
    assert world.stage.is_empty


def test_sync_state_applies_disabled_tracks_and_subscriptions(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a)
    deviating = rtc.UpdateSubscription(track_sids=["TR_x"], subscribe=False)
    again.send(sync_state=rtc.SyncState(track_sids_disabled=["TR_y"], subscription=deviating))
    subscriptions = world.session(a).subscribing.subscriptions
    wish = subscriptions.get("TR_x")
    assert wish is not None
    assert not wish.is_wanted
    assert subscriptions.setting("TR_y").is_disabled
    assert again.closed is None


def test_resume_during_the_first_join_has_the_client_start_anew(world: World) -> None:
    a = world.join("a")
    world.drop(a)
    assert world.resume(a).cases() == ["leave"]


def test_single_mode_waits_for_the_clients_offer(world: World) -> None:
    a = world.join("a", single=True, connect=True)
    a.offer(ufrag="first")
    again = world.resume(a)
    assert "offer" not in again.cases()
    again.offer(ufrag="second")
    assert len(world.told(RestartIce)) == 1

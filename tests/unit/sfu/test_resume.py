"""Coming back: who may resume, what is said first, and what is checked."""

from livekit.protocol import models, rtc

from sfu.core.media_commands import AddReceiver, RestartIce, SendData
from sfu.core.media_events import AudioLevels, Connected, Failed
from sfu.core.room_events import FactArrived
from sfu.core.stage import Event
from tests.support.scripted_room import Client, World

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


class Withheld:
    """Orders of the Room that are still on their way to the stage."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._orders = world._orders
        self._events: list[Event] = []
        world._orders = self._withhold  # type: ignore[method-assign]

    def _withhold(self, event: FactArrived) -> list[Event]:
        self._events += self._orders(event)
        return []

    def release(self) -> None:
        self._world._orders = self._orders  # type: ignore[method-assign]
        for event in self._events:
            self._world.feed(event)


def publish_microphone(client: Client) -> str:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="mic", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    )
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def speaking_pair(world: World) -> tuple[Client, Client, int]:
    """A publishes its microphone, B gets it; and A's engine track."""
    a, b = world.join("a", connect=True), world.join("b", connect=True)
    b.answer()
    publish_microphone(a)
    a.offer({"mid": "1", "kind": "audio", "cid": "mic"})
    world.advance(0.2)
    b.answer()
    return a, b, world.told(AddReceiver)[-1].track


def test_resume_before_the_room_took_the_client_in_says_reconnect_first(world: World) -> None:
    withheld = Withheld(world)
    a = world.join("a")
    again = world.resume(a)
    assert a.closed is not None
    assert again.cases() == []
    withheld.release()
    assert again.cases()[:2] == ["reconnect", "refresh_token"]
    assert {"update", "room_update", "offer"} <= set(again.cases())
    assert "join" not in again.cases()


def test_two_resumes_at_once_are_completed_once_on_the_later_socket(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    withheld = Withheld(world)
    first = world.resume(a)
    second = world.resume(a)
    withheld.release()
    assert first.cases() == ["reconnect"]
    assert first.closed is not None
    assert second.cases() == ["reconnect", "update", "room_update", "refresh_token", "offer"]
    assert second.closed is None
    assert len(world.told(RestartIce)) == 1


def test_resume_before_media_ever_came_up_goes_on(world: World) -> None:
    a = world.join("a")
    again = world.resume(a)
    assert again.cases()[0] == "reconnect"
    again.answer()
    again.connect()
    world.advance(61)
    assert again.closed is None


def test_only_who_left_since_the_last_signal_is_told_as_departed(world: World) -> None:
    a, b, c = (world.join(name, connect=True) for name in "abc")
    world.advance(1)
    b.send(leave=rtc.LeaveRequest())
    world.advance(1)
    a.send(ping=1)
    world.drop(a)
    world.advance(1)
    c.send(leave=rtc.LeaveRequest())
    world.advance(1)
    again = world.resume(a)
    departed = again.inbox[1].update.participants
    assert [participant.identity for participant in departed] == ["c"]
    assert departed[0].disconnect_reason == models.DisconnectReason.CLIENT_INITIATED


def test_grants_of_the_token_presented_at_resume_change_nothing(world: World) -> None:
    a = world.join("a", grant={"canPublish": False}, connect=True)
    again = world.resume(a)  # its token has every default
    update = again.last("update")
    assert isinstance(update, rtc.ParticipantUpdate)
    assert not update.participants[0].permission.can_publish


def test_sync_state_may_name_tracks_that_are_announced_and_not_yet_sent(world: World) -> None:
    a = world.join("a", connect=True)
    track_sid = publish_microphone(a)
    again = world.resume(a)
    believed = rtc.TrackPublishedResponse(cid="mic", track=models.TrackInfo(sid=track_sid))
    again.send(sync_state=rtc.SyncState(publish_tracks=[believed]))
    assert again.closed is None


def test_sync_state_that_names_no_track_at_all_starts_anew(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a)
    again.send(sync_state=rtc.SyncState(publish_tracks=[rtc.TrackPublishedResponse(cid="x")]))
    leave = again.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == Action.RECONNECT


def test_burst_of_queued_requests_after_sync_state_is_served_in_order(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a)
    again.send(sync_state=rtc.SyncState())
    again.clear()
    publish_microphone(again)
    again.send(mute=rtc.MuteTrackRequest(sid="TR_none", muted=True))
    again.send(update_metadata=rtc.UpdateParticipantMetadata(request_id=1, name="new"))
    again.send(ping_req=rtc.Ping(timestamp=5))
    assert again.cases() == [
        "track_published",
        "request_response",
        "update",
        "refresh_token",
        "request_response",
        "pong_resp",
    ]


def test_speakers_are_told_again_and_so_is_who_fell_silent_meanwhile(world: World) -> None:
    a, b, track = speaking_pair(world)
    world.media(AudioLevels(((track, 0, 1.0),)))
    b.send(ping=1)
    world.drop(b)
    resumed = world.resume(b)
    speaking = resumed.last("speakers_changed")
    assert isinstance(speaking, rtc.SpeakersChanged)
    assert [(s.sid, s.active) for s in speaking.speakers] == [(a.sid, True)]
    world.drop(resumed)
    world.advance(2)  # stale: silent, and nobody there to hear it
    again = world.resume(resumed)
    silent = again.last("speakers_changed")
    assert isinstance(silent, rtc.SpeakersChanged)
    assert [(s.sid, s.level, s.active) for s in silent.speakers] == [(a.sid, 0.0, False)]


def test_connection_qualities_are_told_again(world: World) -> None:
    a, b, _ = speaking_pair(world)
    world.advance(6)
    again = world.resume(b)
    update = again.last("connection_quality")
    assert isinstance(update, rtc.ConnectionQualityUpdate)
    assert {entry.participant_sid for entry in update.updates} == {a.sid, b.sid}


def test_reliable_packets_sent_again_after_a_resume_are_dropped(world: World) -> None:
    a, _b, _ = speaking_pair(world)
    for sequence in (1, 2, 3):
        a.data(models.DataPacket(sequence=sequence, user=models.UserPacket(payload=b"x")))
    world.drop(a)
    again = world.resume(a)
    assert again.inbox[0].reconnect.last_message_seq == 3
    before = len(world.told(SendData))
    for sequence in (2, 3, 4):
        again.data(models.DataPacket(sequence=sequence, user=models.UserPacket(payload=b"x")))
    sent = [models.DataPacket.FromString(c.payload) for c in world.told(SendData)[before:]]
    assert [packet.sequence for packet in sent] == [4]
    assert world.dropped == ["duplicate", "duplicate"]


def test_failed_media_leaves_five_seconds_for_the_resume(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "test"))
    world.advance(1)  # for a goodbye that may be on its way
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert (leave.action, leave.reason) == (
        Action.RESUME,
        models.DisconnectReason.CONNECTION_TIMEOUT,
    )
    world.advance(4.9)
    assert a.is_present
    world.advance(0.2)
    assert not a.is_present


def test_failed_media_without_a_socket_leaves_five_seconds_too(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.drop(a)
    world.media(Failed(a.primary, "test"))
    world.advance(4.9)
    assert a.is_present
    world.advance(0.2)
    assert not a.is_present


def test_media_that_heals_by_an_ice_restart_alone_needs_no_resume(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    a.offer()
    publisher = a.pcs["publisher"]
    world.media(Connected(publisher))
    world.media(Failed(publisher, "test"))
    a.offer(ufrag="restarted")
    world.media(Connected(publisher))
    world.advance(30)
    assert a.closed is None
    assert "leave" not in a.cases()

"""Joining and leaving a stage, as clients see it: what comes first, what every field says."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.media_commands import ClosePeerConnection, CreatePeerConnection, OpenDataChannel
from sfu.core.media_events import Connected, Failed
from sfu.core.stage import SignalArrived
from tests.support.scripted_room import World


def test_dual_join_starts_with_join_token_and_offer(world: World) -> None:
    a = world.join("a")
    assert a.cases()[:3] == ["join", "refresh_token", "offer"]
    assert not a.all("trickle")
    join = a.last("join")
    assert isinstance(join, rtc.JoinResponse)
    assert join.subscriber_primary
    assert join.participant.identity == "a"
    assert join.participant.sid.startswith("PA_")
    assert (join.ping_interval, join.ping_timeout) == (5, 15)
    assert join.server_info.version == join.server_version
    assert [int(part) for part in join.server_info.version.split(".")] >= [1, 8, 0]
    assert [codec.mime for codec in join.enabled_publish_codecs] == [
        "video/VP8",
        "video/H264",
        "video/VP9",
        "video/AV1",
        "video/H265",
        "audio/PCMU",
        "audio/PCMA",
        "audio/opus",
        "audio/red",
    ]
    assert join.sif_trailer == b"trailer"
    assert join.fast_publish


def test_dual_subscriber_gets_server_channels_before_its_offer(world: World) -> None:
    a = world.join("a")
    assert [command.label for command in world.told(OpenDataChannel)] == [
        "_reliable",
        "_lossy",
        "_data_track",
    ]
    assert [command.pc for command in world.told(CreatePeerConnection)] == [a.pcs["subscriber"]]


def test_single_join_answers_the_embedded_offer_with_its_id(world: World) -> None:
    request = rtc.JoinRequest(
        publisher_offer=rtc.SessionDescription(
            type="offer", sdp='{"ufrag": "c", "sections": []}', id=3
        )
    )
    a = world.join("a", single=True, request=request)
    assert a.cases()[:3] == ["join", "refresh_token", "answer"]
    join, answer = a.last("join"), a.last("answer")
    assert isinstance(join, rtc.JoinResponse)
    assert isinstance(answer, rtc.SessionDescription)
    assert not join.subscriber_primary
    assert (answer.type, answer.id) == ("answer", 3)
    assert "offer" not in a.cases()


def test_who_may_not_subscribe_gets_no_offer_until_needed(world: World) -> None:
    a = world.join("a", grant={"canSubscribe": False})
    join = a.last("join")
    assert isinstance(join, rtc.JoinResponse)
    assert not join.subscriber_primary
    assert "offer" not in a.cases()


def test_primary_connection_makes_participant_active_for_all(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", connect=True)
    world.advance(1)
    states = [
        participant.state
        for update in a.all("update")
        if isinstance(update, rtc.ParticipantUpdate)
        for participant in update.participants
        if participant.sid == b.sid
    ]
    assert states[-1] == models.ParticipantInfo.State.ACTIVE


def test_token_is_pushed_again_every_five_minutes(world: World) -> None:
    a = world.join("a", connect=True)
    a.clear()
    world.advance(299)
    assert "refresh_token" not in a.cases()
    world.advance(2)
    assert a.cases().count("refresh_token") == 1
    assert world.tokens[-1]["sub"] == "a"


def test_never_active_within_a_minute_is_join_failure(world: World) -> None:
    a = world.join("a")
    world.advance(61)
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.reason == models.DisconnectReason.JOIN_FAILURE
    assert a.closed is not None
    assert world.stage.is_empty


@pytest.mark.parametrize("single", [False, True])
def test_leave_is_answered_and_frees_everything(world: World, single: bool) -> None:
    a = world.join("a", single=single)
    a.offer()
    a.send(leave=rtc.LeaveRequest(reason=models.DisconnectReason.USER_REJECTED))
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.reason == models.DisconnectReason.USER_REJECTED
    assert leave.action == rtc.LeaveRequest.Action.DISCONNECT
    assert a.closed is not None
    assert world.stage.is_empty
    assert {command.pc for command in world.told(CreatePeerConnection)} == {
        command.pc for command in world.told(ClosePeerConnection)
    }


def test_lost_socket_without_media_ends_the_session_at_once(world: World) -> None:
    a = world.join("a")
    world.drop(a)
    assert world.stage.is_empty
    assert world.facts[-1].left.reason == models.DisconnectReason.SIGNAL_CLOSE


def test_goodbye_after_the_transport_was_closed_is_awaited_on_the_open_socket(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "closed by the peer"))
    world.advance(0.9)
    assert a.closed is None
    a.send(leave=rtc.LeaveRequest())
    assert not a.is_present
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.Action.DISCONNECT


def test_goodbye_that_was_on_its_way_when_the_socket_was_given_up_is_still_heard(
    world: World,
) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "closed by the peer"))
    world.advance(1.1)
    assert a.closed is not None
    assert a.is_present
    a.send(mute=rtc.MuteTrackRequest())  # of the socket that was given up: nobody listens
    a.send(leave=rtc.LeaveRequest())
    assert not a.is_present


def test_lost_socket_with_media_keeps_session_until_media_failed(world: World) -> None:
    a = world.join("a", connect=True)
    pc = a.primary
    a.answer()
    world.drop(a)
    world.advance(100)
    assert not world.stage.is_empty
    world.media(Failed(pc, "test"))
    world.advance(4.9)
    assert not world.stage.is_empty
    world.advance(0.2)
    assert world.stage.is_empty
    assert world.facts[-1].left.reason == models.DisconnectReason.CONNECTION_TIMEOUT


def test_failed_media_asks_for_resume_and_waits_five_seconds(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "test"))
    assert "leave" not in a.cases()
    world.advance(1.1)
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.Action.RESUME
    assert a.closed is not None
    again = world.resume(a)
    world.advance(19)
    again.connect()
    world.advance(30)
    assert again.closed is None


def test_resumed_session_whose_media_never_returns_ends(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.media(Failed(a.primary, "test"))
    again = world.resume(a)
    world.advance(21)
    assert again.closed is not None
    assert world.stage.is_empty


def test_undecodable_frame_closes_the_socket(world: World) -> None:
    a = world.join("a")
    world.feed(SignalArrived(a.socket, b"\xff\xff\xff"))
    assert a.closed is not None
    assert world.stage.is_empty


def test_same_identity_evicts_the_older_session(world: World) -> None:
    old = world.join("a", connect=True)
    new = world.join("a", connect=True)
    leave = old.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.reason == models.DisconnectReason.DUPLICATE_IDENTITY
    assert old.closed is not None
    assert new.closed is None
    assert len(world.stage._sessions) == 1


def test_full_room_refuses_the_socket(world: World) -> None:
    world = World(max_participants=1)
    world.join("a")
    b = world.join("b")
    assert b.refused is not None
    assert b.refused[0] == 503
    assert len(world.stage._sessions) == 1


def test_metadata_beyond_the_limit_refuses_the_socket(world: World) -> None:
    request = rtc.JoinRequest(metadata="x" * (512 * 1024 + 1))
    a = world.join("a", request=request)
    assert a.refused == (400, "metadata is 524289 bytes, the limit is 524288")
    assert world.stage.is_empty
    assert not world.facts


def test_closing_room_tells_everybody(world: World) -> None:
    a, b = world.join("a", connect=True), world.join("b")
    world.close(models.DisconnectReason.ROOM_DELETED)
    for client in (a, b):
        leave = client.last("leave")
        assert isinstance(leave, rtc.LeaveRequest)
        assert leave.reason == models.DisconnectReason.ROOM_DELETED
    assert world.stage.is_empty


def test_media_of_a_departed_session_is_ignored(world: World) -> None:
    a = world.join("a", connect=True)
    pc = a.primary
    a.send(leave=rtc.LeaveRequest())
    world.media(Connected(pc))
    world.media(Failed(pc, "late"))
    assert world.stage.is_empty


def test_join_with_a_bad_offer_leaves_nothing_in_the_engine(world: World) -> None:
    offer = rtc.SessionDescription(type="offer", sdp="nonsense", id=1)
    world.join("a", request=rtc.JoinRequest(publisher_offer=offer))
    assert world.stage.is_empty
    transports = [
        command
        for command in world.commands
        if isinstance(command, CreatePeerConnection | ClosePeerConnection)
    ]
    assert isinstance(transports[-1], ClosePeerConnection)
    made = [command.pc for command in transports if isinstance(command, CreatePeerConnection)]
    assert sorted(made) == [
        command.pc for command in transports if isinstance(command, ClosePeerConnection)
    ]

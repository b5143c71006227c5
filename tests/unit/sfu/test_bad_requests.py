"""Every request a client can make, made badly: the right answer, nothing changed, nobody else told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from sfu.core import limits
from sfu.core.media_commands import AddRemoteCandidate, AddSender, Command, SetBandwidthCap
from sfu.core.stage import SignalArrived
from tests.support.scripted_room import (
    Client,
    FakePublisherNegotiation,
    FakeSubscriberNegotiation,
    World,
)

Reason = rtc.RequestResponse.Reason
AUDIO, VIDEO = models.TrackType.AUDIO, models.TrackType.VIDEO
NO_PUBLISH: dict[str, object] = {"canPublish": False}
NO_DATA: dict[str, object] = {"canPublishData": False}
NO_PROFILE: dict[str, object] = {"canUpdateOwnMetadata": False}
LONG = "x" * 70_000
MANY = [f"TR_{number}" for number in range(5000)]
SESSION_ENDS, SILENCE = "leave", ""


@dataclass(frozen=True, slots=True)
class Bad:
    """A bad request; `answer`: the reason of its request_response, or the case of its answers."""

    name: str
    message: Any
    answer: int | str = SILENCE
    is_copied: bool = False
    grant: dict[str, object] | None = None
    copied_as: str = ""


def add(**fields: Any) -> rtc.AddTrackRequest:
    return rtc.AddTrackRequest(**{"cid": "c", "type": VIDEO, **fields})


def data_track(**fields: Any) -> rtc.PublishDataTrackRequest:
    return rtc.PublishDataTrackRequest(**{"pub_handle": 1, "name": "n", **fields})


def key(generic: str) -> models.DataBlobKey:
    return models.DataBlobKey(generic=generic)


def data_updates(sids: list[str]) -> rtc.UpdateDataSubscription:
    update = rtc.UpdateDataSubscription.Update
    return rtc.UpdateDataSubscription(updates=[update(track_sid=s, subscribe=True) for s in sids])


PUBLISH_DATA, UNPUBLISH_DATA = "publish_data_track", "unpublish_data_track"
NO_BLOBS = Reason.NOT_ALLOWED
TABLE: dict[str, list[Bad]] = {
    "offer": [
        Bad("empty", rtc.SessionDescription(), SESSION_ENDS),
        Bad("not a description", rtc.SessionDescription(type="offer", sdp=LONG), SESSION_ENDS),
    ],
    "answer": [],  # any id is taken, and a bad one ends the session: test_offering.py
    "trickle": [
        Bad("empty", rtc.TrickleRequest(), Reason.UNCLASSIFIED_ERROR, True),
        Bad("no JSON", rtc.TrickleRequest(candidateInit="{"), Reason.UNCLASSIFIED_ERROR, True),
        Bad(
            "nested too deeply",
            rtc.TrickleRequest(candidateInit="[" * 4000),
            Reason.UNCLASSIFIED_ERROR,
            True,
        ),
        Bad("too long", rtc.TrickleRequest(candidateInit=LONG), Reason.UNCLASSIFIED_ERROR, True),
        Bad(
            "half a character",
            rtc.TrickleRequest(candidateInit='{"candidate": "candidate:\\ud800"}'),
            Reason.UNCLASSIFIED_ERROR,
            True,
        ),
    ],
    "add_track": [
        Bad("forbidden", add(), Reason.NOT_ALLOWED, True, NO_PUBLISH),
        Bad("no media", add(type=models.TrackType.DATA), Reason.UNSUPPORTED_TYPE, True),
        Bad("no such type", add(type=77), Reason.UNSUPPORTED_TYPE, True),
        Bad("unknown sid", add(sid="TR_none"), Reason.NOT_FOUND, True),
        Bad("long name", add(name=LONG), Reason.LIMIT_EXCEEDED, True),
        Bad("long stream", add(stream=LONG), Reason.LIMIT_EXCEEDED, True),
        Bad("long cid", add(cid=LONG), Reason.LIMIT_EXCEEDED, True),
        Bad(
            "long cid of a codec",
            add(simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid=LONG)]),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
        Bad("many layers", add(layers=[models.VideoLayer()] * 17), Reason.LIMIT_EXCEEDED, True),
        Bad(
            "many layers of a codec",
            add(simulcast_codecs=[rtc.SimulcastCodec(layers=[models.VideoLayer()] * 17)]),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
        Bad(
            "many codecs",
            add(simulcast_codecs=[rtc.SimulcastCodec()] * 17),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
        Bad("many features", add(audio_features=[0] * 17), Reason.LIMIT_EXCEEDED, True),
        Bad(
            "many trailer features",
            add(packet_trailer_features=[0] * 17),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
        Bad(
            "large in what nobody limits",
            add(layers=[models.VideoLayer(rid=LONG)]),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
    ],
    "mute": [
        Bad("empty", rtc.MuteTrackRequest(), Reason.NOT_FOUND, True),
        Bad("unknown", rtc.MuteTrackRequest(sid="TR_no", muted=True), Reason.NOT_FOUND, True),
    ],
    "subscription": [
        Bad("empty", rtc.UpdateSubscription()),
        Bad("unknown", rtc.UpdateSubscription(track_sids=["TR_no"], subscribe=True)),
        Bad("many", rtc.UpdateSubscription(track_sids=MANY, subscribe=True)),
        Bad("long", rtc.UpdateSubscription(track_sids=[LONG], subscribe=True)),
    ],
    "track_setting": [
        Bad("empty", rtc.UpdateTrackSettings()),
        Bad("unknown", rtc.UpdateTrackSettings(track_sids=["TR_no"], quality=99)),  # type: ignore[arg-type]
        Bad("many", rtc.UpdateTrackSettings(track_sids=MANY, disabled=True)),
        Bad("long", rtc.UpdateTrackSettings(track_sids=[LONG], priority=2**32 - 1)),
    ],
    "leave": [],  # none is bad: see the tests of what it does
    "update_layers": [
        Bad("empty", rtc.UpdateVideoLayers()),
        Bad("unknown", rtc.UpdateVideoLayers(track_sid="TR_no")),
    ],
    "subscription_permission": [
        Bad(
            "names nobody",
            rtc.SubscriptionPermission(track_permissions=[rtc.TrackPermission()]),
        ),
        Bad(
            "names too many",
            rtc.SubscriptionPermission(
                track_permissions=[rtc.TrackPermission(participant_identity="b")] * 4097
            ),
            Reason.LIMIT_EXCEEDED,
        ),
        Bad(
            "names too many tracks",
            rtc.SubscriptionPermission(
                track_permissions=[rtc.TrackPermission(participant_identity="b", track_sids=MANY)]
            ),
            Reason.LIMIT_EXCEEDED,
        ),
    ],
    "sync_state": [
        Bad("empty", rtc.SyncState()),
        Bad(
            "unknown track",
            rtc.SyncState(
                publish_tracks=[rtc.TrackPublishedResponse(track=models.TrackInfo(sid="TR_no"))]
            ),
            SESSION_ENDS,
        ),
        Bad(
            "unknown data track",
            rtc.SyncState(
                publish_data_tracks=[
                    rtc.PublishDataTrackResponse(info=models.DataTrackInfo(sid="DTR_no"))
                ]
            ),
            SESSION_ENDS,
        ),
        Bad("many disabled", rtc.SyncState(track_sids_disabled=MANY)),
    ],
    "simulate": [
        Bad("empty", rtc.SimulateScenario()),
        Bad("asks for nothing", rtc.SimulateScenario(server_leave=False)),
    ],
    "ping": [Bad("before all time", -(2**63), "pong")],
    "update_metadata": [
        Bad(
            "forbidden",
            rtc.UpdateParticipantMetadata(name="n", request_id=5),
            Reason.NOT_ALLOWED,
            True,
            NO_PROFILE,
        ),
        Bad(
            "long name",
            rtc.UpdateParticipantMetadata(name="n" * 257),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
        Bad(
            "long metadata",
            rtc.UpdateParticipantMetadata(metadata="n" * (512 * 1024 + 1)),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
        Bad(
            "long attributes",
            rtc.UpdateParticipantMetadata(attributes={"key": LONG}),
            Reason.LIMIT_EXCEEDED,
            True,
        ),
    ],
    "ping_req": [Bad("negative", rtc.Ping(timestamp=-1, rtt=-(2**63)), "pong_resp")],
    "update_audio_track": [
        Bad("empty", rtc.UpdateLocalAudioTrack(), Reason.NOT_FOUND, True),
        Bad("unknown", rtc.UpdateLocalAudioTrack(track_sid="TR_no"), Reason.NOT_FOUND, True),
    ],
    "update_video_track": [
        Bad("empty", rtc.UpdateLocalVideoTrack(), Reason.NOT_FOUND, True),
        Bad("unknown", rtc.UpdateLocalVideoTrack(track_sid="TR_no"), Reason.NOT_FOUND, True),
    ],
    "publish_data_track_request": [
        Bad(
            "empty", rtc.PublishDataTrackRequest(), Reason.INVALID_HANDLE, True, None, PUBLISH_DATA
        ),
        Bad("forbidden", data_track(), Reason.NOT_ALLOWED, True, NO_DATA, PUBLISH_DATA),
        Bad(
            "large handle",
            data_track(pub_handle=65536),
            Reason.INVALID_HANDLE,
            True,
            None,
            PUBLISH_DATA,
        ),
        Bad("no name", data_track(name=""), Reason.INVALID_NAME, True, None, PUBLISH_DATA),
        Bad("long name", data_track(name=LONG), Reason.INVALID_NAME, True, None, PUBLISH_DATA),
        Bad(
            "long encoding",
            data_track(frame_encoding=models.DataTrackFrameEncoding(custom="e" * 33)),
            Reason.INVALID_REQUEST,
            True,
            None,
            PUBLISH_DATA,
        ),
        Bad(
            "long name of a schema",
            data_track(schema=models.DataTrackSchemaId(name=LONG)),
            Reason.LIMIT_EXCEEDED,
            True,
            None,
            PUBLISH_DATA,
        ),
    ],
    "unpublish_data_track_request": [
        Bad("empty", rtc.UnpublishDataTrackRequest(), Reason.NOT_FOUND, True, None, UNPUBLISH_DATA),
        Bad(
            "unknown",
            rtc.UnpublishDataTrackRequest(pub_handle=2**32 - 1),
            Reason.NOT_FOUND,
            True,
            None,
            UNPUBLISH_DATA,
        ),
    ],
    "update_data_subscription": [
        Bad("empty", rtc.UpdateDataSubscription()),
        Bad("unknown", data_updates(["DTR_no"])),
        Bad("many", data_updates(MANY)),
        Bad("long", data_updates([LONG])),
    ],
    "store_data_blob_request": [
        Bad("not enabled", rtc.StoreDataBlobRequest(request_id=3), NO_BLOBS),
    ],
    "get_data_blob_request": [
        Bad("not enabled", rtc.GetDataBlobRequest(request_id=3), NO_BLOBS),
    ],
}
ROWS = [(case, bad) for case, rows in TABLE.items() for bad in rows]
ENDING = [(case, bad) for case, bad in ROWS if bad.answer == SESSION_ENDS]
STAYING = [(case, bad) for case, bad in ROWS if bad.answer != SESSION_ENDS]


def name_of(value: object) -> str:
    return value.name if isinstance(value, Bad) else str(value)


def fill(world: World, grant: dict[str, object] | None = None) -> tuple[Client, Client, Client]:
    """Mallory and two others, one of whom publishes."""
    mallory = world.join("mallory", connect=True, grant=grant)
    ben, cem = world.join("ben", connect=True), world.join("cem", connect=True)
    ben.send(add_track=add(cid="mic", type=AUDIO))
    ben.offer({"mid": "1", "kind": "audio", "cid": "mic"})
    for client in (mallory, cem):
        client.answer()
    world.advance(20)
    return mallory, ben, cem


def state_of(world: World, *others: Client) -> object:
    """Records, infos and directory of the room, what the engine was told, what others read."""
    room = world.room
    return (
        room.checkpoint(""),
        {sid: room.checkpoint(sid) for sid in room.members},
        {sid: member.subscription_permission for sid, member in room.members.items()},
        {sid: repr(track) for sid, track in world.stage._directory.tracks.items()},
        len(world.commands),
        len(world.facts),
        [other.cases() for other in others],
    )


def test_the_table_names_every_request() -> None:
    oneof = rtc.SignalRequest.DESCRIPTOR.oneofs_by_name["message"]
    assert set(TABLE) == {field.name for field in oneof.fields}


@pytest.mark.parametrize(("case", "bad"), STAYING, ids=name_of)
def test_bad_request_is_answered_and_changes_nothing(world: World, case: str, bad: Bad) -> None:
    mallory, ben, cem = fill(world, bad.grant)
    before = state_of(world, ben, cem)
    for _ in range(3):
        mallory.clear()
        mallory.send(**{case: bad.message})
        assert state_of(world, ben, cem) == before
        assert mallory.closed is None
        expected = bad.answer if isinstance(bad.answer, str) else "request_response"
        assert mallory.cases() == ([expected] if expected else [])
    if isinstance(bad.answer, str):
        return
    response = mallory.last("request_response")
    assert isinstance(response, rtc.RequestResponse)
    assert response.reason == bad.answer
    assert response.message
    if bad.is_copied:
        assert getattr(response, bad.copied_as or case) == bad.message
    assert response.request_id == getattr(bad.message, "request_id", 0)


@pytest.mark.parametrize(("case", "bad"), ENDING, ids=name_of)
def test_what_cannot_be_repaired_has_its_sender_alone_join_anew(
    world: World, case: str, bad: Bad
) -> None:
    mallory, ben, cem = fill(world)
    mallory.send(**{case: bad.message})
    leave = mallory.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.Action.RECONNECT
    assert (ben.closed, cem.closed) == (None, None)
    world.advance(5)
    assert set(ben.cases()) & {"leave", "track_unpublished"} == set()
    assert {member.identity for member in world.room.members.values()} == {"ben", "cem"}


@pytest.mark.parametrize(("case", "bad"), ROWS, ids=name_of)
def test_request_after_the_end_of_its_session_is_void(world: World, case: str, bad: Bad) -> None:
    mallory, ben, cem = fill(world)
    mallory.send(leave=rtc.LeaveRequest())
    world.advance(5)
    mallory.clear()
    before = state_of(world, ben, cem)
    mallory.send(**{case: bad.message})
    assert (mallory.cases(), state_of(world, ben, cem)) == ([], before)


def test_leave_with_an_unknown_reason_counts_as_the_clients_own(world: World) -> None:
    mallory, _, _ = fill(world)
    mallory.send(leave=rtc.LeaveRequest(reason=999))  # type: ignore[arg-type]
    assert world.facts[-1].left.reason == models.DisconnectReason.CLIENT_INITIATED


def test_wishes_and_settings_of_one_client_are_bounded(world: World) -> None:
    mallory, _, _ = fill(world, {"canSubscribe": True})
    for turn in range(3):
        sids = [f"TR_{turn}_{number}" for number in range(4000)]
        mallory.send(subscription=rtc.UpdateSubscription(track_sids=sids, subscribe=bool(turn)))
        mallory.send(track_setting=rtc.UpdateTrackSettings(track_sids=sids))
        mallory.send(update_data_subscription=data_updates(sids))
    session = world.session(mallory)
    assert len(list(session.subscribing.subscriptions)) <= limits.MAX_WISHES
    assert len(session.subscribing.subscriptions._settings) <= limits.MAX_WISHES
    assert len(session.data_subscribing._wishes) <= limits.MAX_WISHES


def test_more_features_than_there_can_be_are_refused(world: World) -> None:
    _, ben, cem = fill(world)
    [sid] = world.stage._directory.tracks
    before = state_of(world, cem)
    request = rtc.UpdateLocalAudioTrack(track_sid=sid, features=[0] * 17)
    ben.send(update_audio_track=request)
    response = ben.last("request_response")
    assert isinstance(response, rtc.RequestResponse)
    assert (response.reason, response.update_audio_track) == (Reason.LIMIT_EXCEEDED, request)
    assert state_of(world, cem) == before


def test_saying_the_same_again_is_told_to_nobody(world: World) -> None:
    _, ben, cem = fill(world)
    [sid] = world.stage._directory.tracks
    permission = rtc.SubscriptionPermission(all_participants=True)
    for turn in range(3):
        ben.send(subscription_permission=permission)
        ben.send(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid=sid, features=[1]))
        ben.send(update_video_track=rtc.UpdateLocalVideoTrack(track_sid=sid, width=7))
        ben.send(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
        if turn == 0:
            before = [cem.cases(), len(world.commands), world.room.checkpoint(ben.sid)]
    assert [cem.cases(), len(world.commands), world.room.checkpoint(ben.sid)] == before


# ------------------------------------------------------------------------- anything at all

TEXTS = st.one_of(
    st.sampled_from(["", "ben", "TR_no", "{", "[[[[", '{"ufrag": 1}', '{"candidate": 7}', LONG]),
    st.text(max_size=8),
)
UNSIGNED = st.sampled_from([0, 1, 2, 255, 256, 65536, 2**31 - 1])
NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]),
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]),
    FieldDescriptor.CPPTYPE_UINT32: st.one_of(UNSIGNED, st.just(2**32 - 1)),
    FieldDescriptor.CPPTYPE_UINT64: st.one_of(UNSIGNED, st.just(2**64 - 1)),
    FieldDescriptor.CPPTYPE_ENUM: st.sampled_from([-1, 0, 1, 2, 3, 99, 2**31 - 1]),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
}


def value_of(draw: Any, field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        return draw(st.binary(max_size=20)) if is_bytes else draw(TEXTS)
    return draw(NUMBERS[field.cpp_type])


def fill_message(draw: Any, message: Message, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        target = getattr(message, field.name)
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None:
                target["key"] = value_of(draw, value)
        elif field.message_type is not None:
            if depth:
                child = target.add() if field.is_repeated else target
                child.SetInParent()
                fill_message(draw, child, depth - 1)
        elif field.is_repeated:
            target.extend(value_of(draw, field) for _ in range(draw(st.integers(0, 3))))
        else:
            setattr(message, field.name, value_of(draw, field))


@st.composite
def requests(draw: Any) -> bytes:
    """A frame: a request of any case with any content, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return bytes(draw(st.binary(max_size=40)))
    case = draw(st.sampled_from(sorted(TABLE)))
    request = rtc.SignalRequest()
    field = rtc.SignalRequest.DESCRIPTOR.fields_by_name[case]
    if field.message_type is None:
        setattr(request, case, value_of(draw, field))
    else:
        child = getattr(request, case)
        child.SetInParent()
        fill_message(draw, child, 2)
    return request.SerializeToString()


def check_command(command: Command) -> None:
    """What the engine's binding takes without raising."""
    match command:
        case AddSender():
            assert 0 <= command.config.priority <= 255
        case SetBandwidthCap():
            assert command.bps is None or 0 < command.bps < 2**64
        case AddRemoteCandidate():
            command.candidate.encode()
        case _:
            pass


ALLOWED_TO_OTHERS = frozenset(
    {"update", "room_update", "speakers_changed", "connection_quality", "offer"}
    | {"subscription_permission_update", "subscribed_quality_update", "stream_state_update"}
    | {"media_sections_requirement", "track_subscribed", "refresh_token"}
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(frames=st.lists(requests(), max_size=12), is_single=st.booleans())
def test_whatever_one_client_sends_the_others_go_on(
    frames: list[bytes], is_single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfu.core.connections.PublisherNegotiation", FakePublisherNegotiation)
    monkeypatch.setattr("sfu.core.connections.SubscriberNegotiation", FakeSubscriberNegotiation)
    world = World()
    mallory = world.join("mallory", single=is_single, connect=True)
    ben, cem = world.join("ben", connect=True), world.join("cem", connect=True)
    world.advance(1)
    for client in (ben, cem):
        client.answer()
        client.clear()
    for frame in frames:
        if mallory.closed is None:
            world.feed(SignalArrived(mallory.socket, frame))
    world.advance(70)
    assert set(ben.cases()) <= ALLOWED_TO_OTHERS
    ben.send(add_track=add(cid="mic", type=AUDIO))
    ben.offer({"mid": "1", "kind": "audio", "cid": "mic"})
    world.advance(1)
    cem.answer()
    world.advance(1)
    published = ben.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    subscription = world.session(cem).subscribing.subscriptions.get(published.track.sid)
    assert subscription is not None
    assert subscription.sender is not None
    for command in world.commands:
        check_command(command)

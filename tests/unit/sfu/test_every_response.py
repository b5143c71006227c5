"""Every kind of SignalResponse: what has it sent to whom, or why it never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.media_commands import AddReceiver, AddSender
from sfu.core.media_events import AudioLevels, LayerChanged
from tests.support.scripted_room import Client, World
from tests.unit.sfu.test_moving import move, two_rooms

AUDIO, VIDEO = models.TrackType.AUDIO, models.TrackType.VIDEO
MIC: dict[str, object] = {"mid": "7", "kind": "audio", "cid": "mic"}
CAM: dict[str, object] = {"mid": "8", "kind": "video", "cid": "cam"}


class Hall:
    """Ann and Ben, connected."""

    def __init__(self, *, is_single: bool = False) -> None:
        self.world = World(stage_settings={"has_data_blobs": True})
        self.ann, self.ben = (
            self.world.join(name, single=is_single, connect=True) for name in ("ann", "ben")
        )
        self.ben.offer() if is_single else self.ben.answer()
        self.world.advance(1)

    def publish(self, kind: models.TrackType = AUDIO) -> str:
        """Ann's track, which Ben is sent."""
        cid = "mic" if kind == AUDIO else "cam"
        self.ann.send(add_track=rtc.AddTrackRequest(cid=cid, type=kind))
        self.ann.offer(MIC if kind == AUDIO else CAM)
        if kind == VIDEO:
            self.world.start_encodings((0, None))
        self.world.advance(1)
        if not self.ben.is_single:
            self.ben.answer()
        published = self.ann.last("track_published")
        assert isinstance(published, rtc.TrackPublishedResponse)
        return published.track.sid

    def clear(self) -> None:
        """Forget what both were told so far."""
        self.ann.clear()
        self.ben.clear()


Told = tuple[Client, Client | None]
"""Who is told, and who is not (None: everybody may be)."""


def join() -> Told:
    hall = Hall()
    hall.clear()
    return hall.world.join("cem"), hall.ann


def reconnect() -> Told:
    hall = Hall()
    hall.world.drop(hall.ben)
    return hall.world.resume(hall.ben), hall.ann


def refresh_token() -> Told:
    hall = Hall()
    return hall.ann, None


def answer() -> Told:
    hall = Hall()
    hall.clear()
    hall.ann.offer()
    return hall.ann, hall.ben


def offer() -> Told:
    hall = Hall()
    hall.clear()
    hall.ann.send(add_track=rtc.AddTrackRequest(cid="mic", type=AUDIO))
    hall.ann.offer(MIC)
    hall.world.advance(1)
    return hall.ben, hall.ann


def media_sections_requirement() -> Told:
    hall = Hall(is_single=True)
    hall.clear()
    hall.ann.send(add_track=rtc.AddTrackRequest(cid="mic", type=AUDIO))
    hall.ann.offer(MIC)
    hall.world.advance(1)
    return hall.ben, hall.ann


def update() -> Told:
    hall = Hall()
    hall.clear()
    hall.ben.send(leave=rtc.LeaveRequest())
    hall.world.advance(1)
    return hall.ann, None


def leave() -> Told:
    hall = Hall()
    hall.ben.send(offer=rtc.SessionDescription(type="offer", sdp="{"))
    return hall.ben, hall.ann


def track_published() -> Told:
    hall = Hall()
    hall.publish()
    return hall.ann, hall.ben


def track_subscribed() -> Told:
    hall = Hall()
    hall.publish()
    return hall.ann, hall.ben


def track_unpublished() -> Told:
    hall = Hall()
    unpublish = room_pb2.UnpublishTrack(track_sid=hall.publish())
    hall.world.order(room_pb2.Order(participant_sid=hall.ann.sid, unpublish_track=unpublish))
    return hall.ann, hall.ben


def mute() -> Told:
    hall = Hall()
    mute_track = room_pb2.MuteTrack(track_sid=hall.publish(), muted=True)
    hall.world.order(room_pb2.Order(participant_sid=hall.ann.sid, mute_track=mute_track))
    return hall.ann, hall.ben


def speakers_changed() -> Told:
    hall = Hall()
    bystander = hall.world.join("cem", auto_subscribe=False, connect=True)
    hall.publish()
    track = hall.world.told(AddReceiver)[-1].track
    hall.world.media(AudioLevels(((track, 0, 1.0),)))
    return hall.ben, bystander


def connection_quality() -> Told:
    hall = Hall()
    bystander = hall.world.join("cem", auto_subscribe=False)
    hall.publish()
    hall.world.advance(11)
    return hall.ben, bystander


def room_update() -> Told:
    hall = Hall()
    hall.clear()
    hall.world.join("cem", connect=True)
    hall.world.advance(6)
    return hall.ann, None


def stream_state_update() -> Told:
    hall = Hall()
    hall.publish(VIDEO)
    hall.world.media(LayerChanged(hall.world.told(AddSender)[-1].sender, 0, 0))
    return hall.ben, hall.ann


def subscribed_quality_update() -> Told:
    hall = Hall()
    hall.publish(VIDEO)
    hall.world.advance(11)
    return hall.ann, hall.ben


def subscription_permission_update() -> Told:
    hall = Hall()
    hall.publish()
    hall.ann.send(subscription_permission=rtc.SubscriptionPermission(all_participants=False))
    return hall.ben, hall.ann


def subscription_response() -> Told:
    hall = Hall()
    request = rtc.UpdateDataSubscription(
        updates=[rtc.UpdateDataSubscription.Update(track_sid="DTR_none", subscribe=True)]
    )
    hall.ben.send(update_data_subscription=request)
    hall.world.advance(61)
    return hall.ben, hall.ann


def subscribed_audio_codec_update() -> Told:
    hall = Hall()
    codecs = [rtc.SimulcastCodec(codec=name, cid=f"m_{name}") for name in ("opus", "pcmu")]
    hall.ann.send(add_track=rtc.AddTrackRequest(cid="m_opus", type=AUDIO, simulcast_codecs=codecs))
    hall.ann.offer(
        {"mid": "1", "kind": "audio", "cid": "m_opus"},
        {"mid": "2", "kind": "audio", "cid": "m_pcmu"},
    )
    hall.world.advance(0.2)
    hall.ben.answer(accepts=["audio/pcmu"])
    hall.world.advance(1)
    return hall.ann, hall.ben


def pong() -> Told:
    hall = Hall()
    hall.ann.send(ping=5)
    return hall.ann, hall.ben


def pong_resp() -> Told:
    hall = Hall()
    hall.ann.send(ping_req=rtc.Ping(timestamp=5))
    return hall.ann, hall.ben


def request_response() -> Told:
    hall = Hall()
    hall.ann.send(mute=rtc.MuteTrackRequest(sid="TR_none"))
    return hall.ann, hall.ben


def publish_data_track_response() -> Told:
    hall = Hall()
    request = rtc.PublishDataTrackRequest(pub_handle=1, name="n")
    hall.ann.send(publish_data_track_request=request)
    return hall.ann, hall.ben


def unpublish_data_track_response() -> Told:
    hall = Hall()
    request = rtc.PublishDataTrackRequest(pub_handle=1, name="n")
    hall.ann.send(publish_data_track_request=request)
    hall.ann.send(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=1))
    return hall.ann, hall.ben


def data_track_subscriber_handles() -> Told:
    hall = Hall()
    request = rtc.PublishDataTrackRequest(pub_handle=1, name="n")
    hall.ann.send(publish_data_track_request=request)
    response = hall.ann.last("publish_data_track_response")
    assert isinstance(response, rtc.PublishDataTrackResponse)
    wish = rtc.UpdateDataSubscription.Update(track_sid=response.info.sid, subscribe=True)
    hall.ben.send(update_data_subscription=rtc.UpdateDataSubscription(updates=[wish]))
    return hall.ben, hall.ann


def store(hall: Hall) -> models.DataBlobKey:
    key = models.DataBlobKey(generic="k")
    blob = models.DataBlob(key=key, contents=b"c")
    hall.ann.send(store_data_blob_request=rtc.StoreDataBlobRequest(request_id=1, blob=blob))
    return key


def store_data_blob_response() -> Told:
    hall = Hall()
    store(hall)
    return hall.ann, hall.ben


def get_data_blob_response() -> Told:
    hall = Hall()
    request = rtc.GetDataBlobRequest(request_id=2, participant_identity="ann", key=store(hall))
    hall.ben.send(get_data_blob_request=request)
    return hall.ben, hall.ann


def room_moved() -> Told:
    here, there = two_rooms()
    met, left = there.join("met", connect=True), here.join("left", connect=True)
    ann = here.join("ann", connect=True)
    move(here, ann, there)
    assert "room_moved" not in met.cases()
    return ann, left


SENT: Final[tuple[Callable[[], Told], ...]] = (
    join,
    reconnect,
    refresh_token,
    answer,
    offer,
    media_sections_requirement,
    update,
    leave,
    track_published,
    track_subscribed,
    track_unpublished,
    mute,
    speakers_changed,
    connection_quality,
    room_update,
    room_moved,
    stream_state_update,
    subscribed_quality_update,
    subscription_permission_update,
    subscription_response,
    subscribed_audio_codec_update,
    pong,
    pong_resp,
    request_response,
    publish_data_track_response,
    unpublish_data_track_response,
    data_track_subscriber_handles,
    store_data_blob_response,
    get_data_blob_response,
)
NEVER: Final = {"trickle": "every description holds all candidates of the server: they are known"}


def test_the_table_names_every_response() -> None:
    fields = rtc.SignalResponse.DESCRIPTOR.oneofs_by_name["message"].fields
    named = [scene.__name__ for scene in SENT] + list(NEVER)
    assert sorted(named) == sorted(field.name for field in fields)


@pytest.mark.usefixtures("world")  # which makes negotiation fake
@pytest.mark.parametrize("scene", SENT, ids=lambda scene: scene.__name__)
def test_response_is_sent_to_whom_it_concerns_alone(scene: Callable[[], Told]) -> None:
    told, other = scene()
    assert scene.__name__ in told.cases()
    assert other is None or scene.__name__ not in other.cases()

"""Layers of a published video: as announced, as its rids say, as old SDKs leave them out."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.media_commands import AddSender
from tests.support.scripted_room import Client, World
from tests.unit.sfu.test_stage_publish_subscribe import pair, subscribe

Mode = models.VideoLayer.Mode


def add_video(client: Client, *codecs: rtc.SimulcastCodec, **fields: object) -> models.TrackInfo:
    request = rtc.AddTrackRequest(
        cid="cam",
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        width=1280,
        height=720,
        simulcast_codecs=codecs,
        **fields,  # type: ignore[arg-type]
    )
    client.send(add_track=request)
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track


@pytest.mark.parametrize(
    ("codec", "asked", "mode"),
    [
        ("vp8", Mode.MODE_UNUSED, Mode.ONE_SPATIAL_LAYER_PER_STREAM),
        ("h264", Mode.MODE_UNUSED, Mode.ONE_SPATIAL_LAYER_PER_STREAM),
        ("h265", Mode.MODE_UNUSED, Mode.ONE_SPATIAL_LAYER_PER_STREAM),
        ("vp9", Mode.MODE_UNUSED, Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM),
        ("av1", Mode.MODE_UNUSED, Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM),
        ("vp9", Mode.ONE_SPATIAL_LAYER_PER_STREAM, Mode.ONE_SPATIAL_LAYER_PER_STREAM),
        (
            "h264",
            Mode.ONE_SPATIAL_LAYER_PER_STREAM_INCOMPLETE_RTCP_SR,
            Mode.ONE_SPATIAL_LAYER_PER_STREAM_INCOMPLETE_RTCP_SR,
        ),
    ],
)
def test_layer_mode_is_as_asked_or_by_the_codec(
    world: World, codec: str, asked: models.VideoLayer.Mode, mode: models.VideoLayer.Mode
) -> None:
    a = world.join("a", connect=True)
    layers = [
        models.VideoLayer(quality=models.VideoQuality.LOW),
        models.VideoLayer(quality=models.VideoQuality.MEDIUM),
    ]
    wanted = rtc.SimulcastCodec(codec=codec, cid="cam", video_layer_mode=asked)
    info = add_video(a, wanted, layers=layers)
    assert info.codecs[0].video_layer_mode == mode
    assert len(info.codecs[0].layers) == 2
    assert info.simulcast is (mode != Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM)


def test_dimensions_of_a_published_video_may_change(world: World) -> None:
    a = world.join("a", connect=True)
    sid = add_video(a).sid
    a.offer({"mid": "8", "kind": "video", "cid": "cam", "rids": []})
    size = rtc.UpdateLocalVideoTrack(track_sid=sid, width=640, height=480)
    a.send(update_video_track=size)
    info = world.stage._directory.tracks[sid].info
    assert (info.width, info.height) == (640, 480)


def test_simulcast_without_announced_layers_gets_them_from_its_rids(world: World) -> None:
    a, b = pair(world, single=False)
    sid = add_video(a).sid
    a.offer({"mid": "8", "kind": "video", "cid": "cam", "rids": ["q", "h", "f"]})
    world.start_encodings((0, "q"), (1, "h"), (2, "f"))
    info = world.stage._directory.tracks[sid].info
    assert info.simulcast
    sizes = [(layer.width, layer.height, layer.rid) for layer in info.layers]
    assert sizes == [(320, 180, "q"), (640, 360, "h"), (1280, 720, "f")]
    assert [layer.ssrc for layer in info.codecs[0].layers] == [5000, 5001, 5002]
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], width=600, height=340))
    subscribe(world, b)
    assert world.told(AddSender)[-1].config.max_spatial_layer == 1

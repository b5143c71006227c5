"""Layers by size, quality and frame rate; dynacast's quick rise and slow fall."""

import pytest
from livekit.protocol import models

from sfu.core.quality import (
    HIGH,
    LOW,
    MEDIUM,
    OFF,
    QualityAggregate,
    TrackSetting,
    subscribed_quality_update,
    wanted_layers,
)

VP8, AV1 = "video/vp8", "video/av1"
SIZES = ((320, 180), (640, 360), (1280, 720))


def track(count: int = 3, *, portrait: bool = False) -> models.TrackInfo:
    qualities = [
        models.VideoQuality.LOW,
        models.VideoQuality.MEDIUM,
        models.VideoQuality.HIGH,
    ][:count]
    return models.TrackInfo(
        sid="TR_VC1",
        codecs=[models.SimulcastCodecInfo(mime_type="video/VP8", mid="1")],
        layers=[
            models.VideoLayer(
                quality=quality,
                width=size[1] if portrait else size[0],
                height=size[0] if portrait else size[1],
            )
            for quality, size in zip(qualities, SIZES, strict=False)
        ],
    )


@pytest.mark.parametrize(
    ("setting", "spatial_layer", "quality"),
    [
        (TrackSetting(), 2, HIGH),
        (TrackSetting(quality=MEDIUM), 1, MEDIUM),
        (TrackSetting(quality=LOW), 0, LOW),
        (TrackSetting(width=320, height=180), 0, LOW),
        (TrackSetting(width=355, height=200), 0, LOW),  # 180 is 90 % of 200
        (TrackSetting(width=357, height=201), 1, MEDIUM),
        (TrackSetting(width=360, height=640), 1, MEDIUM),  # a portrait window
        (TrackSetting(width=4000, height=2000), 2, HIGH),
        (TrackSetting(width=10, height=10, quality=HIGH), 0, LOW),
        (TrackSetting(is_disabled=True), 2, OFF),
    ],
)
def test_layer_by_size_wins_over_quality(
    setting: TrackSetting, spatial_layer: int, quality: int
) -> None:
    for portrait in (False, True):
        wanted = wanted_layers(track(portrait=portrait), setting)
        assert (wanted.spatial_layer, wanted.quality) == (spatial_layer, quality)


def test_quality_above_the_declared_layers_is_the_highest_there_is() -> None:
    assert wanted_layers(track(2), TrackSetting(quality=HIGH)).spatial_layer == 1


@pytest.mark.parametrize(("fps", "layer"), [(0, 3), (30, 3), (15, 1), (7, 0), (1, 0)])
def test_frame_rate_limits_the_temporal_layer(fps: int, layer: int) -> None:
    assert wanted_layers(track(), TrackSetting(fps=fps)).temporal_layer == layer


def test_aggregate_rises_at_once_and_falls_after_the_delay() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    assert aggregate.poll(1) is None
    aggregate.want("b", VP8, LOW)
    assert aggregate.poll(1) == {VP8: LOW}
    aggregate.want("c", VP8, HIGH)
    assert aggregate.poll(2) == {VP8: HIGH}
    aggregate.forget("c")
    assert aggregate.poll(3) is None
    assert aggregate.next_timeout() == 8
    assert aggregate.poll(7.9) is None
    assert aggregate.poll(8) == {VP8: LOW}
    assert aggregate.next_timeout() is None


def test_fall_is_forgotten_when_quality_is_wanted_again() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    aggregate.want("b", VP8, HIGH)
    assert aggregate.poll(0) == {VP8: HIGH}
    aggregate.want("b", VP8, LOW)
    assert aggregate.poll(1) is None
    aggregate.want("b", VP8, HIGH)
    assert aggregate.poll(2) is None
    aggregate.want("b", VP8, LOW)
    assert aggregate.poll(7) is None
    assert aggregate.poll(12) == {VP8: LOW}


def test_nobody_subscribed_is_said_ten_seconds_after_publication() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    assert aggregate.poll(9.9) is None
    assert aggregate.poll(10) == {}
    assert aggregate.poll(11) is None


def test_update_has_no_quality_above_the_highest_layer() -> None:
    update = subscribed_quality_update(track(2), {VP8: HIGH})
    assert [quality.enabled for quality in update.subscribed_qualities] == [True, True, False]
    assert [codec.codec for codec in update.subscribed_codecs] == ["vp8"]
    off = subscribed_quality_update(track(2), {})
    assert not any(quality.enabled for quality in off.subscribed_qualities)


def test_every_codec_has_its_own_qualities_and_layers() -> None:
    video = track()
    video.codecs.add(
        mime_type="video/AV1", layers=[models.VideoLayer(quality=models.VideoQuality.LOW)]
    )
    update = subscribed_quality_update(video, {AV1: HIGH})
    enabled = {
        codec.codec: [quality.enabled for quality in codec.qualities]
        for codec in update.subscribed_codecs
    }
    assert enabled == {"vp8": [False] * 3, "av1": [True, False, False]}
    assert [quality.enabled for quality in update.subscribed_qualities] == [False] * 3


def test_rise_of_one_codec_is_announced_with_the_fall_of_another() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    aggregate.want("b", AV1, HIGH)
    assert aggregate.poll(0) == {AV1: HIGH}
    aggregate.want("b", VP8, HIGH)
    assert aggregate.poll(1) == {VP8: HIGH}


def test_hurried_fall_does_not_wait() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    aggregate.want("b", AV1, HIGH)
    aggregate.want("c", VP8, HIGH)
    assert aggregate.poll(0) == {AV1: HIGH, VP8: HIGH}
    aggregate.want("b", VP8, HIGH)
    aggregate.hurry()
    assert aggregate.poll(1) == {VP8: HIGH}
    aggregate.forget("c")
    aggregate.forget("b")
    assert aggregate.poll(2) is None

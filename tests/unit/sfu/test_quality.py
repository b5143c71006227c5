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
    aggregate.want("b", LOW)
    assert aggregate.poll(1) == LOW
    aggregate.want("c", HIGH)
    assert aggregate.poll(2) == HIGH
    aggregate.forget("c")
    assert aggregate.poll(3) is None
    assert aggregate.next_timeout() == 8
    assert aggregate.poll(7.9) is None
    assert aggregate.poll(8) == LOW
    assert aggregate.next_timeout() is None


def test_fall_is_forgotten_when_quality_is_wanted_again() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    aggregate.want("b", HIGH)
    assert aggregate.poll(0) == HIGH
    aggregate.want("b", LOW)
    assert aggregate.poll(1) is None
    aggregate.want("b", HIGH)
    assert aggregate.poll(2) is None
    aggregate.want("b", LOW)
    assert aggregate.poll(7) is None
    assert aggregate.poll(12) == LOW


def test_nobody_subscribed_is_said_ten_seconds_after_publication() -> None:
    aggregate = QualityAggregate(0, downgrade_delay=5)
    assert aggregate.poll(9.9) is None
    assert aggregate.poll(10) == OFF
    assert aggregate.poll(11) is None


def test_update_has_no_quality_above_the_highest_layer() -> None:
    update = subscribed_quality_update(track(2), HIGH)
    assert [quality.enabled for quality in update.subscribed_qualities] == [True, True, False]
    assert [codec.codec for codec in update.subscribed_codecs] == ["vp8"]
    off = subscribed_quality_update(track(2), OFF)
    assert not any(quality.enabled for quality in off.subscribed_qualities)

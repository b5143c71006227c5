"""Which layers a subscriber gets, and which layers a publisher need send.

`wanted_layers` turns a subscriber's track settings (adaptive stream: a size, a quality, a frame
rate) into the layers its sender may forward at most. `QualityAggregate` is dynacast: the highest
quality any local subscriber wants of each codec of a track, announced upwards at once and downwards
after a pause. Neither estimates bandwidth: the engine lowers layers further by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from livekit.protocol import models, rtc

OFF = -1
LOW, MEDIUM, HIGH = 0, 1, 2
QUALITIES = (LOW, MEDIUM, HIGH)
WIRE_QUALITIES: dict[int, models.VideoQuality] = {
    LOW: models.VideoQuality.LOW,
    MEDIUM: models.VideoQuality.MEDIUM,
    HIGH: models.VideoQuality.HIGH,
}

ALL_TEMPORAL_LAYERS = 3
MAX_PRIORITY = 255  # of the engine's senders
ASSUMED_FRAME_RATE = 30  # AddTrack names no frame rate
SIZE_TOLERANCE = 0.9  # a layer counts as large enough from 90 % of the asked height
FIRST_EVALUATION = 10.0  # seconds after publication, when nobody subscribed


@dataclass(frozen=True, slots=True)
class TrackSetting:
    """What one subscriber asked for one track; zeros mean "not said"."""

    is_disabled: bool = False
    quality: int = HIGH
    width: int = 0
    height: int = 0
    fps: int = 0
    priority: int = 0

    @classmethod
    def from_request(cls, request: rtc.UpdateTrackSettings) -> TrackSetting:
        """Unknown and OFF qualities count as HIGH: "off" is said by `disabled`."""
        quality = int(request.quality)
        return cls(
            is_disabled=request.disabled,
            quality=quality if quality in QUALITIES else HIGH,
            width=request.width,
            height=request.height,
            fps=request.fps,
            priority=min(request.priority, MAX_PRIORITY),
        )


@dataclass(frozen=True, slots=True)
class WantedLayers:
    """The most a sender may forward. `quality` is what dynacast counts for it."""

    spatial_layer: int
    temporal_layer: int
    quality: int
    is_paused: bool


def wanted_layers(track: models.TrackInfo, setting: TrackSetting, codec: str = "") -> WantedLayers:
    """A spatial layer is the index among the codec's declared layers, sorted by quality."""
    layers = codec_layers(track, codec)
    if setting.width > 0 and setting.height > 0 and layers:
        index = _layer_by_size(layers, setting.width, setting.height)
    else:
        index = _layer_by_quality(layers, setting.quality)
    quality = int(layers[index].quality) if index < len(layers) else min(setting.quality, HIGH)
    return WantedLayers(
        spatial_layer=index,
        temporal_layer=_temporal_layer(setting.fps),
        quality=OFF if setting.is_disabled else quality,
        is_paused=setting.is_disabled,
    )


def declared_layers(track: models.TrackInfo) -> list[models.VideoLayer]:
    """The layers AddTrack named, low to high."""
    layers = [layer for layer in track.layers if int(layer.quality) in QUALITIES]
    return sorted(layers, key=lambda layer: int(layer.quality))


def codec_layers(track: models.TrackInfo, codec: str) -> list[models.VideoLayer]:
    """The layers of one codec (a lower-case mime), low to high: its own, or the track's."""
    for known in track.codecs:
        if known.layers and known.mime_type.lower() == codec:
            return declared_layers(models.TrackInfo(layers=known.layers))
    return declared_layers(track)


class QualityAggregate:
    """Dynacast of one published track over its local subscribers.

    Says the highest quality wanted of each codec, by lower-case mime, only when one changed: any
    rise at once, with all falls; mere falls after `downgrade_delay` seconds in which nothing rose
    again. A codec nobody wants is not named. Without any subscriber the first word comes 10 s after
    publication.
    """

    def __init__(self, published_at: float, downgrade_delay: float) -> None:
        self._wanted: dict[str, tuple[str, int]] = {}
        self._announced: Mapping[str, int] | None = None
        self._first_at = published_at + FIRST_EVALUATION
        self._downgrade_at: float | None = None
        self._downgrade_delay = downgrade_delay
        self._is_hurried = False

    def want(self, subscriber: str, codec: str, quality: int) -> None:
        """`quality` is OFF for a subscriber that disabled the track."""
        self._wanted[subscriber] = (codec, quality)

    def forget(self, subscriber: str) -> None:
        """The subscription ended."""
        self._wanted.pop(subscriber, None)

    def forget_all(self, prefix: str) -> None:
        """The subscriptions of all whose names begin like this ended."""
        self._wanted = {k: v for k, v in self._wanted.items() if not k.startswith(prefix)}

    def hurry(self) -> None:
        """Do not wait with the next fall: a codec gave way to another."""
        self._is_hurried = True

    def poll(self, now: float) -> Mapping[str, int] | None:
        """What to announce now, or None when there is nothing new to say."""
        target = self._target()
        is_hurried, self._is_hurried = self._is_hurried, False
        announced = self._announced
        if announced is None:
            is_due = bool(target) or now >= self._first_at
            return self._announce(target) if is_due else None
        if target == announced:
            self._downgrade_at = None
            return None
        is_rise = any(quality > announced.get(codec, OFF) for codec, quality in target.items())
        if is_rise or is_hurried:
            return self._announce(target)
        if self._downgrade_at is None:
            self._downgrade_at = now + self._downgrade_delay
        return self._announce(target) if now >= self._downgrade_at else None

    def announced(self) -> Mapping[str, int] | None:
        """What was said last, for repeating it after an unmute or a resume."""
        return self._announced

    def next_timeout(self) -> float | None:
        """When `poll` may have something to say by time alone."""
        if self._announced is None:
            return self._first_at
        return self._downgrade_at

    def _target(self) -> dict[str, int]:
        target: dict[str, int] = {}
        for codec, quality in self._wanted.values():
            if quality > target.get(codec, OFF):
                target[codec] = quality
        return target

    def _announce(self, target: Mapping[str, int]) -> Mapping[str, int]:
        self._announced = target
        self._downgrade_at = None
        return target


def subscribed_quality_update(
    track: models.TrackInfo, wanted: Mapping[str, int]
) -> rtc.SubscribedQualityUpdate:
    """The message to the publisher of a video: every codec, announced or published.

    Qualities above the highest declared layer are off. Old clients read the first codec's list.
    """
    codecs = [
        rtc.SubscribedCodec(
            codec=_codec_name(codec.mime_type),
            qualities=_qualities(track, codec.mime_type.lower(), wanted),
        )
        for codec in track.codecs
    ]
    return rtc.SubscribedQualityUpdate(
        track_sid=track.sid,
        subscribed_qualities=codecs[0].qualities if codecs else (),
        subscribed_codecs=codecs,
    )


def subscribed_audio_codec_update(
    track: models.TrackInfo, wanted: Mapping[str, int]
) -> rtc.SubscribedAudioCodecUpdate:
    """The message to the publisher of an audio track in several codecs."""
    return rtc.SubscribedAudioCodecUpdate(
        track_sid=track.sid,
        subscribed_audio_codecs=[
            models.SubscribedAudioCodec(
                codec=_codec_name(codec.mime_type),
                enabled=wanted.get(codec.mime_type.lower(), OFF) > OFF,
            )
            for codec in track.codecs
        ],
    )


def _qualities(
    track: models.TrackInfo, mime: str, wanted: Mapping[str, int]
) -> list[rtc.SubscribedQuality]:
    layers = codec_layers(track, mime)
    highest = int(layers[-1].quality) if layers else HIGH
    maximum = min(wanted.get(mime, OFF), highest)
    return [
        rtc.SubscribedQuality(quality=WIRE_QUALITIES[quality], enabled=quality <= maximum)
        for quality in QUALITIES
    ]


def _codec_name(mime: str) -> str:
    return mime.lower().rpartition("/")[2]


def _layer_by_size(layers: Sequence[models.VideoLayer], width: int, height: int) -> int:
    # The shorter side tells the size whether the video or the window is portrait or landscape.
    asked = min(width, height) * SIZE_TOLERANCE
    for index, layer in enumerate(layers):
        if min(layer.width, layer.height) >= asked:
            return index
    return len(layers) - 1


def _layer_by_quality(layers: Sequence[models.VideoLayer], quality: int) -> int:
    if not layers:
        return quality
    fitting = [index for index, layer in enumerate(layers) if int(layer.quality) <= quality]
    return fitting[-1] if fitting else 0


def _temporal_layer(fps: int) -> int:
    if fps <= 0:
        return ALL_TEMPORAL_LAYERS
    if fps <= ASSUMED_FRAME_RATE // 4:
        return 0
    if fps <= ASSUMED_FRAME_RATE // 2:
        return 1
    return ALL_TEMPORAL_LAYERS

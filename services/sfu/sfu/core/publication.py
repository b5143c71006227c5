"""What one participant publishes: announced, queued and published tracks.

An AddTrackRequest makes a pending track with its sid; the negotiation matches it to a section, and
it is published when its media can arrive. Not the track directory of the room, and not the engine:
this file decides and keeps, its caller tells the Room and commands the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from livekit.protocol import models, rtc

from chassis.ids import TRACK
from sfu.core.codecs import AUDIO_MIMES, VIDEO_MIMES
from sfu.core.effects import Ids
from sfu.core.media_commands import ReceiverConfig
from sfu.core.plans import (
    AnnouncedCodec,
    AnnouncedTrack,
    Kind,
    ReceiverPlan,
)
from sfu.core.quality import QUALITIES, WIRE_QUALITIES, QualityAggregate, declared_layers

MAX_PENDING = 20
MAX_QUEUED_PER_CID = 3
SVC_MIMES = frozenset({"video/vp9", "video/av1"})
_OPUS_PAIR = frozenset({"audio/opus", "audio/red"})
WIRE_MIMES = {mime.lower(): mime for mime in (*AUDIO_MIMES, *VIDEO_MIMES)}

Reason = rtc.RequestResponse.Reason
Mode = models.VideoLayer.Mode

_TYPE_LETTERS = {models.TrackType.AUDIO: "A", models.TrackType.VIDEO: "V"}
_SOURCE_LETTERS = {
    models.TrackSource.CAMERA: "C",
    models.TrackSource.MICROPHONE: "M",
    models.TrackSource.SCREEN_SHARE: "S",
    models.TrackSource.SCREEN_SHARE_AUDIO: "s",
}
_STREAMS = {
    models.TrackSource.CAMERA: "camera",
    models.TrackSource.MICROPHONE: "camera",
    models.TrackSource.SCREEN_SHARE: "screen",
    models.TrackSource.SCREEN_SHARE_AUDIO: "screen",
}


@dataclass(slots=True)
class PublishedTrack:
    """One track of this participant, pending or published.

    `engine_ids` has one engine track for each codec that has a section, by its place in
    `info.codecs`; `flowing_backups` the places of backup codecs whose media came. `info` is the
    TrackInfo as it is now.
    """

    info: models.TrackInfo
    announced: AnnouncedTrack
    engine_ids: dict[int, int] = field(default_factory=dict)
    is_by_rid: bool = False
    is_published: bool = False
    quality: QualityAggregate | None = None
    is_subscribed_told: bool = False
    flowing_backups: set[int] = field(default_factory=set)

    @property
    def sid(self) -> str:
        return self.info.sid

    @property
    def kind(self) -> Kind:
        return self.announced.kind

    @property
    def engine_id(self) -> int | None:
        """The engine track of the primary codec."""
        return self.engine_ids.get(0)

    def accept(self, plan: ReceiverPlan, engine_id: int) -> None:
        """A section carries this track: write into the TrackInfo what it says."""
        self.engine_ids[plan.codec_index] = engine_id
        codec = self.info.codecs[plan.codec_index]
        mime = plan.codecs[0].mime if plan.codecs else ""
        codec.mime_type = WIRE_MIMES.get(mime.lower(), mime)
        codec.mid = plan.mid
        if plan.sdp_cid != codec.cid:
            codec.sdp_cid = plan.sdp_cid
        if self.kind == "video" and not codec.layers:
            self._infer_layers(codec, len(plan.encodings))
        if plan.codec_index == 0:
            self.is_by_rid = plan.by_rid
            self.info.mime_type = codec.mime_type
            self.info.mid = plan.mid
        if not plan.by_rid:
            for encoding in plan.encodings:
                self.place(plan.codec_index, encoding.spatial_layer, encoding.ssrc or 0, "")

    def set_audio_features(self, features: Iterable[models.AudioTrackFeature]) -> None:
        """Follow changed features; later answers ask for stereo and DTX accordingly."""
        info = self.info
        info.audio_features[:] = features
        info.stereo = models.AudioTrackFeature.TF_STEREO in info.audio_features
        info.disable_dtx = models.AudioTrackFeature.TF_NO_DTX in info.audio_features
        self.announced = replace(self.announced, stereo=info.stereo, dtx=not info.disable_dtx)

    def abandon(self, codec_index: int) -> int | None:
        """A backup codec's section ended: it may be published again. Its engine track."""
        codec = self.info.codecs[codec_index]
        codec.mid = codec.sdp_cid = ""
        for layer in codec.layers:
            layer.ssrc = 0
        self.flowing_backups.discard(codec_index)
        return self.engine_ids.pop(codec_index, None)

    def mime_of(self, codec_index: int) -> str:
        """The lower-case mime of one of its codecs; empty when nothing said it yet."""
        return self.info.codecs[codec_index].mime_type.lower()

    def correct_mime(self, codec_index: int, mime: str) -> bool:
        """Packets say which codec it really is: clients need not take the first one answered.

        RED and the Opus within it count as one. False: nothing new.
        """
        known, real = self.mime_of(codec_index), mime.lower()
        is_pair = {known, real} <= _OPUS_PAIR
        if known == real or is_pair or not real.startswith(f"{self.kind}/"):
            return False
        self.info.codecs[codec_index].mime_type = WIRE_MIMES.get(real, mime)
        if codec_index == 0:
            self.info.mime_type = self.info.codecs[0].mime_type
        return True

    def _infer_layers(self, codec: models.SimulcastCodecInfo, count: int) -> None:
        """Old SDKs announce no layers: each encoding has half the size of the next one."""
        if count < 2 or codec.layers:
            return
        for place, quality in enumerate(QUALITIES[:count]):
            shrink = 1 << (min(count, len(QUALITIES)) - 1 - place)
            codec.layers.add(
                quality=WIRE_QUALITIES[quality],
                width=self.info.width // shrink,
                height=self.info.height // shrink,
            )
        if not self.info.layers:
            self.info.layers.extend(codec.layers)
            self.info.simulcast = True

    def touch(self, wall_ms: int) -> None:
        """Give the TrackInfo a new version."""
        version = wall_ms * 1000
        if version <= self.info.version.unix_micro:
            version = self.info.version.unix_micro + 1
        self.info.version.unix_micro = version

    def place(self, codec_index: int, spatial_layer: int, ssrc: int, rid: str) -> None:
        """Say which SSRC and rid a spatial layer has."""
        codec = self.info.codecs[codec_index]
        lists = [codec.layers, self.info.layers] if codec_index == 0 else [codec.layers]
        for layers in lists:
            if spatial_layer < len(layers):
                layer = layers[spatial_layer]
                layer.ssrc = ssrc
                layer.rid = rid
                layer.spatial_layer = spatial_layer


@dataclass(frozen=True, slots=True)
class Accepted:
    """Answer with `track_published`."""

    cid: str
    track: PublishedTrack


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer with a `request_response`; QUEUED is one, too."""

    reason: rtc.RequestResponse.Reason
    message: str


class Publications:
    """The tracks of one participant, in order of announcement."""

    def __init__(self) -> None:
        self._tracks: dict[str, PublishedTrack] = {}
        self._queued: dict[str, list[rtc.AddTrackRequest]] = {}

    def __iter__(self) -> Iterator[PublishedTrack]:
        return iter(list(self._tracks.values()))

    def announce(
        self,
        request: rtc.AddTrackRequest,
        permission: models.ParticipantPermission,
        enabled_codecs: tuple[str, ...],
        ids: Ids,
    ) -> Accepted | Refused:
        """Take an AddTrackRequest (LiveKit signal protocol: publishing)."""
        refused = _refusal(request, permission)
        if refused is not None:
            return refused
        if request.sid:
            return self._add_backup(request)
        if self._is_taken(request.cid):
            queue = self._queued.setdefault(request.cid, [])
            if len(queue) >= MAX_QUEUED_PER_CID:
                return Refused(Reason.LIMIT_EXCEEDED, "too many tracks queued for this cid")
            queue.append(_copy(request))
            return Refused(Reason.QUEUED, "")
        if sum(not track.is_published for track in self) >= MAX_PENDING:
            return Refused(Reason.LIMIT_EXCEEDED, "too many pending tracks")
        return self._begin(request, enabled_codecs, ids)

    def end(
        self, sid: str, enabled_codecs: tuple[str, ...], ids: Ids
    ) -> tuple[PublishedTrack | None, Accepted | None]:
        """Drop a track; the dropped one, and the queued one of the same cid that starts now."""
        track = self._tracks.pop(sid, None)
        if track is None:
            return None, None
        queue = self._queued.get(track.announced.cid)
        if not queue:
            return track, None
        request = queue.pop(0)
        if not queue:
            del self._queued[track.announced.cid]
        return track, self._begin(request, enabled_codecs, ids)

    def get(self, sid: str) -> PublishedTrack | None:
        """A pending or published track."""
        return self._tracks.get(sid)

    def by_engine_id(self, engine_id: int) -> tuple[PublishedTrack, int] | None:
        """The track and codec index behind an engine track."""
        for track in self._tracks.values():
            for codec_index, known in track.engine_ids.items():
                if known == engine_id:
                    return track, codec_index
        return None

    def announced(self) -> tuple[AnnouncedTrack, ...]:
        """All tracks as negotiation wants them, in order of announcement."""
        return tuple(track.announced for track in self._tracks.values())

    def _begin(
        self, request: rtc.AddTrackRequest, enabled_codecs: tuple[str, ...], ids: Ids
    ) -> Accepted:
        info = build_track_info(request, enabled_codecs, ids)
        track = PublishedTrack(info, _announced(info, request))
        self._tracks[info.sid] = track
        return Accepted(request.cid, track)

    def _add_backup(self, request: rtc.AddTrackRequest) -> Accepted | Refused:
        track = self._tracks.get(request.sid)
        if track is None:
            return Refused(Reason.NOT_FOUND, "track does not exist")
        for wanted in request.simulcast_codecs:
            mime = f"{track.kind}/{wanted.codec}".lower()
            for codec in track.info.codecs:
                if codec.mime_type.lower() == mime:
                    codec.cid = wanted.cid
                    if wanted.layers:
                        del codec.layers[:]
                        codec.layers.extend(_sorted_layers(wanted.layers))
        track.announced = _announced_again(track)
        return Accepted(request.cid, track)

    def _is_taken(self, cid: str) -> bool:
        return any(
            cid in {codec.cid for codec in track.info.codecs} or cid == track.announced.cid
            for track in self._tracks.values()
        )


def build_track_info(
    request: rtc.AddTrackRequest, enabled_codecs: tuple[str, ...], ids: Ids
) -> models.TrackInfo:
    """The TrackInfo of a track nobody saw media of yet: mids and SSRCs are still empty."""
    letters = _TYPE_LETTERS[request.type] + _SOURCE_LETTERS.get(request.source, "")
    layers = _sorted_layers(request.layers)
    features = list(request.audio_features)
    for is_set, feature in (
        (request.stereo, models.AudioTrackFeature.TF_STEREO),
        (request.disable_dtx, models.AudioTrackFeature.TF_NO_DTX),
    ):
        if is_set and feature not in features:
            features.append(feature)
    info = models.TrackInfo(
        sid=ids.sid(TRACK + letters),
        type=request.type,
        name=request.name,
        muted=request.muted,
        width=request.width,
        height=request.height,
        disable_dtx=models.AudioTrackFeature.TF_NO_DTX in features,
        stereo=models.AudioTrackFeature.TF_STEREO in features,
        disable_red=request.disable_red,
        source=request.source,
        layers=layers,
        encryption=request.encryption,
        stream=request.stream or _STREAMS.get(request.source, "unknown"),
        audio_features=features,
        backup_codec_policy=request.backup_codec_policy,
        packet_trailer_features=request.packet_trailer_features,
    )
    is_audio = request.type == models.TrackType.AUDIO
    if is_audio and request.backup_codec_policy != models.BackupCodecPolicy.REGRESSION:
        info.backup_codec_policy = models.BackupCodecPolicy.SIMULCAST
    info.codecs.extend(_codecs(request, layers, enabled_codecs))
    primary_mode = info.codecs[0].video_layer_mode
    is_svc = primary_mode == Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM
    info.simulcast = not is_audio and not is_svc and len(layers) > 1
    return info


def receiver_config(plan: ReceiverPlan, *, measure_level: bool) -> ReceiverConfig:
    """A negotiated section as the engine takes it."""
    return ReceiverConfig(
        kind=plan.kind,
        mid=plan.mid,
        codecs=plan.codecs,
        encodings=plan.encodings,
        extensions=plan.extensions,
        measure_level=measure_level,
    )


def may_publish(permission: models.ParticipantPermission, source: int) -> bool:
    """Whether a participant may publish from a source; no list of sources means all."""
    if not permission.can_publish:
        return False
    sources = permission.can_publish_sources
    return not sources or source in sources


def _refusal(
    request: rtc.AddTrackRequest, permission: models.ParticipantPermission
) -> Refused | None:
    if not may_publish(permission, request.source):
        return Refused(Reason.NOT_ALLOWED, "does not have permission to publish")
    if request.type not in _TYPE_LETTERS:
        return Refused(Reason.UNSUPPORTED_TYPE, "only audio and video tracks are supported")
    return None


def _codecs(
    request: rtc.AddTrackRequest,
    layers: list[models.VideoLayer],
    enabled_codecs: tuple[str, ...],
) -> list[models.SimulcastCodecInfo]:
    if not request.simulcast_codecs:
        return [
            models.SimulcastCodecInfo(
                cid=request.cid,
                layers=layers,
                video_layer_mode=Mode.ONE_SPATIAL_LAYER_PER_STREAM,
            )
        ]
    kind = "audio" if request.type == models.TrackType.AUDIO else "video"
    codecs: dict[str, models.SimulcastCodecInfo] = {}
    for wanted in request.simulcast_codecs:
        mime = _enabled_mime(kind, wanted.codec, enabled_codecs)
        if mime.lower() in codecs:
            continue
        mode = wanted.video_layer_mode
        if mode == Mode.MODE_UNUSED:
            is_svc = mime.lower() in SVC_MIMES
            mode = (
                Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM
                if is_svc
                else Mode.ONE_SPATIAL_LAYER_PER_STREAM
            )
        codecs[mime.lower()] = models.SimulcastCodecInfo(
            mime_type=mime,
            cid=wanted.cid,
            layers=_sorted_layers(wanted.layers) or layers,
            video_layer_mode=mode,
        )
    return list(codecs.values())


def _enabled_mime(kind: str, codec: str, enabled_codecs: tuple[str, ...]) -> str:
    """The named codec, or the first enabled one of its kind when it may not be used."""
    mime = f"{kind}/{codec}".lower()
    enabled = [known for known in enabled_codecs if known.lower().startswith(f"{kind}/")]
    if mime in {known.lower() for known in enabled}:
        return mime
    preferred = "audio/opus" if kind == "audio" else "video/vp8"
    if not enabled or preferred in {known.lower() for known in enabled}:
        return preferred
    return enabled[0]


def _announced(info: models.TrackInfo, request: rtc.AddTrackRequest) -> AnnouncedTrack:
    return AnnouncedTrack(
        track_sid=info.sid,
        kind="audio" if info.type == models.TrackType.AUDIO else "video",
        cid=request.cid,
        codecs=tuple(_announced_codec(codec) for codec in info.codecs),
        stereo=info.stereo,
        dtx=not info.disable_dtx,
        red=not info.disable_red,
    )


def _announced_again(track: PublishedTrack) -> AnnouncedTrack:
    """With the backup codecs' cids as they are now; the choice of the primary stays."""
    before = track.announced
    codecs = (before.codecs[0], *(_announced_codec(codec) for codec in track.info.codecs[1:]))
    return replace(before, codecs=codecs)


def _announced_codec(codec: models.SimulcastCodecInfo) -> AnnouncedCodec:
    return AnnouncedCodec(codec.mime_type.lower(), codec.cid, len(codec.layers))


def _sorted_layers(layers: object) -> list[models.VideoLayer]:
    return declared_layers(models.TrackInfo(layers=layers))  # type: ignore[arg-type]


def _copy(request: rtc.AddTrackRequest) -> rtc.AddTrackRequest:
    copy = rtc.AddTrackRequest()
    copy.CopyFrom(request)
    return copy

"""The published Python SDK (the Rust core of LiveKit's native SDKs) as a participant, and what it hears and sees."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from livekit import rtc

from tests.support.server import Server

SAMPLE_RATE = 48_000
TONE_HZ = 440.0
AUDIBLE = 1e-4
"""Mean square above which sound is not silence; the tone has 0.125."""
WIDTH, HEIGHT, FPS = 640, 360, 15


@dataclass(slots=True)
class Received:
    """What arrived of one remote track."""

    frames: int = 0
    energy: float = 0.0
    """Mean square of the last audio frame's samples, full scale 1.0."""
    tone_share: float = 0.0
    """Share of the last audio frame's energy at the test tone."""
    width: int = 0
    height: int = 0
    brightness: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """When each picture came, or each piece of sound in which the test tone is heard (`time.monotonic`)."""


@dataclass(slots=True)
class PythonClient:
    """One participant; `events` names everything that happened, in order."""

    room: rtc.Room
    identity: str
    events: list[str] = field(default_factory=list)
    received: dict[str, Received] = field(default_factory=dict)
    data: list[tuple[str, bytes, str | None, bool]] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @staticmethod
    async def join(
        server: Server, room: str, identity: str, *, single: bool = True, **grants: object
    ) -> "PythonClient":
        """Connect with one or two peer connections."""
        client = PythonClient(rtc.Room(), identity)
        client._listen()
        options = rtc.RoomOptions(single_peer_connection=single, dynacast=True)
        await client.room.connect(server.url, server.token(room, identity, **grants), options)
        return client

    async def leave(self) -> None:
        """Disconnect and stop what is being published."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.room.disconnect()

    async def publish_tone(self) -> rtc.LocalTrackPublication:
        """Publish a 440 Hz tone as the microphone."""
        source = rtc.AudioSource(SAMPLE_RATE, 1)
        track = rtc.LocalAudioTrack.create_audio_track("tone", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        publication = await self.room.local_participant.publish_track(track, options)
        self._tasks.append(asyncio.create_task(_play_tone(source)))
        return publication

    async def publish_video(
        self, *, simulcast: bool = True, width: int = WIDTH, height: int = HEIGHT
    ) -> rtc.LocalTrackPublication:
        """Publish a moving pattern as the camera, in VP8."""
        source = rtc.VideoSource(width, height)
        track = rtc.LocalVideoTrack.create_video_track("pattern", source)
        options = rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_CAMERA,
            simulcast=simulcast,
            video_codec=rtc.VideoCodec.VP8,
            video_encoding=rtc.VideoEncoding(max_bitrate=800_000, max_framerate=FPS),
        )
        publication = await self.room.local_participant.publish_track(track, options)
        self._tasks.append(asyncio.create_task(_show_pattern(source, width, height)))
        return publication

    def of(self, identity: str, kind: int) -> Received:
        """What arrived of another's track of one kind (`rtc.TrackKind`); empty before anything did."""
        return self.received.get(f"{identity}/{kind}", Received())

    def _listen(self) -> None:
        on: Callable[..., object] = self.room.on
        events = self.events

        def subscribed(
            track: rtc.Track, _publication: object, participant: rtc.RemoteParticipant
        ) -> None:
            events.append(f"track_subscribed {participant.identity} {track.kind}")
            got = self.received.setdefault(f"{participant.identity}/{track.kind}", Received())
            watch = _watch_audio if track.kind == rtc.TrackKind.KIND_AUDIO else _watch_video
            self._tasks.append(asyncio.create_task(watch(track, got)))

        def data(packet: rtc.DataPacket) -> None:
            sender = packet.participant.identity if packet.participant else ""
            reliable = packet.kind == rtc.DataPacketKind.KIND_RELIABLE
            self.data.append((sender, packet.data, packet.topic, reliable))

        on("track_subscribed", subscribed)
        on("data_received", data)
        for name in ("participant_connected", "participant_disconnected"):
            on(name, lambda participant, name=name: events.append(f"{name} {participant.identity}"))
        for name in ("track_published", "track_unpublished"):
            on(name, lambda pub, who, name=name: events.append(f"{name} {who.identity} {pub.kind}"))
        for name in ("track_muted", "track_unmuted"):
            on(name, lambda who, pub, name=name: events.append(f"{name} {who.identity} {pub.kind}"))
        on("disconnected", lambda reason: events.append(f"disconnected {reason}"))
        on("reconnecting", lambda: events.append("reconnecting"))
        on("reconnected", lambda: events.append("reconnected"))
        on("room_metadata_changed", lambda _old, new: events.append(f"room_metadata {new}"))
        on(
            "participant_metadata_changed",
            lambda who, _old, new: events.append(f"metadata {who.identity} {new}"),
        )
        on(
            "participant_attributes_changed",
            lambda changed, who: events.append(
                f"attributes {who.identity} {sorted(changed.items())}"
            ),
        )
        on(
            "active_speakers_changed",
            lambda speakers: events.append(f"speakers {sorted(it.identity for it in speakers)}"),
        )


async def _play_tone(source: rtc.AudioSource) -> None:
    samples = SAMPLE_RATE // 100
    position = 0
    while True:
        times = (np.arange(samples) + position) / SAMPLE_RATE
        wave = (0.5 * 32767 * np.sin(2 * math.pi * TONE_HZ * times)).astype(np.int16)
        await source.capture_frame(rtc.AudioFrame(wave.tobytes(), SAMPLE_RATE, 1, samples))
        position += samples


async def _show_pattern(source: rtc.VideoSource, width: int, height: int) -> None:
    count = 0
    while True:
        picture = np.zeros((height, width, 4), dtype=np.uint8)
        picture[..., 3] = 255
        edge = (count * 8) % width
        picture[:, edge : edge + 120, :3] = 220
        picture[height // 2 :, :, 1] = 90
        frame = rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, picture.tobytes())
        source.capture_frame(frame)
        count += 1
        await asyncio.sleep(1 / FPS)


async def _watch_audio(track: rtc.Track, got: Received) -> None:
    async for event in rtc.AudioStream(track, sample_rate=SAMPLE_RATE, num_channels=1):
        wave = np.frombuffer(event.frame.data, dtype=np.int16).astype(np.float64) / 32768
        got.frames += 1
        got.energy = float(np.mean(wave**2))
        times = np.arange(len(wave)) / SAMPLE_RATE
        tone = np.abs(np.mean(wave * np.exp(-2j * math.pi * TONE_HZ * times))) ** 2 * 2
        got.tone_share = float(tone / got.energy) if got.energy > 0 else 0.0
        # Without packets the SDK goes on handing out frames, of silence.
        if got.energy > AUDIBLE and got.tone_share > 0.5:
            got.arrivals.append(time.monotonic())


async def _watch_video(track: rtc.Track, got: Received) -> None:
    async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.RGBA):
        got.frames += 1
        got.arrivals.append(time.monotonic())
        got.width, got.height = event.frame.width, event.frame.height
        got.brightness = float(np.frombuffer(event.frame.data, dtype=np.uint8)[: 4 * 640].mean())


async def until(condition: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
    """Wait for a condition; say what did not happen when it does not."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"did not happen within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.05)

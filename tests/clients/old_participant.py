"""A Python SDK of 2024 as a participant, run by itself: commands on stdin, answers and events on stdout, JSON lines.

The release speaks signal protocol 9 over two peer connections. Its package lies in a directory of its own, given as
the only argument, so that it never meets the newest one. The commands are those of tests/support/client_process.py.
"""

import asyncio
import json
import math
import os
import sys
from array import array
from typing import Any

sys.path.insert(0, sys.argv[1])

from livekit import rtc  # the old release, found by the line above

SAMPLE_RATE = 48_000
TONE_HZ = 440.0
WIDTH, HEIGHT = 320, 180


def say(line: dict[str, object]) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def happened(event: str) -> None:
    """Tell an event."""
    say({"event": event})


class Participant:
    """The commands, by name."""

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.tasks: list[asyncio.Task[None]] = []
        on = self.room.on
        for name in ("participant_connected", "participant_disconnected"):
            on(name, lambda who, name=name: happened(f"{name} {who.identity}"))
        on("track_muted", lambda who, _: happened(f"track_muted {who.identity}"))
        on("track_unpublished", lambda _, who: happened(f"track_unpublished {who.identity}"))
        on("reconnecting", lambda: happened("reconnecting"))
        on("reconnected", lambda: happened("reconnected"))
        on("disconnected", lambda: happened("disconnected"))
        on("participant_metadata_changed", self._metadata)
        on("data_received", self._data)
        on("track_subscribed", self._subscribed)

    async def join(self, url: str, token: str) -> str:
        await self.room.connect(url, token)
        return str(self.room.local_participant.sid)

    async def publish_tone(self) -> str:
        source = rtc.AudioSource(SAMPLE_RATE, 1)
        track = rtc.LocalAudioTrack.create_audio_track("tone", source)
        options = rtc.TrackPublishOptions()
        options.source = rtc.TrackSource.SOURCE_MICROPHONE
        publication = await self.room.local_participant.publish_track(track, options)
        self.tasks.append(asyncio.create_task(_play_tone(source)))
        return str(publication.sid)

    async def publish_video(self) -> str:
        source = rtc.VideoSource(WIDTH, HEIGHT)
        track = rtc.LocalVideoTrack.create_video_track("pattern", source)
        options = rtc.TrackPublishOptions()
        options.source = rtc.TrackSource.SOURCE_CAMERA
        publication = await self.room.local_participant.publish_track(track, options)
        self.tasks.append(asyncio.create_task(_show_pattern(source)))
        return str(publication.sid)

    async def unpublish(self, sid: str) -> None:
        await self.room.local_participant.unpublish_track(sid)

    async def send_data(self, text: str, topic: str, reliable: bool) -> None:
        kinds = rtc.DataPacketKind
        kind = kinds.KIND_RELIABLE if reliable else kinds.KIND_LOSSY
        await self.room.local_participant.publish_data(text, kind, topic=topic)

    async def set_metadata(self, metadata: str) -> None:
        await self.room.local_participant.update_metadata(metadata)

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.room.disconnect()

    def _metadata(self, who: Any, _old: str, metadata: str) -> None:
        happened(f"metadata {who.identity} {metadata}")

    def _data(self, packet: Any) -> None:
        sender = packet.participant.identity if packet.participant else ""
        happened(f"data {sender} {packet.topic or ''} {bytes(packet.data).decode()}")

    def _subscribed(self, track: Any, _publication: object, who: Any) -> None:
        happened(f"track_subscribed {who.identity}")
        watch = _listen if track.kind == rtc.TrackKind.KIND_AUDIO else _watch
        self.tasks.append(asyncio.create_task(watch(track, who.identity)))


async def _play_tone(source: Any) -> None:
    samples = SAMPLE_RATE // 100
    position = 0
    while True:
        wave = array(
            "h",
            (
                int(16_000 * math.sin(2 * math.pi * TONE_HZ * (position + i) / SAMPLE_RATE))
                for i in range(samples)
            ),
        )
        frame = rtc.AudioFrame(wave.tobytes(), SAMPLE_RATE, 1, samples)
        await source.capture_frame(frame)
        position += samples
        await asyncio.sleep(0.008)  # this release does not hold its caller back


async def _show_pattern(source: Any) -> None:
    count = 0
    while True:
        shade = bytes([60 + count * 5 % 120, 90, 200, 255])
        picture = bytearray(shade * (WIDTH * HEIGHT))
        frame = rtc.ArgbFrame(picture, rtc.VideoFormatType.FORMAT_ARGB, WIDTH, HEIGHT)
        source.capture_frame(rtc.VideoFrame(frame.to_i420()))
        count += 1
        await asyncio.sleep(0.066)


async def _listen(track: Any, identity: str) -> None:
    async for frame in rtc.AudioStream(track):
        wave = array("h", bytes(frame.data))
        if frame.num_channels > 1:
            wave = wave[:: frame.num_channels]
        turn = 2 * math.pi * TONE_HZ / frame.sample_rate
        energy = sum(sample * sample for sample in wave) / len(wave)
        real = sum(sample * math.cos(turn * i) for i, sample in enumerate(wave)) / len(wave)
        imaginary = sum(sample * math.sin(turn * i) for i, sample in enumerate(wave)) / len(wave)
        if energy > 1e6 and 2 * (real**2 + imaginary**2) > 0.6 * energy:
            happened(f"heard {identity}")


async def _watch(track: Any, identity: str) -> None:
    frames = 0
    async for _ in rtc.VideoStream(track):
        frames += 1
        if frames % 10 == 0:
            happened(f"saw {identity}")


async def main() -> None:
    """Do what stdin says until it ends."""
    participant = Participant()
    loop = asyncio.get_running_loop()
    underway: set[asyncio.Task[None]] = set()

    async def do(number: int, does: str, **details: Any) -> None:
        try:
            say({"id": number, "answer": await getattr(participant, does)(**details)})
        except Exception as error:  # noqa: BLE001  # the test is told, whatever it is
            say({"id": number, "error": repr(error)})

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        doing = loop.create_task(do(command.pop("id"), **command))
        underway.add(doing)
        doing.add_done_callback(underway.discard)


asyncio.run(main())
# Its native threads do not survive the interpreter's own end.
os._exit(0)

"""What the adapter of the engine reports of tracks and senders, and what it refuses."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sfu.core.media_events import MediaEvent, SenderLoss, TrackLoss
from sfu.media import EngineAdapter, engine_config


class Engine:
    """As much of the engine as reports need; `tracks` and `senders` are its stats."""

    def __init__(self, _config: object) -> None:
        self.tracks: list[Any] = []
        self.senders: list[Any] = []

    def stats(self) -> object:
        return SimpleNamespace(tracks=self.tracks, senders=self.senders)

    def event_fd(self) -> int:
        raise AssertionError("not watched here")


class Watched:
    """An adapter whose timer is turned by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.adapter = EngineAdapter(
            engine_config([("127.0.0.1:0", None)], [], max_peer_connections=1)
        )
        self.adapter._loop = loop
        self.events: list[MediaEvent] = []
        self.adapter._on_event = self.events.append
        self.engine: Any = self.adapter._engine

    def report(self) -> list[MediaEvent]:
        self.events.clear()
        self.adapter._report_losses()
        assert self.adapter._stats_timer is not None
        self.adapter._stats_timer.cancel()
        return list(self.events)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr("sfu.media.mediacore.Engine", Engine)
    loop = asyncio.new_event_loop()
    yield Watched(loop)
    loop.close()


def track(packets: int, lost: int, jitter: float = 0.0) -> object:
    return SimpleNamespace(track=1, packets=packets, lost=lost, jitter=jitter)


def sender(packets: int, fraction_lost: float, rtt: float | None = None) -> object:
    return SimpleNamespace(sender=2, packets=packets, fraction_lost=fraction_lost, rtt=rtt)


def test_loss_is_the_share_since_the_last_report(watched: Watched) -> None:
    watched.engine.tracks = [track(100, 100)]
    watched.report()
    watched.engine.tracks = [track(190, 110, 0.02)]
    assert watched.report() == [TrackLoss(1, 0.1, 0.02)]


def test_track_that_is_not_sent_any_more_loses_nothing(watched: Watched) -> None:
    watched.engine.tracks = [track(100, 10, 0.05)]
    watched.report()
    assert watched.report() == [TrackLoss(1, 0.0, 0.0)]


def test_late_packets_that_were_counted_lost_are_no_negative_loss(watched: Watched) -> None:
    watched.engine.tracks = [track(100, 10)]
    watched.report()
    watched.engine.tracks = [track(150, 5)]
    assert watched.report() == [TrackLoss(1, 0.0, 0.0)]


def test_paused_sender_keeps_no_old_loss(watched: Watched) -> None:
    watched.engine.senders = [sender(10, 0.3, 0.04)]
    assert watched.report() == [SenderLoss(2, 0.3, 0.04)]
    assert watched.report() == [SenderLoss(2, 0.0, 0.04)]


def test_sender_that_no_report_came_of_yet_has_no_delay(watched: Watched) -> None:
    watched.engine.senders = [sender(10, 0.0)]
    assert watched.report() == [SenderLoss(2, 0.0, 0.0)]

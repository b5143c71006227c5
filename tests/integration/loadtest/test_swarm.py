"""A tiny swarm against a whole server: what the benchmark relies on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtest.bench import AUDIO, VIDEO, fanout
from loadtest.process import usage
from loadtest.swarm import Fanout, Swarm, Target
from tests.support.dev_server import KEY, SECRET, running

pytestmark = pytest.mark.timeout(60)
VIEWERS = 3
SECONDS = 2.0


@asynccontextmanager
async def swarm_on_server(directory: Path) -> AsyncIterator[tuple[Swarm, int]]:
    """A server of its own, and a swarm that leaves nothing behind."""
    async with running(directory) as server:
        swarm = Swarm(Target(server.url, KEY, SECRET))
        try:
            yield swarm, server.pid
        finally:
            await swarm.close()
        assert not swarm.rejected


@pytest.mark.parametrize("shape", [VIDEO, AUDIO], ids=["video", "audio"])
async def test_every_viewer_receives_every_packet(tmp_path: Path, shape: Fanout) -> None:
    async with swarm_on_server(tmp_path) as (swarm, pid):
        result = await fanout(swarm, pid, shape, VIEWERS, SECONDS)
    sent = shape.frames_per_second * shape.packets_per_frame
    assert result.packets_per_second == pytest.approx(sent * VIEWERS, rel=0.15)
    assert result.lost == 0
    assert 0 < result.latency_p50_ms <= result.latency_p99_ms < 1000
    assert result.cpu_us_per_packet > 0


async def test_who_left_is_gone_and_the_rest_go_on(tmp_path: Path) -> None:
    async with swarm_on_server(tmp_path) as (swarm, pid):
        room = swarm.new_room()
        publisher = await swarm.join(room)
        await publisher.publish(VIDEO)
        first, second = await swarm.join_many(room, 2)
        await asyncio.gather(first.until_receiving(), second.until_receiving())
        await swarm.leave(first)
        before = swarm.received()
        assert before > 0
        await asyncio.sleep(0.5)
        assert swarm.received() > before
        assert usage(pid).rss_bytes > 0


async def test_a_second_publisher_reaches_those_who_are_here(tmp_path: Path) -> None:
    async with swarm_on_server(tmp_path) as (swarm, _):
        room = swarm.new_room()
        speaker, listener = await swarm.join_many(room, 2)
        await speaker.publish(AUDIO)
        await listener.until_receiving()
        await listener.publish(AUDIO)
        await speaker.until_receiving()

"""A tiny swarm against a whole server: what the benchmark relies on."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.access import Target
from loadtest.bench import AUDIO, VIDEO, fanout, joins
from loadtest.swarm import Fanout, Swarm
from tests.support.dev_server import KEY, SECRET, DevServer

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="session")]
VIEWERS = 3
SECONDS = 1.5


@pytest_asyncio.fixture(loop_scope="session")
async def swarm(server: DevServer) -> AsyncIterator[Swarm]:
    """A swarm that asks its engine for nothing impossible."""
    made = Swarm(Target(server.url, KEY, SECRET), sockets=16)
    try:
        yield made
    finally:
        await made.close()
    assert not made.rejected


@pytest.mark.parametrize("shape", [VIDEO, AUDIO], ids=["video", "audio"])
async def test_every_viewer_receives_every_packet(
    server: DevServer, swarm: Swarm, shape: Fanout
) -> None:
    result = await fanout(swarm, server.pid, shape, VIEWERS, SECONDS)
    sent = shape.frames_per_second * shape.packets_per_frame
    assert result.packets_per_second == pytest.approx(sent * VIEWERS, rel=0.2)
    assert result.lost == 0
    assert 0 < result.latency_p50_ms <= result.latency_p99_ms < 1000
    assert result.cpu_us_per_packet > 0


async def test_one_leaves_and_the_rest_go_on(swarm: Swarm) -> None:
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


async def test_a_later_publisher_reaches_those_who_are_here(swarm: Swarm) -> None:
    speaker, listener = await swarm.join_many(swarm.new_room(), 2)
    await speaker.publish(AUDIO)
    await listener.until_receiving()
    await listener.publish(AUDIO)
    await speaker.until_receiving()


async def test_joins_and_leaves_are_measured(server: DevServer, swarm: Swarm) -> None:
    result = await joins(swarm, server.pid, 4, per_room=2)
    assert result.joins == 4
    assert 0 < result.cpu_ms_per_join < 1000
    assert 0 < result.seconds_per_join_p50 < 30
    assert swarm.received() == 0

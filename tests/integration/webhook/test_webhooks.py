"""Facts of the stream reach targets: in order, at least once, whatever a target does."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest
from aiohttp import web
from livekit.protocol.webhook import WebhookEvent

from chassis import subjects
from contracts.webhook.v1 import webhook_pb2
from tests.integration.webhook.conftest import KEY, SECRET, Stage
from tests.support.webhook_target import webhook_target


async def test_facts_of_a_room_arrive_signed_and_in_order(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as target, stage.replica(target.url):
        await stage.until_begun(1)
        told = [await stage.tell(f"room-{n % 5}") for n in range(100)]
        await target.until(lambda: len(target.events) == 100)
        assert sorted(event.id for event in target.events) == sorted(told)
        for room in {event.room.name for event in target.events}:
            numbers = [int(e.id.removeprefix("EV_")) for e in target.events if e.room.name == room]
            assert numbers == sorted(numbers)
        assert set(target.seen.values()) == {1}


async def test_the_request_is_what_receivers_expect(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as target, stage.replica(target.url):
        target.keeps_requests = True
        await stage.until_begun(1)
        await stage.tell("quiet")
        await target.until(lambda: bool(target.events))
        body, headers = target.requests[0]
        assert headers["Content-Type"] == "application/webhook+json"
        assert not headers["Authorization"].startswith("Bearer")
        assert b'"createdAt"' in body
        assert b"numDropped" not in body


async def test_a_fact_its_target_fails_with_holds_up_its_own_room_alone(stage: Stage) -> None:
    failures = 0

    async def fail_twice(event: WebhookEvent) -> web.Response | None:
        nonlocal failures
        if event.room.name == "sore" and failures < 2:
            failures += 1
            return web.Response(status=500)
        return None

    async with webhook_target(KEY, SECRET) as target, stage.replica(target.url):
        target.behavior = fail_twice
        await stage.until_begun(1)
        sore = [await stage.tell("sore") for _ in range(3)]
        well = [await stage.tell("well") for _ in range(3)]
        await target.until(lambda: len(target.events) == 6)
        ids = [event.id for event in target.events]
        assert ids[:3] == well
        assert ids[3:] == sore
        assert target.seen[sore[0]] == 3


@pytest.mark.parametrize("fault", ["hangs", "redirects"])
async def test_a_misbehaving_target_gets_the_fact_when_it_is_well_again(
    stage: Stage, fault: str
) -> None:
    is_well = asyncio.Event()

    async def misbehave(_: WebhookEvent) -> web.StreamResponse | None:
        if is_well.is_set():
            return None
        if fault == "hangs":
            await asyncio.sleep(60)
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    async with webhook_target(KEY, SECRET) as target, stage.replica(target.url, timeout_s=0.3):
        await stage.until_begun(1)
        target.behavior = misbehave
        fact = await stage.tell("r")
        async with asyncio.timeout(5):
            while target.seen[fact] < 2:  # noqa: ASYNC110 - it is asked, nothing tells
                await asyncio.sleep(0.02)
        assert not target.events
        is_well.set()
        await target.until(lambda: [event.id for event in target.events] == [fact])


@pytest.mark.parametrize("answer", [b"\x00\xff garbage", b"", b"HTTP/1.1 99999 ?\r\n\r\n"])
async def test_garbage_in_place_of_http_is_tried_again(stage: Stage, answer: bytes) -> None:
    tries = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        await reader.read(64)
        tries += 1
        writer.write(answer)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, stage.replica(f"http://127.0.0.1:{port}/"):
        await stage.until_begun(1)
        await stage.tell("r")
        async with asyncio.timeout(10):
            while tries < 2:  # noqa: ASYNC110 - it is asked, nothing tells
                await asyncio.sleep(0.02)


async def test_a_dead_url_delays_no_other(stage: Stage) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        async with webhook_target(KEY, SECRET) as target, stage.replica(dead, target.url):
            await stage.until_begun(2)
            told = [await stage.tell(f"r{n}") for n in range(50)]
            await target.until(lambda: len(target.events) == len(told), timeout_s=5)


async def test_a_replica_that_ends_loses_nothing_and_the_next_goes_on(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as target:
        async with stage.replica(target.url):
            await stage.until_begun(1)
            first = [await stage.tell("r") for _ in range(5)]
            await target.until(lambda: len(target.events) == 5)
        between = [await stage.tell("r") for _ in range(5)]
        async with stage.replica(target.url):
            await target.until(lambda: len(target.events) == 10)
        assert [event.id for event in target.events] == first + between
        assert set(target.seen.values()) == {1}


async def test_two_replicas_share_the_shards_and_one_takes_over(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as target, stage.replica(target.url) as one:
        await stage.until_begun(1)
        async with stage.replica(target.url):
            async with asyncio.timeout(20):
                while await stage.owners() != {4}:  # noqa: ASYNC110 - it is asked, nothing tells
                    await asyncio.sleep(0.1)
            for n in range(40):
                await stage.tell(f"r{n}")
            await target.until(lambda: len(target.events) == 40)
        async with asyncio.timeout(20):
            while await stage.owners() != {8}:  # noqa: ASYNC110 - it is asked, nothing tells
                await asyncio.sleep(0.1)
        for n in range(40):
            await stage.tell(f"r{n}")
        await target.until(lambda: len(target.events) == 80)
        assert one.name == "webhook"


async def test_what_nobody_takes_becomes_a_dead_letter(stage: Stage) -> None:
    async def refuse(event: WebhookEvent) -> web.Response | None:
        return web.Response(status=503) if event.room.name == "doomed" else None

    async with (
        webhook_target(KEY, SECRET) as target,
        stage.replica(target.url, give_up_after_s=1.0, retry_last_delay_s=0.2),
    ):
        target.behavior = refuse
        await stage.until_begun(1)
        doomed = await stage.tell("doomed")
        after = await stage.tell("fine")
        reader = stage.bus.open_reader(subjects.WEBHOOKS_DEAD, ["webhooks.dead.*"], 1)
        async with asyncio.timeout(20):
            while True:
                with suppress(Exception):
                    letters = await reader.read(1, 1)
                    if letters:
                        break
                await asyncio.sleep(0.1)
        letter = webhook_pb2.DeadLetter.FromString(letters[0].data)
        assert letter.reason == "answered 503"
        assert doomed.encode() in letter.event
        await target.until(lambda: [event.id for event in target.events] == [after])


async def test_a_target_is_told_what_its_filter_lets_through(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as joins, webhook_target(KEY, SECRET) as others:
        wanted = {"url": joins.url, "include_events": ["participant_joined"]}
        rest = {"url": others.url, "exclude_events": ["participant_joined"]}
        async with stage.replica(wanted, rest):
            await stage.until_begun(2)
            await stage.tell("r", "room_started")
            await stage.tell("r", "participant_joined")
            await stage.tell("r", "room_finished")
            await others.until(lambda: len(others.events) == 2)
            await joins.until(lambda: len(joins.events) == 1)
            assert others.names("r") == ["room_started", "room_finished"]
            assert joins.names("r") == ["participant_joined"]


async def test_an_address_that_is_not_allowed_is_never_connected_to(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as target:
        by_name = target.url.replace("127.0.0.1", "localhost")
        async with stage.replica(target.url, by_name, allowed_networks=()) as app:
            await stage.until_begun(2)
            await stage.tell("r")
            await asyncio.sleep(1.5)
            assert not target.seen
            assert app.name == "webhook"


async def test_killed_nats_loses_nothing(stage: Stage) -> None:
    async with webhook_target(KEY, SECRET) as target, stage.replica(target.url):
        await stage.until_begun(1)
        await stage.tell("r")
        await target.until(lambda: len(target.events) == 1)
        await stage.restart_nats()
        told = await stage.tell("r")
        await target.until(lambda: told in [event.id for event in target.events], timeout_s=30)

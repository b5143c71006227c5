"""Each service's NATS user, on a real server with the chart's own list of users."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from pathlib import Path

import pytest

from chassis import nats_permissions
from chassis.bus import NatsBus
from chassis.errors import BusError, KvError, KvUnavailable, RequestTimedOut
from chassis.kv import CaughtUp, Entry, NatsKv
from chassis.nats_permissions import USERS
from chassis.subjects import (
    EVENTS,
    WEBHOOKS_DEAD,
    Bucket,
    Stream,
    dead_letter_subject,
    event_subject,
)
from loadtest.ports import free_port
from roomwright.nats_server import find_binary
from tools import chart_nats

Connect = Callable[[str], AbstractAsyncContextManager[NatsBus]]
BUCKETS = sorted(
    {b for user in USERS.values() for b in (*user.writes, *user.reads)}, key=lambda b: b.name
)
SERVICES = [name for name, user in USERS.items() if not user.may_everything]


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """Connects as one of the users to a server that knows them."""
    port = free_port()
    (tmp_path / "users.conf").write_text(chart_nats.TARGET.read_text())
    (tmp_path / "nats.conf").write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/streams" }}\n'
        "include ./users.conf\n"
    )
    # Digits, and a leading dash, would not be text to the server without the chart's quotes.
    passwords = {f"NATS_{name.upper()}_PASSWORD": f'"-1{name}"' for name in USERS}
    process = await asyncio.create_subprocess_exec(
        find_binary(),
        "-c",
        str(tmp_path / "nats.conf"),
        env={**os.environ, **passwords},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    @asynccontextmanager
    async def connected(user: str) -> AsyncIterator[NatsBus]:
        bus = NatsBus(f"nats://127.0.0.1:{port}", user=user, password=f"-1{user}", name=user)
        await bus.start()
        async with asyncio.timeout(5):
            while not bus.connected:  # noqa: ASYNC110 - the server is still starting
                await asyncio.sleep(0.02)
        try:
            yield bus
        finally:
            await bus.close()

    try:
        yield connected
    finally:
        process.terminate()
        await process.wait()


async def _make_everything(admin: NatsBus) -> None:
    for bucket in BUCKETS:
        await NatsKv(admin, bucket).put("there", b"before")
    await admin.open_stream(EVENTS)


@pytest.mark.parametrize("name", [name for name in SERVICES if USERS[name].writes])
async def test_user_makes_and_uses_its_buckets_as_the_chassis_does(
    connect: Connect, name: str
) -> None:
    async with connect(name) as bus, asyncio.timeout(20):
        for bucket in USERS[name].writes:
            kv = NatsKv(bus, bucket)
            revision = await kv.create("key", b"1")
            revision = await kv.update("key", b"2", revision)
            await kv.put("other", b"3")
            found = await kv.get("key")
            assert found is not None
            assert found.value == b"2"
            assert await kv.keys() == ["key", "other"]
            assert await kv.last_revision() >= revision
            changes = kv.watch()
            seen = [await anext(changes) for _ in range(3)]
            assert isinstance(seen[-1], CaughtUp)
            await kv.put("key", b"4")
            news = await anext(changes)
            assert isinstance(news, Entry)
            assert news.value == b"4"
            await changes.aclose()  # type: ignore[attr-defined]  # an async generator
            await kv.delete("key")
            assert await kv.keys() == ["other"]


@pytest.mark.parametrize(
    ("name", "bucket"),
    [(name, bucket) for name in SERVICES for bucket in USERS[name].reads],
    ids=lambda value: getattr(value, "name", value),
)
async def test_reader_makes_and_watches_a_bucket_and_writes_nothing(
    connect: Connect, name: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        bus, admin = [await stack.enter_async_context(connect(who)) for who in (name, "admin")]
        await stack.enter_async_context(asyncio.timeout(10))
        kv = NatsKv(bus, bucket)
        assert await kv.keys() == []
        await NatsKv(admin, bucket).put("there", b"before")
        found = await kv.get("there")
        assert found is not None
        changes = kv.watch()
        assert isinstance(await anext(changes), Entry)
        monkeypatch.setattr("chassis.bus.ACK_TIMEOUT_S", 0.3)
        with pytest.raises(KvError):
            await kv.put("there", b"after")
        with pytest.raises(KvError):
            await kv.delete("there")
        assert await kv.get("there") == found


SUBJECT_IN = {
    EVENTS.name: event_subject("room", "room_started"),
    WEBHOOKS_DEAD.name: dead_letter_subject("target"),
}


@pytest.mark.parametrize("name", [name for name in SERVICES if USERS[name].follows])
async def test_user_reads_the_streams_it_follows_and_appends_nothing(
    connect: Connect, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.bus.ACK_TIMEOUT_S", 0.3)
    async with AsyncExitStack() as stack, asyncio.timeout(10):
        admin, bus = [await stack.enter_async_context(connect(who)) for who in ("admin", name)]
        for stream in USERS[name].follows:
            await bus.open_stream(stream)
            ack = await admin.publish_durable(SUBJECT_IN[stream.name], b"fact", "id")
            reader = bus.open_reader(stream, ["events.>"], 1)
            assert [message.data for message in await reader.read(10, 1)] == [b"fact"]
            await reader.close()
            stored = await bus.stored_message(stream, ack.sequence)
            assert stored is not None
            assert (await bus.stream_ends(stream)).last == ack.sequence
            with pytest.raises(RequestTimedOut):
                await bus.publish_durable(SUBJECT_IN[stream.name], b"lie", "id2")


@pytest.mark.parametrize("name", [name for name in SERVICES if USERS[name].publishes])
async def test_user_makes_its_streams_and_appends_once_per_id(connect: Connect, name: str) -> None:
    async with connect(name) as bus, asyncio.timeout(10):
        for stream in USERS[name].publishes:
            await bus.open_stream(stream)
            await bus.open_stream(stream)
            subject = SUBJECT_IN[stream.name]
            first = await bus.publish_durable(subject, b"fact", "id")
            again = await bus.publish_durable(subject, b"fact", "id")
            assert again.duplicate
            assert again.sequence == first.sequence


@pytest.mark.parametrize(
    ("name", "bucket"),
    [
        pytest.param(name, bucket, id=f"{name}-{bucket.name}")
        for name in SERVICES
        for bucket in BUCKETS
        if bucket not in (*USERS[name].writes, *USERS[name].reads)
    ],
)
async def test_bucket_of_others_can_be_neither_read_nor_written(
    connect: Connect, name: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.bus.ACK_TIMEOUT_S", 0.3)
    async with AsyncExitStack() as stack:
        admin, bus = [await stack.enter_async_context(connect(who)) for who in ("admin", name)]
        await _make_everything(admin)
        kv = NatsKv(bus, bucket)
        kv._made_for = (
            bus.connections
        )  # as if it had been made: only the access itself is asked for
        with pytest.raises(KvUnavailable):
            await kv.get("there")
        with pytest.raises(KvError):
            await kv.put("there", b"after")
        entry = await NatsKv(admin, bucket).get("there")
        assert entry is not None
        assert entry.value == b"before"


@pytest.mark.parametrize("name", [name for name in SERVICES if EVENTS not in USERS[name].publishes])
async def test_facts_are_appended_by_nodes_alone(
    connect: Connect, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.bus.ACK_TIMEOUT_S", 0.3)
    async with AsyncExitStack() as stack:
        admin, bus = [await stack.enter_async_context(connect(who)) for who in ("admin", name)]
        await _make_everything(admin)
        with pytest.raises(RequestTimedOut):
            await bus.publish_durable(event_subject("room", "room_started"), b"lie", "id")
        ack = await admin.publish_durable(event_subject("room", "room_started"), b"truth", "id2")
        assert ack.sequence == 1


@pytest.mark.parametrize(
    "subject", sorted({subject for user in USERS.values() for subject in user.hears})
)
async def test_message_reaches_its_listeners_and_comes_from_its_tellers_alone(
    connect: Connect, subject: str
) -> None:
    async with AsyncExitStack() as stack:
        buses = {who: await stack.enter_async_context(connect(who)) for who in SERVICES}
        heard = {name: await buses[name].subscribe(subject) for name in SERVICES}
        for name, bus in buses.items():
            await bus.publish(subject, name.encode())
            with suppress(BusError):  # of those who may not: the server answers with an error
                await bus.request(subject, b"flush", 0.2)
        tellers = {name.encode() for name in SERVICES if subject in USERS[name].tells}
        assert tellers
        for name in SERVICES:
            told = {message.data for message in heard[name].take_waiting()} - {b"flush"}
            assert told == (tellers if subject in USERS[name].hears else set())


@pytest.mark.parametrize("name", SERVICES)
async def test_stream_of_nobody_cannot_be_made(
    connect: Connect, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.bus.ACK_TIMEOUT_S", 0.3)
    everything = Stream("ALL", (">",), max_bytes=1 << 20, max_age_s=60, duplicate_window_s=60)
    async with connect(name) as bus:
        with pytest.raises(BusError):
            await bus.open_stream(everything)


@pytest.mark.parametrize("name", SERVICES)
async def test_answers_to_others_cannot_be_listened_to(connect: Connect, name: str) -> None:
    async with AsyncExitStack() as stack:
        admin, bus = [await stack.enter_async_context(connect(who)) for who in ("admin", name)]
        stolen = await bus.subscribe(f"{nats_permissions.INBOX}.>")
        await admin.publish(f"{nats_permissions.inbox_prefix('admin')}.x", b"answer")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(stolen)

"""The bus's contract: the same tests for the double in memory and for a real nats-server."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from chassis.bus import Ack, Bus, MemoryBus, NatsBus, Subscription
from chassis.errors import BusError, NoResponders, NotConnected, RequestTimedOut
from chassis.subjects import Stream
from chassis.telemetry import extract
from tests.support.cable import Cable
from tests.support.nats import connected_bus, disconnected, running_nats

FACTS = Stream("FACTS", ("facts.>",), max_bytes=10_000, max_age_s=60, duplicate_window_s=60)


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus()
        return
    async with running_nats() as server, connected_bus(server) as connected:
        yield connected


async def take(messages: Subscription, count: int) -> list[bytes]:
    async with asyncio.timeout(5):
        return [(await anext(messages)).data for _ in range(count)]


async def test_message_reaches_every_subscriber_in_order(bus: Bus) -> None:
    async with await bus.subscribe("a.*.c") as first, await bus.subscribe("a.>") as second:
        for number in range(3):
            await bus.publish("a.b.c", b"%d" % number)
        await bus.publish("a.b", b"other")
        assert await take(first, 3) == [b"0", b"1", b"2"]
        assert await take(second, 4) == [b"0", b"1", b"2", b"other"]


async def test_one_member_of_a_queue_gets_each_message(bus: Bus) -> None:
    one, two = await bus.subscribe("q", "workers"), await bus.subscribe("q", "workers")
    everything = await bus.subscribe("q")
    for number in range(20):
        await bus.publish("q", b"%d" % number)
    assert len(await take(everything, 20)) == 20
    got: list[bytes] = []

    async def work(messages: Subscription) -> None:
        async for message in messages:
            got.append(message.data)
            if len(got) == 20:
                await asyncio.gather(one.close(), two.close())

    async with asyncio.timeout(5):
        await asyncio.gather(work(one), work(two))
    assert sorted(got, key=int) == [b"%d" % number for number in range(20)]


async def test_closed_subscription_ends_its_iteration(bus: Bus) -> None:
    messages = await bus.subscribe("x")
    await messages.close()
    assert [message async for message in messages] == []
    await bus.publish("x", b"nobody")


async def test_headers_and_message_id_arrive(bus: Bus) -> None:
    async with await bus.subscribe("h") as messages:
        await bus.publish("h", b"", {"a": "1"}, message_id="m1")
        message = await anext(messages)
    assert (message.subject, message.headers["a"]) == ("h", "1")
    assert message.headers["Nats-Msg-Id"] == "m1"


async def test_trace_context_travels_with_the_message(bus: Bus) -> None:
    async with await bus.subscribe("t") as messages:
        with TracerProvider().get_tracer("test").start_as_current_span("join") as span:
            await bus.publish("t", b"")
        message = await anext(messages)
    parent = trace.get_current_span(extract(message.headers)).get_span_context()
    assert parent.trace_id == span.get_span_context().trace_id


async def test_request_gets_the_answer(bus: Bus) -> None:
    async with await bus.subscribe("ask") as questions:

        async def answer() -> None:
            question = await anext(questions)
            await question.respond(question.data + b"!")

        answering = asyncio.create_task(answer())
        assert (await bus.request("ask", b"hello", 5)).data == b"hello!"
        await answering


async def test_request_nobody_listens_to_fails_at_once(bus: Bus) -> None:
    with pytest.raises(NoResponders):
        await bus.request("nobody", b"", 30)


async def test_request_nobody_answers_times_out(bus: Bus) -> None:
    async with await bus.subscribe("deaf"):
        with pytest.raises(RequestTimedOut):
            await bus.request("deaf", b"", 0.05)


async def test_stream_keeps_messages_in_order_and_gives_them_to_late_readers(bus: Bus) -> None:
    await bus.open_stream(FACTS)
    await bus.open_stream(FACTS)
    numbers = itertools.count()
    for subject in ("facts.a", "facts.b", "facts.a"):
        number = next(numbers)
        ack = await bus.publish_durable(subject, b"%d" % number, f"id{number}")
        assert ack == Ack(number + 1, duplicate=False)
    async with (
        await bus.read_stream(FACTS) as every,
        await bus.read_stream(FACTS, "facts.a", start=2) as some,
    ):
        assert await take(every, 3) == [b"0", b"1", b"2"]
        assert await take(some, 1) == [b"2"]
        await bus.publish_durable("facts.a", b"3", "id3")
        assert await take(every, 1) == await take(some, 1) == [b"3"]


async def test_repeated_message_id_is_stored_once(bus: Bus) -> None:
    await bus.open_stream(FACTS)
    await bus.publish_durable("facts.a", b"1", "same")
    assert await bus.publish_durable("facts.a", b"1", "same") == Ack(1, duplicate=True)
    await bus.publish_durable("facts.a", b"2", "other")
    async with await bus.read_stream(FACTS) as messages:
        assert await take(messages, 2) == [b"1", b"2"]


async def test_full_stream_refuses_new_facts_and_keeps_the_old(bus: Bus) -> None:
    await bus.open_stream(FACTS)
    await bus.publish_durable("facts.a", b"old", "1")
    with pytest.raises(BusError, match=r"facts\.a was not stored"):
        await bus.publish_durable("facts.a", b"x" * 10_000, "2")
    async with await bus.read_stream(FACTS) as messages:
        assert await take(messages, 1) == [b"old"]


async def test_a_stream_tells_how_full_it_is(bus: Bus) -> None:
    assert await bus.stream_fill(FACTS) == 0.0
    await bus.open_stream(FACTS)
    assert await bus.stream_fill(FACTS) == 0.0
    await bus.publish_durable("facts.a", b"x" * (FACTS.max_bytes // 2), "1")
    assert 0.5 <= await bus.stream_fill(FACTS) < 1.0


async def test_a_stream_that_never_held_anything_has_nothing_to_read(bus: Bus) -> None:
    await bus.open_stream(FACTS)
    ends = await bus.stream_ends(FACTS)
    assert (ends.first, ends.last) == (1, 0)
    reader = bus.open_reader(FACTS, FACTS.subjects, ends.first)
    assert await reader.read(10, 0.05) == []
    await bus.publish_durable("facts.a", b"first", "1")
    async with asyncio.timeout(5):
        while not (found := await reader.read(10, 0.5)):
            pass
    assert [message.data for message in found] == [b"first"]
    await reader.close()


async def test_fact_without_a_stream_is_refused(bus: Bus) -> None:
    with pytest.raises(BusError):
        await bus.publish_durable("nowhere", b"", "1")


async def test_without_a_connection_everything_is_refused_at_once() -> None:
    memory = MemoryBus()
    memory.connected = False
    nats = NatsBus("nats://127.0.0.1:1")
    await nats.start(wait_s=0.05)
    for lost in (memory, nats):
        assert not lost.connected
        for call in (
            lost.publish("x", b""),
            lost.subscribe("x"),
            lost.request("x", b"", 1),
            lost.publish_durable("x", b"", "1"),
            lost.open_stream(FACTS),
            lost.read_stream(FACTS),
        ):
            with pytest.raises(NotConnected):
                await call
    await nats.close()


async def test_subscription_survives_a_lost_connection() -> None:
    async with (
        running_nats() as server,
        Cable(server.url).laid() as cable,
        connected_bus(server, cable.url) as bus,
        connected_bus(server) as other,
        await bus.subscribe("s") as messages,
    ):
        cable.pull()
        async with asyncio.timeout(5):
            await disconnected(bus)
            await cable.plug()
            await bus.wait_for_reconnection(1)
            await bus.request("$JS.API.INFO", b"", 2)
            await other.publish("s", b"back")
            assert await take(messages, 1) == [b"back"]


async def test_bus_that_starts_before_its_server_connects_later() -> None:
    async with running_nats() as server, Cable(server.url).laid() as cable:
        cable.pull()
        bus = NatsBus(cable.url, user=server.user, password=server.password)
        await bus.start(wait_s=0.05)
        assert not bus.connected
        await cable.plug()
        async with asyncio.timeout(5):
            await bus.wait_for_reconnection(0)
        await bus.publish("x", b"")
        await bus.close()

"""The key-value contract: the same tests for the double in memory and for a real nats-server."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis import kv as chassis_kv
from chassis.bus import NatsBus
from chassis.errors import InvalidKey, KeyExists, KvError, KvUnavailable, WrongRevision
from chassis.kv import CaughtUp, Change, Deleted, Entry, Kv, MemoryKv, NatsKv, path
from chassis.subjects import Bucket
from tests.support.cable import Cable
from tests.support.nats import connected_bus, disconnected, running_nats

BUCKET = Bucket("things", max_value_bytes=1000)


@pytest.fixture(params=["memory", "nats"])
async def kv(request: pytest.FixtureRequest) -> AsyncIterator[Kv]:
    if request.param == "memory":
        yield MemoryKv(BUCKET)
        return
    async with running_nats() as server, connected_bus(server) as bus:
        yield NatsKv(bus, BUCKET)


async def take(changes: AsyncIterator[Change], count: int) -> list[Change]:
    async with asyncio.timeout(5):
        return [await anext(changes) for _ in range(count)]


async def test_missing_key_is_none(kv: Kv) -> None:
    assert await kv.get("nothing") is None
    assert await kv.keys() == []


async def test_created_value_is_read_back(kv: Kv) -> None:
    revision = await kv.create("a", b"1")
    assert await kv.get("a") == Entry("a", b"1", revision)
    assert await kv.last_revision() == revision


async def test_a_key_that_is_too_long_is_refused_and_costs_nothing_else(kv: Kv) -> None:
    await kv.create("a", b"1")
    for key in ("a" * 5000, path("room", "ü" * 1000)):
        with pytest.raises(InvalidKey, match="2000 at most"):
            await kv.get(key)
        with pytest.raises(InvalidKey):
            await kv.put(key, b"2")
    longest = path("participant", "ü" * 128, "ü" * 128)
    await kv.put(longest, b"3")
    assert await kv.keys() == ["a", longest]


async def test_create_of_a_present_key_is_refused(kv: Kv) -> None:
    await kv.create("a", b"1")
    with pytest.raises(KeyExists):
        await kv.create("a", b"2")
    entry = await kv.get("a")
    assert entry is not None
    assert entry.value == b"1"


async def test_update_needs_the_present_revision(kv: Kv) -> None:
    first = await kv.create("a", b"1")
    second = await kv.update("a", b"2", first)
    assert second > first
    for wrong in (first, second + 1):
        with pytest.raises(WrongRevision):
            await kv.update("a", b"3", wrong)
    with pytest.raises(WrongRevision):
        await kv.update("absent", b"3", first)
    assert await kv.get("a") == Entry("a", b"2", second)


async def test_delete_needs_the_given_revision(kv: Kv) -> None:
    first = await kv.create("a", b"1")
    second = await kv.put("a", b"2")
    with pytest.raises(WrongRevision):
        await kv.delete("a", first)
    await kv.delete("a", second)
    assert await kv.get("a") is None
    assert await kv.keys() == []
    await kv.delete("a")
    with pytest.raises(WrongRevision):
        await kv.delete("a", second)


async def test_deleted_key_can_be_created_again_with_a_higher_revision(kv: Kv) -> None:
    first = await kv.create("a", b"1")
    await kv.delete("a", first)
    again = await kv.create("a", b"2")
    assert again > first
    with pytest.raises(KeyExists):
        await kv.create("a", b"3")


async def test_bucket_whose_entries_expire_works_alike() -> None:
    async with running_nats() as server, connected_bus(server) as bus:
        kv = NatsKv(bus, Bucket("beats", ttl_s=30))
        first = await kv.put("a", b"1")
        await kv.delete("a", first)
        assert await kv.get("a") is None
        assert await kv.create("a", b"2") > first


async def test_one_of_many_concurrent_creates_wins(kv: Kv) -> None:
    results = await asyncio.gather(
        *(kv.create("a", b"%d" % number) for number in range(20)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, int)]
    assert len(won) == 1
    assert sum(isinstance(result, KeyExists) for result in results) == 19


async def test_revisions_grow_across_keys(kv: Kv) -> None:
    revisions = [await kv.put(key, b"") for key in "abcab"]
    assert revisions == sorted(set(revisions))
    await kv.delete("a")
    assert await kv.last_revision() > revisions[-1]


@pytest.mark.parametrize(
    "key", ["plain", "with space", "dots.and>stars*", "=equals", "söme/ünïcode", "", "x" * 256]
)
async def test_any_text_is_a_key(kv: Kv, key: str) -> None:
    revision = await kv.create(key, b"v")
    assert await kv.get(key) == Entry(key, b"v", revision)
    assert await kv.keys() == [key]


async def test_value_over_the_limit_is_refused_and_the_old_one_stays(kv: Kv) -> None:
    await kv.put("a", b"old")
    with pytest.raises(KvUnavailable):
        await kv.put("a", b"x" * 2000)
    entry = await kv.get("a")
    assert entry is not None
    assert entry.value == b"old"


async def test_watch_gives_what_is_there_then_a_marker_then_changes(kv: Kv) -> None:
    await kv.put("a", b"1")
    await kv.put("gone", b"")
    await kv.delete("gone")
    second = await kv.put("b", b"2")
    changes = kv.watch()
    initial = await take(changes, 3)
    assert [change.key for change in initial if isinstance(change, Entry)] == ["a", "b"]
    assert initial[-1] == CaughtUp()
    third = await kv.update("b", b"3", second)
    await kv.delete("a")
    assert (await take(changes, 1)) == [Entry("b", b"3", third)]
    deleted = (await take(changes, 1))[0]
    assert isinstance(deleted, Deleted)
    assert (deleted.key, deleted.revision > third) == ("a", True)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_watch_of_an_empty_bucket_is_caught_up_at_once(kv: Kv) -> None:
    changes = kv.watch()
    assert await take(changes, 1) == [CaughtUp()]
    await changes.aclose()  # type: ignore[attr-defined]


async def test_watch_with_a_prefix_sees_those_keys_only(kv: Kv) -> None:
    await kv.put("a/ 1", b"")
    await kv.put("b/ 1", b"")
    changes = kv.watch("a/")
    initial = await take(changes, 2)
    assert [change.key for change in initial if isinstance(change, Entry)] == ["a/ 1"]
    await kv.put("b/ 2", b"")
    await kv.put("a/ 2", b"")
    news = (await take(changes, 1))[0]
    assert isinstance(news, Entry)
    assert news.key == "a/ 2"
    await changes.aclose()  # type: ignore[attr-defined]


async def test_without_a_connection_everything_is_refused_at_once() -> None:
    memory = MemoryKv(BUCKET)
    memory.available = False
    bus = NatsBus("nats://127.0.0.1:1")
    await bus.start(wait_s=0.05)
    for lost in (memory, NatsKv(bus, BUCKET)):
        for call in (
            lost.get("a"),
            lost.create("a", b""),
            lost.update("a", b"", 1),
            lost.put("a", b""),
            lost.delete("a"),
            lost.keys(),
            lost.entries("a"),
            lost.last_revision(),
        ):
            with pytest.raises(KvUnavailable):
                await call
    await bus.close()


async def test_watch_tells_keys_that_a_bucket_lost_at_the_revision_they_had() -> None:
    async with (
        running_nats() as server,
        Cable(server.url).laid() as cable,
        connected_bus(server, cable.url) as bus,
        connected_bus(server) as other_bus,
    ):
        kv = NatsKv(bus, BUCKET)
        await kv.put("early", b"")
        changes = kv.watch()
        await take(changes, 2)
        late = await kv.put("late", b"")
        await take(changes, 1)
        cable.pull()
        async with asyncio.timeout(5):
            await disconnected(bus)
        await other_bus.jetstream().delete_stream(f"KV_{BUCKET.name}")
        other = NatsKv(other_bus, BUCKET)
        await other.put("filler", b"")
        await other.delete("filler")
        again = await other.put("early", b"again")
        await cable.plug()
        assert await take(changes, 2) == [Entry("early", b"again", again), Deleted("late", late)]
        await changes.aclose()  # type: ignore[attr-defined]


async def test_watch_gives_what_changed_while_the_connection_was_lost() -> None:
    async with (
        running_nats() as server,
        Cable(server.url).laid() as cable,
        connected_bus(server, cable.url) as bus,
        connected_bus(server) as other_bus,
    ):
        kv, other = NatsKv(bus, BUCKET), NatsKv(other_bus, BUCKET)
        await other.put("gone", b"")
        kept = await other.put("kept", b"")
        changes = kv.watch()
        assert (await take(changes, 3))[-1] == CaughtUp()
        cable.pull()
        async with asyncio.timeout(5):
            await disconnected(bus)
        await other.delete("gone")
        made = await other.create("made", b"new")
        await cable.plug()
        seen = await take(changes, 2)
        assert Entry("made", b"new", made) in seen
        assert [change.key for change in seen if isinstance(change, Deleted)] == ["gone"]
        entry = await kv.get("kept")
        assert entry is not None
        assert entry.revision == kept
        await changes.aclose()  # type: ignore[attr-defined]


async def test_write_that_is_not_acknowledged_is_of_unknown_outcome() -> None:
    async with (
        running_nats() as server,
        Cable(server.url).laid() as cable,
        connected_bus(server, cable.url) as bus,
    ):
        kv = NatsKv(bus, BUCKET)
        await kv.put("a", b"1")
        writing = asyncio.create_task(kv.put("a", b"2"))
        await asyncio.sleep(0)
        cable.pull()
        with pytest.raises(KvError):
            await writing


ROOMS = ["a", "a.b", "with space", "per%cent", "unit\x1fseparator", "", "é", "*", ">"]


async def test_entries_below_a_key_are_those_and_no_others(kv: Kv) -> None:
    revisions = {
        path(room, sid): await kv.put(path(room, sid), room.encode())
        for room in ROOMS
        for sid in ("PA_1", "PA_2")
    }
    await kv.put(path("a"), b"the room itself")
    for room in ROOMS:
        below = [path(room, "PA_1"), path(room, "PA_2")]
        found = await kv.entries(path(room))
        assert found == [Entry(key, room.encode(), revisions[key]) for key in below], room
    await kv.delete(path("a", "PA_1"), revisions[path("a", "PA_1")])
    assert [entry.key for entry in await kv.entries(path("a"))] == [path("a", "PA_2")]
    assert await kv.entries(path("nobody")) == []
    assert await kv.get(path("a")) is not None


def test_key_encoding_is_reversible_and_distinct() -> None:
    keys = [
        "a",
        "=a",
        "YQ",
        "=YQ",
        "a.b",
        "a b",
        "",
        "é",
        path("a", "b"),
        path("a", ""),
        path("", "a.b"),
    ]
    encoded = [chassis_kv.encode_key(key) for key in keys]
    assert len(set(encoded)) == len(keys)
    assert [chassis_kv.decode_key(text) for text in encoded] == keys

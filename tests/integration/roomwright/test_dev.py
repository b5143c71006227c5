"""`roomwright dev` as a process: started, used, stopped."""

import asyncio
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest
from livekit import rtc
from livekit.protocol import rtc as livekit_rtc

from loadtest.ports import free_port
from tests.support.dev_server import DevServer
from tests.support.nats import is_running
from tests.support.python_client import PythonClient, until

END_S = 10.0  # to close everything, on a busy machine
SHUT_DOWN = f"disconnected {rtc.DisconnectReason.SERVER_SHUTDOWN}"


class Dev:
    """A running `roomwright dev` on free ports."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.output = ""

    async def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(25):
            while "URL    ws://" not in self.output or not self.output.endswith("\n\n"):
                line = await self.process.stdout.readline()
                if not line:
                    raise AssertionError(self.output + await self.errors())
                self.output += line.decode()

    @property
    def server(self) -> DevServer:
        """For those who join."""
        return DevServer(port=self.port, pid=self.process.pid, log=Path("/dev/null"))

    async def interrupt(self) -> str:
        """Ctrl-C, and the line it is answered with."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        return (await self.process.stdout.readline()).decode()

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


@asynccontextmanager
async def started(directory: Path, *flags: str) -> AsyncIterator[Dev]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roomwright", "dev", "--port", str(port)),
        *("--udp-port", str(free_port(socket.SOCK_DGRAM)), "--tcp-port", str(free_port())),
        *("--data-dir", str(directory), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Dev(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        # Pipes of a process that ended are closed by the loop once they were read.
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.read()
        await process.stderr.read()


async def test_everything_starts_answers_and_ends_at_once_when_idle(tmp_path: Path) -> None:
    async with started(tmp_path) as dev:
        await dev.wait_until_ready()
        token = re.search(r"^token  (\S+)$", dev.output, re.MULTILINE)
        assert token is not None
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{dev.port}") as client:
            assert (await client.get("/")).text == "OK"
            valid = await client.get("/rtc/validate", params={"access_token": token[1]})
            assert (valid.status_code, valid.text) == (200, "success")
            refused = await client.post("/twirp/livekit.RoomService/ListRooms", json={})
            assert refused.json() == {"code": "unauthenticated", "msg": "permissions denied"}
        dev.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            assert await dev.process.wait() == 0
        assert await dev.errors() == ""
        assert not list(tmp_path.glob("nats/*.ports"))


async def calling(dev: Dev) -> PythonClient:
    """A participant whose media flows."""
    client = await PythonClient.join(dev.server, "demo", "ann")
    await client.publish_tone()
    return client


async def test_those_in_calls_are_told_of_the_shutdown_after_a_short_grace(tmp_path: Path) -> None:
    async with started(tmp_path) as dev:
        await dev.wait_until_ready()
        client = await calling(dev)
        assert "waiting 5 s for 1 participant to leave; Ctrl-C again" in await dev.interrupt()
        assert client.room.isconnected()
        async with asyncio.timeout(5 + END_S):
            assert await dev.process.wait() == 0
        await until(lambda: SHUT_DOWN in client.events, f"told: {client.events}", 3)
        assert "reconnecting" not in client.events
        await client.leave()
        assert await dev.errors() == ""


async def test_second_interrupt_ends_calls_now_and_still_tells_why(tmp_path: Path) -> None:
    async with started(tmp_path) as dev:
        await dev.wait_until_ready()
        client = await calling(dev)
        await dev.interrupt()
        dev.process.send_signal(signal.SIGINT)
        # Long before the grace is over.
        await until(lambda: SHUT_DOWN in client.events, f"told: {client.events}", 3)
        async with asyncio.timeout(END_S):
            assert await dev.process.wait() == 0
        await client.leave()
        assert await dev.errors() == ""


async def test_grace_ends_with_the_last_call(tmp_path: Path) -> None:
    goodbye = livekit_rtc.SignalRequest(leave=livekit_rtc.LeaveRequest())
    async with started(tmp_path) as dev, aiohttp.ClientSession() as http:
        await dev.wait_until_ready()
        query = {"access_token": dev.server.token("demo", "ann"), "protocol": "17"}
        async with http.ws_connect(f"{dev.server.url}/rtc", params=query) as socket_:
            await socket_.receive()
            assert "1 participant" in await dev.interrupt()
            begin = time.monotonic()
            await socket_.send_bytes(goodbye.SerializeToString())
            async for _ in socket_:
                pass
            assert socket_.close_code == 1000
            # What is left of the grace is not waited for, however slow the machine is.
            assert time.monotonic() - begin < 4
            async with asyncio.timeout(END_S):
                assert await dev.process.wait() == 0


async def test_its_nats_server_ends_with_it_when_it_is_killed(tmp_path: Path) -> None:
    async with started(tmp_path) as dev:
        await dev.wait_until_ready()
        pid = int((tmp_path / "nats" / "nats.pid").read_text())
        assert b"nats.conf" in Path(f"/proc/{pid}/cmdline").read_bytes()
        dev.process.kill()
        await dev.process.wait()
        await until(lambda: not is_running(pid), "nats-server ends", 5)


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        ("--port", socket.SOCK_STREAM),
        ("--tcp-port", socket.SOCK_STREAM),
        ("--udp-port", socket.SOCK_DGRAM),
    ],
)
async def test_busy_port_is_named_with_the_flag_that_moves_it(
    tmp_path: Path, flag: str, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_INET, kind) as busy:
        busy.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            busy.listen()
        port = busy.getsockname()[1]
        async with started(tmp_path, flag, str(port)) as dev:
            assert await dev.process.wait() == 1
            text = await dev.errors()
    protocol = "TCP" if kind is socket.SOCK_STREAM else "UDP"
    assert text == (
        f"roomwright: {protocol} port {port} on 127.0.0.1 is in use: "
        f"stop what uses it, or move with {flag}\n"
    )
    assert not (tmp_path / "nats").exists()


async def test_known_keys_are_refused_beyond_loopback(tmp_path: Path) -> None:
    async with started(tmp_path, "--bind", "0.0.0.0") as dev:
        assert await dev.process.wait() == 1
        assert "--insecure-dev-keys" in await dev.errors()

"""`roomwright dev` as a process: started, used, stopped."""

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

pytest.importorskip("mediacore", exc_type=ImportError)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Dev:
    """A running `roomwright dev` on free ports."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.output = ""

    async def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while "URL    ws://" not in self.output or not self.output.endswith("\n\n"):
                line = await self.process.stdout.readline()
                if not line:
                    raise AssertionError(self.output + await self.errors())
                self.output += line.decode()

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


@asynccontextmanager
async def started(directory: Path, *flags: str, port: int | None = None) -> AsyncIterator[Dev]:
    port = port or free_port()
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


async def test_busy_port_is_named_with_the_flag_that_moves_it(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        async with started(tmp_path, port=port) as dev:
            assert await dev.process.wait() == 1
            text = await dev.errors()
    assert text == (
        f"roomwright: TCP port {port} on 127.0.0.1 is in use: "
        "stop what uses it, or move with --port\n"
    )


async def test_known_keys_are_refused_beyond_loopback(tmp_path: Path) -> None:
    async with started(tmp_path, "--bind", "0.0.0.0") as dev:
        assert await dev.process.wait() == 1
        assert "--insecure-dev-keys" in await dev.errors()

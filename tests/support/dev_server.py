"""A whole Roomwright in a process of its own, as `make run` starts it, for clients that nobody here wrote."""

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.support.server import join_token

KEY = "devkey"
SECRET = "secret"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class DevServer:
    """Where a running server is."""

    port: int
    pid: int
    log: Path
    """Everything the process wrote, both streams."""
    udp_port: int = 0
    """Where media arrives."""

    @property
    def url(self) -> str:
        """What SDKs connect to."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        """What server SDKs and browsers open."""
        return f"http://127.0.0.1:{self.port}"

    async def told(self, path: str) -> dict[int, str]:
        """What every HTTP server of the process answers to `path`, by port; found as a stranger would."""
        answers = {}
        async with aiohttp.ClientSession() as http:
            for port in listening_ports(self.pid):
                with contextlib.suppress(aiohttp.ClientError):  # gRPC does not speak HTTP/1.1
                    async with http.get(f"http://127.0.0.1:{port}{path}") as answer:
                        answers[port] = await answer.text()
        return answers

    async def metric(self, name: str) -> float:
        """The value of one sample on `/metrics`, its labels included in the name."""
        for page in (await self.told("/metrics")).values():
            for line in page.splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    def resident_bytes(self) -> int:
        """Memory of the process now."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def page_url(self) -> str:
        """Where the page and the browser tests' harness are served."""
        return f"{self.http_url}/app"

    def token(self, room: str, identity: str, **grants: object) -> str:
        """A token made by the published server SDK, for one hour."""
        return join_token(KEY, SECRET, room, identity, **grants)


@asynccontextmanager
async def running(directory: Path, *flags: str) -> AsyncIterator[DevServer]:
    """Start a server on free ports and stop it by the signal a person would send."""
    port, udp_port, tcp_port = free_port(), free_port(socket.SOCK_DGRAM), free_port()
    log = directory / "server.log"
    command = [sys.executable, "-m", "roomwright", "dev", "--port", str(port)]
    command += ["--udp-port", str(udp_port), "--tcp-port", str(tcp_port)]
    command += ["--data-dir", str(directory / "data"), *flags]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=output,
            stderr=output,
            stdin=asyncio.subprocess.DEVNULL,
            env=dict(os.environ),
        )
    try:
        await _until_ready(process, log, port)
        yield DevServer(port=port, pid=process.pid, log=log, udp_port=udp_port)
        code = await _stopped(process)
        assert code in (0, 130), f"server ended with {code}:\n{_tail(log)}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _stopped(process: asyncio.subprocess.Process) -> int:
    """Ctrl-C, and once more for the calls that a failed test left behind."""
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    raise AssertionError("the server did not stop at the second Ctrl-C")


async def _until_ready(process: asyncio.subprocess.Process, log: Path, port: int) -> None:
    ready = re.compile(rb"URL +ws://[a-z0-9.]+:%d" % port)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while not ready.search(log.read_bytes()):
        if process.returncode is not None:
            raise AssertionError(f"server ended while starting:\n{_tail(log)}")
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"server did not start in {START_TIMEOUT_S:.0f} s:\n{_tail(log)}")
        await asyncio.sleep(0.05)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening_ports(pid: int) -> list[int]:
    """TCP ports of 127.0.0.1 that the process listens on."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return [
        int(row.split()[1].split(":")[1], 16)
        for row in rows
        if row.split()[3] == "0A" and row.split()[9] in inodes
    ]


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]

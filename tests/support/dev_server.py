"""A whole Roomwright in a process of its own, as `make run` starts it, for clients that nobody here wrote."""

import contextlib
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from loadtest.own_server import KEY, SECRET, own_server
from tests.support.server import join_token

__all__ = ["KEY", "SECRET", "DevServer", "listening_ports", "running"]


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
    async with own_server(directory, *flags) as own:
        yield DevServer(port=own.port, pid=own.pid, log=own.log, udp_port=own.udp_port)


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

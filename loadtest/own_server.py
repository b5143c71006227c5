"""A Roomwright in a process of its own, on free ports of 127.0.0.1: for who was given no server to load."""

import asyncio
import contextlib
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.access import Target
from loadtest.ports import free_port

KEY: Final = "devkey"
SECRET: Final = "secret"
START_TIMEOUT_S: Final = 25.0
STOP_TIMEOUT_S: Final = 15.0
MAX_TOLD: Final = 4000
"""Characters of its log that an error tells."""


class OwnServerError(Exception):
    """It did not start, or did not stop as it should; the text has the end of its log."""


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running server."""

    port: int
    udp_port: int
    """Where media arrives."""
    pid: int
    log: Path
    """Everything the process wrote, both streams."""

    @property
    def target(self) -> Target:
        """For those who join."""
        return Target(f"ws://127.0.0.1:{self.port}", KEY, SECRET)


@asynccontextmanager
async def own_server(directory: Path, *flags: str) -> AsyncIterator[OwnServer]:
    """Start `roomwright dev`, its data and log in `directory`, and stop it by the signal a person would send."""
    port, udp_port, tcp_port = free_port(), free_port(socket.SOCK_DGRAM), free_port()
    log = directory / "server.log"
    command = [sys.executable, "-m", "roomwright", "dev", "--port", str(port)]
    command += ["--udp-port", str(udp_port), "--tcp-port", str(tcp_port)]
    command += ["--data-dir", str(directory / "data"), *flags]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        await _until_ready(process, log, port)
        yield OwnServer(port, udp_port, process.pid, log)
        code = await _stopped(process)
        if code not in (0, 130):
            raise OwnServerError(f"the server ended with {code}:\n{_tail(log)}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _stopped(process: asyncio.subprocess.Process) -> int:
    """Ctrl-C, and once more for the calls that somebody left behind."""
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    raise OwnServerError("the server did not stop at the second Ctrl-C")


async def _until_ready(process: asyncio.subprocess.Process, log: Path, port: int) -> None:
    ready = re.compile(rb"URL +ws://[a-z0-9.]+:%d" % port)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while not ready.search(log.read_bytes()):
        if process.returncode is not None:
            raise OwnServerError(f"the server ended while starting:\n{_tail(log)}")
        if asyncio.get_running_loop().time() > deadline:
            raise OwnServerError(
                f"the server did not start in {START_TIMEOUT_S:.0f} s:\n{_tail(log)}"
            )
        await asyncio.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-MAX_TOLD:]

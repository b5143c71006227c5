"""A published SDK in a process of its own: commands to its stdin, answers and events from its stdout, lines of JSON.

For SDKs that cannot live in this process: another language, or another release of the Python SDK.
"""

import asyncio
import contextlib
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.python_client import until
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "clients"
OLD_PYTHON_SDK = ROOT / ".roomwright" / "old-python-sdk"
AGENTS = ROOT / ".roomwright" / "agents"
COMMAND_TIMEOUT_S = 60.0
GOODBYE_TIMEOUT_S = 10.0


class ClientError(Exception):
    """The SDK refused a command, or its process ended."""


class ClientProcess:
    """One participant; `events` names everything that happened, in order."""

    def __init__(self, process: asyncio.subprocess.Process, identity: str) -> None:
        self.identity = identity
        self.events: list[str] = []
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[object]] = {}
        self._reader = asyncio.create_task(self._read())

    @staticmethod
    async def node(server: Server, room: str, identity: str, **grants: object) -> "ClientProcess":
        """Join with the Node SDK."""
        node = shutil.which("node")
        assert node is not None, "Node.js is missing: install it from https://nodejs.org"
        command = [node, str(CLIENTS / "participant.mjs")]
        return await ClientProcess._join(command, server, room, identity, grants)

    @staticmethod
    async def old_python(
        server: Server, room: str, identity: str, **grants: object
    ) -> "ClientProcess":
        """Join with the old release of the Python SDK."""
        assert OLD_PYTHON_SDK.exists(), f"{OLD_PYTHON_SDK} is missing: run `make setup`"
        # -S: the packages of this environment, the newest SDK among them, stay out of reach.
        command = [sys.executable, "-S", str(CLIENTS / "old_participant.py"), str(OLD_PYTHON_SDK)]
        return await ClientProcess._join(command, server, room, identity, grants)

    @staticmethod
    async def agent(server: Server, room: str, identity: str, token: str) -> "ClientProcess":
        """Join with the agents framework, by a token made for an agent."""
        assert AGENTS.exists(), f"{AGENTS} is missing: run `make setup`"
        command = [sys.executable, "-S", str(CLIENTS / "agent.py"), str(AGENTS)]
        client = await ClientProcess._start(command, identity)
        await client.ask("join", url=server.url, token=token)
        return client

    @staticmethod
    async def node_server_sdk(http_url: str, key: str, secret: str) -> "ClientProcess":
        """The server SDK for Node; `ask(method, given=[...])` makes its calls."""
        node = shutil.which("node")
        assert node is not None, "Node.js is missing: install it from https://nodejs.org"
        return await ClientProcess._start(
            [node, str(CLIENTS / "server_api.mjs"), http_url, key, secret], "server"
        )

    @staticmethod
    async def _start(command: Sequence[str], identity: str) -> "ClientProcess":
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        return ClientProcess(process, identity)

    @staticmethod
    async def _join(
        command: Sequence[str],
        server: Server,
        room: str,
        identity: str,
        grants: dict[str, object],
    ) -> "ClientProcess":
        client = await ClientProcess._start(command, identity)
        try:
            await client.ask("join", url=server.url, token=server.token(room, identity, **grants))
        except BaseException:
            await client.stop()
            raise
        return client

    async def ask(self, does: str, **details: object) -> object:
        """Have a command done; its answer, `ClientError` when the SDK refuses it."""
        assert self._process.stdin is not None
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "does": does, **details})
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            return await answer

    async def told(self, event: str, *, times: int = 1, timeout_s: float = 20.0) -> None:
        """Wait until an event happened that often."""
        await until(
            lambda: self.events.count(event) >= times,
            f"{self.identity}: {event!r} {times} times; had {self.events[-20:]}",
            timeout_s,
        )

    async def leave(self) -> None:
        """Disconnect and end the process."""
        try:
            await self.ask("leave")
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End the process: by the end of its input, or by force."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # the SDK's own chatter
                self._take(json.loads(line))
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(ClientError(f"the process of {self.identity} ended"))

    def _take(self, said: object) -> None:
        match said:
            case {"event": str(event)}:
                self.events.append(event)
            case {"id": int(number), "answer": answer}:
                self._answers.pop(number).set_result(answer)
            case {"id": int(number), "error": error}:
                self._answers.pop(number).set_exception(ClientError(str(error)))
            case _:
                pass

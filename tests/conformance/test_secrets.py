"""Access tokens and join requests appear in no log, metric, file or answer, whatever is asked and however it fails."""

import base64
import contextlib
import io
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from livekit.protocol import rtc

from tests.support.dev_server import KEY, SECRET, DevServer, listening_ports, running
from tests.support.python_client import PythonClient

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ROUTES = (
    "/",
    "/rtc",
    "/rtc/validate",
    "/rtc/v1",
    "/rtc/v1/validate",
    "/app/nowhere",
    "/nowhere",
    "/twirp/livekit.RoomService/ListRooms",
    "/twirp/livekit.RoomService/Nothing",
    "/twirp/livekit.Nothing/ListRooms",
    "/healthz",
    "/readyz?verbose",
    "/metrics",
)
METADATA = "a-secret-of-the-joiner"
JOIN_REQUEST = base64.urlsafe_b64encode(
    rtc.WrappedJoinRequest(
        join_request=rtc.JoinRequest(metadata=METADATA).SerializeToString()
    ).SerializeToString()
).decode()
BROKEN_JOIN_REQUEST = "AAAA" + JOIN_REQUEST[4:]
ENCODED = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}\.|access_token=(?!\[redacted)")


def tokens(room: str) -> list[str]:
    """A good one, one signed by somebody else, one that is over."""
    good = {"exp": int(time.time()) + 600, "video": {"roomJoin": True, "room": room}}
    claims = ((good, SECRET), (good, "s" * 32), ({"exp": 1}, SECRET))
    return [
        jwt.encode({"iss": KEY, "sub": "eve", **more}, secret, algorithm="HS256")
        for more, secret in claims
    ]


@dataclass
class Asker:
    """Asks, and keeps what was answered."""

    http: aiohttp.ClientSession
    statuses: set[int] = field(default_factory=set)
    answers: list[str] = field(default_factory=list)

    async def ask(self, method: str, url: str, **options: Any) -> None:
        async with self.http.request(method, url, **options) as answer:
            self.statuses.add(answer.status)
            self.answers.append(f"{answer.headers} {await answer.text()}")

    async def ask_everything(self, server: DevServer, token: str, join_request: str) -> None:
        """Every route with the secrets in the query, and with the token in a header."""
        query = {"access_token": token, "join_request": join_request}
        bearer = {"Authorization": f"Bearer {token}"}
        for route in ROUTES:
            for method in METHODS:
                await self.ask(method, f"{server.http_url}{route}", params=query)
                await self.ask(method, f"{server.http_url}{route}", headers=bearer)
        body = io.BytesIO(token.encode() + bytes(10 << 20))
        url = f"{server.http_url}/twirp/livekit.RoomService/ListRooms"
        await self.ask("POST", url, data=body, headers=bearer)
        for port in listening_ports(server.pid):
            for route in ROUTES:
                with contextlib.suppress(aiohttp.ClientError):  # gRPC speaks no HTTP/1.1
                    await self.ask("GET", f"http://127.0.0.1:{port}{route}", params=query)

    async def join_and_misbehave(self, server: DevServer, token: str, join_request: str) -> None:
        """Open a socket, and send what is no SignalRequest."""
        query = {"access_token": token, "join_request": join_request}
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            async with self.http.ws_connect(f"{server.url}/rtc/v1", params=query) as socket:
                await socket.send_str(f"access_token={token}")
                async for _ in socket:
                    pass


def secrets_of(given: list[str]) -> list[str]:
    """What must not be found: parts that are secret on their own."""
    parts = [part for token in given for part in token.split(".")[1:]]
    return [METADATA, JOIN_REQUEST[:24], BROKEN_JOIN_REQUEST[:24], *parts]


async def test_no_token_or_join_request_is_written_anywhere(tmp_path: Path, room: str) -> None:
    given = tokens(room)
    secrets = secrets_of(given)
    async with (
        running(tmp_path, "--log-level", "debug") as server,
        aiohttp.ClientSession() as http,
    ):
        banner = len(server.log.read_bytes())
        client = await PythonClient.join(server, room, "secretive")
        await client.leave()
        asker = Asker(http)
        for token in given:
            for join_request in (JOIN_REQUEST, BROKEN_JOIN_REQUEST):
                await asker.ask_everything(server, token, join_request)
                await asker.join_and_misbehave(server, token, join_request)
    assert asker.statuses >= {200, 400, 401, 404, 405, 413}
    assert "roomwright_sfu_rooms" in "".join(asker.answers)
    leaks = [answer for answer in asker.answers if any(secret in answer for secret in secrets)]
    assert leaks == []

    # What `dev` prints for the person who starts it holds a token on purpose; what follows does not.
    written = {"the log": server.log.read_bytes()[banner:].decode(errors="replace")}
    assert "participant_joined" in written["the log"], "the log has something to say"
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            written[str(path)] = path.read_bytes().decode(errors="replace")
    for where, text in written.items():
        assert ENCODED.search(text) is None, where
        assert [secret for secret in secrets if secret in text] == [], where

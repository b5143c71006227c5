"""Joins that must be refused, told as clients read them."""

import json
import time

import aiohttp
import jwt
import pytest

from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]


def _token(**video: object) -> str:
    # By hand: the published SDK refuses to sign what the server must refuse to take. For hours: it is
    # made when tests are collected, long before its own turn.
    claims = {"iss": KEY, "sub": "eve", "exp": int(time.time()) + 6 * 3600, "video": video}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.mark.parametrize(
    ("path", "query", "status", "text"),
    [
        ("/rtc/validate", {}, 401, "no permissions to access the room"),
        ("/rtc/validate", {"access_token": "x.y.z"}, 401, "invalid authorization token"),
        ("/rtc/validate", {"access_token": _token(room="r")}, 401, "permissions denied"),
        ("/rtc/validate", {"access_token": _token(roomJoin=True)}, 400, "no room name"),
        (
            "/rtc/v1/validate",
            {"access_token": _token(roomJoin=True, room="r")},
            400,
            "join_request is required",
        ),
        (
            "/rtc/v1/validate",
            {"access_token": _token(roomJoin=True, room="r"), "join_request": "%%%"},
            400,
            "cannot base64 decode wrapped join request",
        ),
        (
            "/rtc/v1/validate",
            {"access_token": _token(roomJoin=True, room="r"), "join_request": "/w=="},
            400,
            None,
        ),
        ("/rtc/validate", {"access_token": _token(roomJoin=True, room="r")}, 200, "success"),
    ],
)
async def test_validate_tells_the_status_and_text_clients_know(
    server: DevServer, path: str, query: dict[str, str], status: int, text: str | None
) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.get(
            f"{server.http_url}{path}", params=query, headers={"Origin": "https://app.example"}
        ) as answer,
    ):
        body = await answer.text()
        assert answer.status == status, body
        assert text is None or body == text
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://app.example")


async def test_the_upgrade_is_refused_with_the_same_status(server: DevServer) -> None:
    async with aiohttp.ClientSession() as http:
        for path, params, status in (
            ("/rtc", {}, 401),
            ("/rtc/v1", {"access_token": _token(roomJoin=True, room="r")}, 400),
            ("//rtc", {"access_token": _token(roomJoin=True)}, 400),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{server.url}{path}", params=params)
            assert refused.value.status == status
        async with http.get(f"{server.http_url}/rtc") as plain:
            assert plain.status == 404
        async with http.head(f"{server.http_url}/") as health:
            assert health.status == 200


async def test_garbage_on_a_socket_costs_its_sender_only(server: DevServer, room: str) -> None:
    alice = await PythonClient.join(server, room, "alice")
    async with aiohttp.ClientSession() as http:
        for garbage in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", "not json", "[1,2"):
            token = server.token(room, "mallory")
            socket = await http.ws_connect(
                f"{server.url}/rtc", params={"access_token": token, "protocol": "17"}
            )
            if isinstance(garbage, bytes):
                await socket.send_bytes(garbage)
            else:
                await socket.send_str(garbage)
            async for _ in socket:
                pass  # ends when the server closes
            assert socket.closed
    await alice.room.local_participant.set_metadata("still here")
    await alice.leave()


async def test_json_frames_are_answered_in_json(server: DevServer, room: str) -> None:
    async with aiohttp.ClientSession() as http:
        token = server.token(room, "texter")
        socket = await http.ws_connect(
            f"{server.url}/rtc", params={"access_token": token, "protocol": "17"}
        )
        first = await socket.receive(timeout=10)
        assert first.type is aiohttp.WSMsgType.BINARY
        await socket.send_str(json.dumps({"pingReq": {"timestamp": "9", "rtt": "0", "unknown": 1}}))
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT and "pongResp" in message.data:
                assert json.loads(message.data)["pongResp"]["lastPingTimestamp"] == "9"
                break
        else:
            raise AssertionError("no pong in JSON")
        await socket.close()

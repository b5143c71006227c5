"""What every HTTP client and browser relies on, over real sockets: health, CORS, paths, frames, roles."""

import asyncio
import io

import aiohttp
import pytest

from contracts.node.v1 import node_pb2
from signaling.http import SERVER_OPTIONS
from tests.support.fronts import (
    JOIN,
    Front,
    ScriptedPlacement,
    running_front,
    running_node,
    running_placement,
    settled,
)


async def test_health_is_ok_while_it_serves_and_406_when_it_is_not_ready(front: Front) -> None:
    url = f"http://{front.address}/"
    async with front.http.get(url) as answer:
        assert (answer.status, await answer.text()) == (200, "OK")
    async with front.http.head(url) as answer:
        assert answer.status == 200
    front.chassis.health.is_ready = False
    async with front.http.get(url) as answer:
        assert answer.status == 406
        assert (await answer.text()).startswith("Not Ready")


async def test_a_plain_get_of_a_socket_and_an_unknown_path_are_404(front: Front) -> None:
    for path in ("/rtc", "/rtc/v1", "/settings/regions", "/debug/rooms", "/nothing"):
        async with front.http.get(f"http://{front.address}{path}") as answer:
            assert answer.status == 404, path


async def test_browsers_of_every_origin_may_ask_and_read_refusals(front: Front) -> None:
    origin = {"Origin": "https://app.example"}
    preflight = {
        **origin,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,x-own",
    }
    url = f"http://{front.address}/twirp/livekit.RoomService/ListRooms"
    async with front.http.options(url, headers=preflight) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Max-Age"] == "86400"
        assert "x-own" in answer.headers["Access-Control-Allow-Headers"]
        methods = answer.headers["Access-Control-Allow-Methods"].replace(" ", "").split(",")
        assert {"OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE"} <= set(methods)
    for path in ("/rtc/validate", "/rtc/v1/validate", "//rtc/validate"):
        async with front.http.get(f"http://{front.address}{path}", headers=origin) as answer:
            assert answer.status == 401
            assert answer.headers["Access-Control-Allow-Origin"] in ("*", origin["Origin"])


async def test_a_token_may_come_in_the_header_or_the_query(front: Front) -> None:
    url = f"http://{front.address}/rtc/validate"
    token = front.token()
    async with front.http.get(url, params={"access_token": token}) as answer:
        assert (answer.status, await answer.text()) == (200, "success")
    header = {"Authorization": f"Bearer {token}"}
    async with front.http.get(url, headers=header) as answer:
        assert answer.status == 200
    async with front.http.get(
        url, headers={"Authorization": token}, params={"access_token": token}
    ) as answer:
        assert answer.status == 401
        text = await answer.text()
        assert text.startswith("invalid authorization header. Must start with Bearer")


async def test_a_frame_over_two_mebibytes_ends_its_socket(front: Front) -> None:
    socket = await front.join()
    assert await socket.receive_bytes() == JOIN
    await socket.send_bytes(bytes(2 << 20))
    await settled(lambda: front.node.requests)
    await socket.send_bytes(bytes((2 << 20) + 1))
    async with asyncio.timeout(5):
        while (await socket.receive()).type is aiohttp.WSMsgType.BINARY:
            pass
    assert socket.closed


async def test_compression_is_never_agreed_so_that_no_frame_can_inflate(front: Front) -> None:
    socket = await front.http.ws_connect(
        f"ws://{front.address}/rtc",
        params={"access_token": front.token(), "protocol": "17"},
        compress=15,
    )
    assert socket.compress == 0
    assert await socket.receive_bytes() == JOIN


async def test_idle_sockets_are_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SERVER_OPTIONS["ws_ping_interval"] == 10.0
    monkeypatch.setitem(SERVER_OPTIONS, "ws_ping_interval", 0.1)  # type: ignore[arg-type]
    async with running_node() as node:
        placement = ScriptedPlacement([node])  # type: ignore[abstract]
        async with (
            running_placement(placement) as address,
            running_front(placement, address) as front,
            front.http.ws_connect(
                f"ws://{front.address}/rtc",
                params={"access_token": front.token(), "protocol": "17"},
                autoping=False,
            ) as socket,
        ):
            assert await socket.receive_bytes() == JOIN
            ping = await socket.receive(timeout=5)
            assert ping.type is aiohttp.WSMsgType.PING


async def test_a_body_over_ten_mebibytes_is_refused(front: Front) -> None:
    url = f"http://{front.address}/twirp/livekit.RoomService/ListRooms"
    header = {"Content-Type": "application/json", "Authorization": f"Bearer {front.token()}"}
    async with front.http.post(
        url, data=io.BytesIO(b" " * (10 * 1024 * 1024 + 1)), headers=header
    ) as answer:
        assert answer.status == 413


async def test_a_role_decides_what_the_node_is_told_and_whose_call_it_is(front: Front) -> None:
    socket = await front.join(role="viewer", can_publish=True)
    assert await socket.receive_bytes() == JOIN
    (opened,) = front.node.opened.values()
    claims = node_pb2.Claims.FromString(opened.claims)
    assert '"canPublish": false' in claims.video_grant_json
    assert claims.attributes["roomwright.role"] == "viewer"
    asked = {"room": "hall", "identity": "alice"}
    status, _ = await front.call("RemoveParticipant", asked, front.token("m", role="viewer"))
    assert status == 401
    status, _ = await front.call("RemoveParticipant", asked, front.token("m", role="moderator"))
    assert status == 200
    (call,) = front.node.calls
    assert call.role_identity == "m"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await front.join(role="boss")
    assert refused.value.status == 400

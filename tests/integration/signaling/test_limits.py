"""Rate limits and slow clients over real sockets: each pays for itself."""

import asyncio
import socket as sockets_api
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import aiohttp
import pytest

from contracts.node.v1 import node_pb2
from signaling.core.session import MAX_QUEUED_BYTES
from tests.support.fronts import (
    JOIN,
    Front,
    ScriptedPlacement,
    running_front,
    running_node,
    running_placement,
    settled,
)


@asynccontextmanager
async def limited(**settings: object) -> AsyncIterator[Front]:
    """A replica with a node and these settings."""
    async with running_node() as node:
        placement = ScriptedPlacement([node])  # type: ignore[abstract]
        async with (
            running_placement(placement) as address,
            running_front(placement, address, **settings) as front,
        ):
            yield front


async def validate(front: Front, address: str = "", token: str | None = None) -> tuple[int, str]:
    """Ask as a browser does, from an address that a proxy names: status and text."""
    status, text, _ = await validate_with_headers(front, address, token)
    return status, text


async def validate_with_headers(
    front: Front, address: str, token: str | None = None
) -> tuple[int, str, dict[str, str]]:
    """As above, with the answer's headers in small letters."""
    headers = {"Origin": "https://app.example"}
    if address:
        headers["X-Forwarded-For"] = address
    params = {"access_token": token or front.token()}
    url = f"http://{front.address}/rtc/validate"
    async with front.http.get(url, params=params, headers=headers) as answer:
        named = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, await answer.text(), named


async def test_too_many_joins_of_one_address_are_told_when_to_come_again() -> None:
    async with limited(
        joins_per_second_per_address=0.5, joins_burst_per_address=3, trusted_proxies="127.0.0.0/8"
    ) as front:
        for _ in range(3):
            assert await validate(front, "198.51.100.1") == (200, "success")
        status, text, headers = await validate_with_headers(front, "198.51.100.1")
        assert (status, text) == (429, "too many joins from this address, try again in 2 s")
        assert headers["retry-after"] == "2"
        assert headers["access-control-allow-origin"] in ("*", "https://app.example")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await front.join(headers={"X-Forwarded-For": "198.51.100.1"})
        assert refused.value.status == 429
        assert refused.value.headers is not None
        assert refused.value.headers["Retry-After"] == "2"
        assert await validate(front, "198.51.100.2") == (200, "success")
        # What a client claims in front of what the proxy saw counts for nothing.
        assert (await validate(front, "198.51.100.9, 198.51.100.1"))[0] == 429
        for number in range(3):
            assert (await validate(front, f"2001:db8::{number}"))[0] == 200
        assert (await validate(front, "2001:db8::ffff"))[0] == 429


async def test_nobody_but_a_trusted_proxy_says_who_the_client_is() -> None:
    async with limited(joins_per_second_per_address=0.1, joins_burst_per_address=2) as front:
        assert (await validate(front, "198.51.100.1"))[0] == 200
        assert (await validate(front, "198.51.100.2"))[0] == 200
        assert (await validate(front, "198.51.100.3"))[0] == 429
        assert not front.node.sessions


async def test_the_node_is_told_the_clients_own_address() -> None:
    async with limited(trusted_proxies="10.0.0.0/8,127.0.0.1") as front:
        await (await front.join(headers={"X-Forwarded-For": "203.0.113.5, 10.0.0.9"})).receive()
        assert front.node.opened[1].client_address == "203.0.113.5"
    async with limited() as front:
        await (await front.join(headers={"X-Forwarded-For": "203.0.113.5"})).receive()
        assert front.node.opened[1].client_address == "127.0.0.1"


async def test_bad_tokens_cost_more_than_joins_and_close_the_api_too() -> None:
    async with limited(joins_per_second_per_address=0.1, joins_burst_per_address=30) as front:
        for _ in range(3):
            assert (await validate(front, token="x.y.z"))[0] == 401
        assert await validate(front) == (
            429,
            "too many failed authentications from this address, try again in 10 s",
        )
        status, body = await front.call("ListRooms", {}, front.token())
        assert (status, isinstance(body, dict) and body["code"]) == (429, "resource_exhausted")


async def test_calls_are_limited_by_key() -> None:
    async with limited(api_calls_per_second_per_key=0.2, api_burst_per_key=2) as front:
        lister = front.token("boss", room_join=False, room_list=True)
        for _ in range(2):
            assert (await front.call("ListRooms", {}, lister))[0] == 200
        url = f"http://{front.address}/twirp/livekit.RoomService/ListRooms"
        headers = {"Authorization": f"Bearer {lister}", "Origin": "https://app.example"}
        async with front.http.post(url, json={}, headers=headers) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "5"
            assert answer.headers["Access-Control-Allow-Origin"]
            assert (await answer.json())["code"] == "resource_exhausted"
        assert (await validate(front))[0] == 200


async def test_zero_switches_a_limit_off() -> None:
    off = {"joins_per_second_per_address": 0, "api_calls_per_second_per_key": 0}
    async with limited(**off, joins_burst_per_address=1, api_burst_per_key=1) as front:
        assert {(await validate(front))[0] for _ in range(5)} == {200}
        assert {(await validate(front, token="x.y.z"))[0] for _ in range(3)} == {401}


async def test_a_client_that_reads_nothing_costs_its_bound_and_nobody_else_anything() -> None:
    async with limited() as front:
        readers = [await front.join(f"p{number}") for number in range(200)]
        for reader in readers:
            assert await reader.receive_bytes() == JOIN
        deaf = await join_without_reading(front)
        await settled(lambda: 201 in front.node.opened)
        everybody = range(1, 202)
        frame = b"x" * (64 << 10)
        rounds = 0
        while 201 not in front.node.closed:
            rounds += 1
            front.node.send(201, response=frame)
            front.node.send(*everybody, response=b"news")
            for reader in readers:
                assert await asyncio.wait_for(reader.receive_bytes(), 5.0) == b"news"
        # What the machine queues, and what the kernel and the transport hold of a loopback connection.
        assert MAX_QUEUED_BYTES <= rounds * len(frame) < MAX_QUEUED_BYTES + (12 << 20)
        assert front.node.closed == {201: node_pb2.SocketClosed.CAUSE_TOO_SLOW}
        front.node.send(*everybody, response=b"after")
        for reader in readers:
            assert await reader.receive_bytes() == b"after"
        deaf.close()


async def join_without_reading(front: Front) -> sockets_api.socket:
    """A WebSocket whose client asked for an upgrade and never looks at what comes."""
    host, _, port = front.address.rpartition(":")
    query = urlencode({"access_token": front.token("deaf"), "protocol": "17"})
    request = (
        f"GET /rtc?{query} HTTP/1.1\r\nHost: {front.address}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    client = sockets_api.socket()
    client.setsockopt(sockets_api.SOL_SOCKET, sockets_api.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    await loop.sock_sendall(client, request.encode())
    return client

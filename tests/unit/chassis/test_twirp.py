"""Twirp as the LiveKit server SDKs speak it."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from google.protobuf.message import Message
from livekit.protocol import models, room

from chassis.errors import NotAllowed, NotFound, TokenError
from chassis.tokens import Grants
from chassis.twirp import MAX_BODY_BYTES, TwirpContext, twirp_router

PATH = "/twirp/livekit.RoomService/"
PROTOBUF = {"content-type": "application/protobuf"}
JSON = {"content-type": "application/json; charset=utf-8"}
SERVICES = {
    "livekit.RoomService": {
        "CreateRoom": (room.CreateRoomRequest, models.Room),
        "ListRooms": (room.ListRoomsRequest, room.ListRoomsResponse),
    }
}


async def answer(context: TwirpContext, service: str, method: str, request: Message) -> Message:
    if method == "ListRooms":
        assert context.timeout_s == 0.01
        await asyncio.sleep(3600)
    assert isinstance(request, room.CreateRoomRequest)
    match request.name:
        case "missing":
            raise NotFound("requested room does not exist", {"room": "missing"})
        case "refused":
            raise NotAllowed
        case "broken":
            raise RuntimeError("inner detail")
    return models.Room(name=request.name, empty_timeout=request.empty_timeout, creation_time=2**40)


def grants(request: Request) -> Grants | None:
    if request.headers.get("authorization") == "bad":
        raise TokenError("invalid authorization token")
    return None


async def send(method: str, path: str, **request: Any) -> httpx.Response:
    app = FastAPI()
    app.include_router(twirp_router(SERVICES, answer, grants))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as client:
        return await client.request(method, path, **request)


async def test_protobuf_in_protobuf_out() -> None:
    body = room.CreateRoomRequest(name="r", empty_timeout=7).SerializeToString()
    got = await send("POST", PATH + "CreateRoom", content=body, headers=PROTOBUF)
    assert (got.status_code, got.headers["content-type"]) == (200, "application/protobuf")
    assert models.Room.FromString(got.content).empty_timeout == 7


@pytest.mark.parametrize("field", ["empty_timeout", "emptyTimeout"])
async def test_json_takes_both_casings_and_ignores_unknown_fields(field: str) -> None:
    got = await send(
        "POST", PATH + "CreateRoom", json={"name": "r", field: 7, "new": {}}, headers=JSON
    )
    assert (got.status_code, got.headers["content-type"]) == (200, "application/json")
    assert got.json()["empty_timeout"] == 7


async def test_json_out_has_every_field_in_snake_case_and_int64_as_text() -> None:
    got = (await send("POST", PATH + "CreateRoom", content=b"{}", headers=JSON)).json()
    assert got["creation_time"] == str(2**40)
    assert (got["num_participants"], got["active_recording"], got["metadata"]) == (0, False, "")
    assert got["enabled_codecs"] == []


@pytest.mark.parametrize(
    ("content", "headers", "word"),
    [
        (b"\xff\xff", PROTOBUF, "protobuf"),
        (b"", JSON, "json"),
        (b"null", JSON, "json"),
        (b"[]", JSON, "json"),
        (b'{"name": 5}', JSON, "json"),
        (b"\xff", JSON, "json"),
        (b'{"agents": ' + b"[" * 5000, JSON, "json"),
    ],
)
async def test_undecodable_body_is_malformed(
    content: bytes, headers: dict[str, str], word: str
) -> None:
    got = await send("POST", PATH + "CreateRoom", content=content, headers=headers)
    assert got.status_code == 400
    assert got.json() == {
        "code": "malformed",
        "msg": f"the {word} request could not be decoded",
    }


@pytest.mark.parametrize(
    ("verb", "method", "headers"),
    [
        ("GET", "CreateRoom", JSON),
        ("PUT", "CreateRoom", JSON),
        ("POST", "NoSuch", JSON),
        ("POST", "CreateRoom", {"content-type": "text/plain"}),
        ("POST", "CreateRoom", {}),
    ],
)
async def test_bad_route_says_which(verb: str, method: str, headers: dict[str, str]) -> None:
    got = await send(verb, PATH + method, content=b"{}", headers=headers)
    assert (got.status_code, got.json()["code"]) == (404, "bad_route")
    assert got.json()["meta"] == {"twirp_invalid_route": f"{verb} {PATH}{method}"}


async def test_unknown_service_is_a_plain_404() -> None:
    got = await send("POST", "/twirp/livekit.Nope/X", content=b"", headers=PROTOBUF)
    assert got.status_code == 404
    assert got.headers["content-type"].startswith("text/plain")


async def test_service_error_keeps_code_text_and_meta() -> None:
    got = await send("POST", PATH + "CreateRoom", json={"name": "missing"}, headers=JSON)
    assert got.status_code == 404
    assert got.json() == {
        "code": "not_found",
        "msg": "requested room does not exist",
        "meta": {"room": "missing"},
    }


async def test_missing_grant_is_401_in_json_and_bad_token_401_in_text() -> None:
    got = await send("POST", PATH + "CreateRoom", json={"name": "refused"}, headers=JSON)
    assert got.status_code == 401
    assert got.json() == {"code": "unauthenticated", "msg": "permissions denied"}
    bad = await send("POST", PATH + "CreateRoom", json={}, headers=JSON | {"authorization": "bad"})
    assert (bad.status_code, bad.text) == (401, "invalid authorization token")


async def test_our_own_failure_shows_no_detail() -> None:
    got = await send("POST", PATH + "CreateRoom", json={"name": "broken"}, headers=JSON)
    assert (got.status_code, got.json()) == (500, {"code": "internal", "msg": "internal error"})


async def test_deadline_of_the_caller_ends_the_call() -> None:
    got = await send(
        "POST", PATH + "ListRooms", json={}, headers=JSON | {"x-twirp-timeout-ms": "10"}
    )
    assert (got.status_code, json.loads(got.text)["code"]) == (408, "deadline_exceeded")


async def test_body_over_the_limit_is_413_declared_or_not() -> None:
    declared = await send(
        "POST", PATH + "CreateRoom", content=b"x", headers=JSON | {"content-length": "99999999"}
    )
    assert (declared.status_code, declared.text) == (413, "request body too large")

    async def chunks() -> Any:
        for _ in range(11):
            yield b"x" * (MAX_BODY_BYTES // 10)

    streamed = await send("POST", PATH + "CreateRoom", content=chunks(), headers=JSON)
    assert (streamed.status_code, streamed.text) == (413, "request body too large")

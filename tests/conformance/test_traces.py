"""A join through the whole server is one trace, and can be followed through the logs of all services."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit import api

from chassis.bus import NatsBus
from chassis.subjects import EVENTS
from contracts.events.v1 import events_pb2
from tests.support.dev_server import KEY, SECRET, DevServer, running
from tests.support.otlp import Span, collecting
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

SERVICES = {"signaling", "placement", "sfu"}


def log_lines(server: DevServer) -> list[dict[str, Any]]:
    """What the services logged."""
    lines = server.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def tree(spans: list[Span]) -> dict[str, str]:
    """Name of each span to that of its parent, "" for none; names are unique in these traces."""
    by_id = {it.span_id: it for it in spans}
    return {it.name: by_id[it.parent_id].name if it.parent_id else "" for it in spans}


async def join_and_leave(server: DevServer, room: str) -> str:
    """Join until media flows, leave; returns the participant's sid."""
    client = await PythonClient.join(server, room, "ann")
    sid = client.room.local_participant.sid
    await until(lambda: "media connected" in server.log.read_text(), "media connected")
    await client.leave()
    await until(lambda: "participant_left" in server.log.read_text(), "participant left")
    return sid


async def test_a_join_is_one_trace_through_the_three_services(tmp_path: Path, room: str) -> None:
    async with collecting() as collector:
        flags = ("--otlp-endpoint", collector.url, "--log-level", "info", "--log-json")
        async with running(tmp_path, *flags) as server:
            token = server.token(room, "ann")
            sid = await join_and_leave(server, room)
        joined = collector.named("signaling.join")
        assert len(joined) == 1
        spans = [it for it in collector.spans if it.trace_id == joined[0].trace_id]
        assert tree(spans) == {
            "signaling.join": "",
            "PlacementService/AssignRoom": "signaling.join",
            "sfu.open": "signaling.join",
            "sfu.room_join": "sfu.open",
            "sfu.negotiate": "sfu.open",
        }
        assert {it.name: it.service for it in spans} == {
            "signaling.join": "signaling",
            "PlacementService/AssignRoom": "placement",
            "sfu.open": "sfu",
            "sfu.room_join": "sfu",
            "sfu.negotiate": "sfu",
        }
        assert [it.name for it in spans if it.failed] == []
        for one in spans:
            assert one.attributes.get("room", room) == room
            assert one.attributes.get("participant", sid) == sid
            assert one.start_ns <= one.end_ns
        assert joined[0].attributes["participant"] == sid
        sent = b"".join(collector.raw)
        for part in (token, token.split(".")[2], "access_token", "join_request"):
            assert part.encode() not in sent

        # The same join in the logs: from the sid to the trace, from the trace to every service.
        lines = log_lines(server)
        about = [line for line in lines if line.get("participant") == sid]
        assert {line["service"] for line in about} == {"signaling", "sfu"}
        assert {line["trace_id"] for line in about if "trace_id" in line} == {joined[0].trace_id}
        events = defaultdict(list)
        for line in lines:
            if line.get("trace_id") == joined[0].trace_id:
                assert line["room"] == room
                assert line["node_id"]
                events[line["service"]].append(line["event"])
        assert set(events) == SERVICES
        assert events["signaling"] == ["session opened", "socket over"]
        assert events["placement"][-1] == "room has its home"
        assert events["sfu"][0] == "session opened"
        assert "media connected" in events["sfu"]


async def test_a_refused_join_is_a_failed_span_without_the_reason(
    tmp_path: Path, room: str
) -> None:
    async with collecting() as collector:
        async with (
            running(tmp_path, "--otlp-endpoint", collector.url) as server,
            aiohttp.ClientSession() as http,
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(f"{server.url}/rtc", params={"access_token": "eyJx.y.z"})
        assert [(it.name, it.failed) for it in collector.spans] == [("signaling.join", True)]
        assert collector.spans[0].attributes == {"path": "/rtc"}


async def test_an_api_call_is_one_trace(tmp_path: Path, room: str) -> None:
    async with collecting() as collector:
        async with (
            running(tmp_path, "--otlp-endpoint", collector.url) as server,
            api.LiveKitAPI(server.http_url, KEY, SECRET) as lk,
        ):
            await lk.room.create_room(api.CreateRoomRequest(name=room))
        assert tree(collector.spans) == {
            "signaling.api": "",
            "PlacementService/AssignRoom": "signaling.api",
            "NodeService/CallApi": "signaling.api",
        }


async def test_facts_of_a_join_carry_its_trace(tmp_path: Path, room: str) -> None:
    async with running(tmp_path, "--log-level", "info", "--log-json") as server:
        await join_and_leave(server, room)
        headers = await facts(server, tmp_path / "data", room)
        lines = log_lines(server)
    opened = next(line for line in lines if line["event"] == "session opened")
    carried = headers["participant_joined"]["traceparent"]
    assert carried.split("-")[1] == opened["trace_id"]
    assert "traceparent" not in headers["participant_left"], "nothing traced caused it"


async def facts(server: DevServer, data: Path, room: str) -> dict[str, dict[str, str]]:
    """The headers of every fact of a room on the bus of a running server, by the fact's name."""
    settings = (data / "nats" / "nats.conf").read_text()
    user, password = re.findall(r'(?:user|password): "([^"]+)"', settings)
    told = re.search(r"nats-server +(nats://[0-9.:]+)", server.log.read_text())
    assert told is not None
    bus = NatsBus(told[1], user=user, password=password)
    await bus.start()
    found: dict[str, dict[str, str]] = {}
    try:
        async with await bus.read_stream(EVENTS) as messages:
            async for message in messages:
                event = events_pb2.RoomEvent.FromString(message.data)
                if event.room_name == room:
                    found[event.name] = dict(message.headers)
                if event.name == "participant_left":
                    return found
    finally:
        await bus.close()
    raise AssertionError("the stream ended")

"""The whole node, with its engine and real sessions, behind its gRPC door."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
from livekit.protocol import models as lk
from livekit.protocol import rtc

from chassis import tokens
from chassis.chassis import memory_chassis
from chassis.errors import SettingsError
from chassis.run import serve
from chassis.subjects import NODES
from contracts.placement.v1 import placement_pb2
from sfu.app import SfuApp, build
from sfu.settings import SfuSettings
from tests.support.cable import Cable
from tests.support.nodes import Signaling, signaling, until

SECRET = "a secret that is long enough to be one"


def settings(**values: object) -> SfuSettings:
    defaults: dict[str, object] = {
        "api_keys": {"key": SECRET},
        "udp_addresses": ("127.0.0.1:0",),
        "tcp_addresses": (),
        "placement_address": "",
        "insecure": True,
    }
    return SfuSettings(**(defaults | values))  # type: ignore[arg-type]


@asynccontextmanager
async def running_app(**values: object) -> AsyncIterator[SfuApp]:
    chosen = settings(**values)
    app = await build(chosen, memory_chassis(chosen))
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, stop, drain_timeout_s=0.1))
    await until(lambda: bool(app.grpc_address) and app._chassis.health.is_ready)
    try:
        yield app
    finally:
        stop.set()
        await asyncio.wait_for(serving, 10.0)


CLIENT = lk.ClientInfo(sdk=lk.ClientInfo.SDK.JS, protocol=16)


def open_session(to: Signaling, identity: str, **fields: object) -> int:
    join = rtc.JoinRequest(client_info=CLIENT)
    join.connection_settings.auto_subscribe = True
    return to.open(
        identity,
        client_info=CLIENT.SerializeToString(),
        join_request=join.SerializeToString(),
        **fields,
    )


async def response(to: Signaling, session_id: int, kind: str) -> rtc.SignalResponse:
    """The next response of this kind."""
    while True:
        message = await to.response(session_id)
        if message.WhichOneof("message") == kind:
            return message


async def test_a_session_joins_sees_others_and_is_told_of_the_shutdown() -> None:
    async with (
        running_app(track_limit=9, pod_name="p-1") as app,
        signaling(app.grpc_address) as to,
    ):
        alice = open_session(to, "alice")
        join = (await to.response(alice)).join
        assert join.room.sid == "RM_1"
        assert [c.mime for c in join.room.enabled_codecs][:3] == [
            "audio/PCMU",
            "audio/PCMA",
            "audio/opus",
        ]
        refreshed = await response(to, alice, "refresh_token")
        grants = tokens.verify(refreshed.refresh_token, app._settings.api_keys)
        assert grants.identity == "alice"
        bob = open_session(to, "bob")
        others = (await to.response(bob)).join.other_participants
        assert [p.identity for p in others] == ["alice"]
        update = await response(to, alice, "update")
        while "bob" not in [p.identity for p in update.update.participants]:
            update = await response(to, alice, "update")

        record = await record_of(app)
        assert (record.rooms, record.participants) == (1, 2)
        assert record.address == app.grpc_address
        assert not record.draining
        assert (record.participant_limit, record.track_limit, record.pod_name) == (2000, 9, "p-1")
        assert 0 <= record.cpu_load <= 1

        drain = asyncio.create_task(app.drain())
        async with asyncio.timeout(0.5):  # sooner than the next heartbeat but one
            while not (await record_of(app)).draining:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        drain.cancel()

        closing = asyncio.create_task(app.node.close())
        leave = (await response(to, alice, "leave")).leave
        assert (leave.reason, leave.action) == (
            lk.SERVER_SHUTDOWN,
            rtc.LeaveRequest.DISCONNECT,
        )
        await closing


async def record_of(app: SfuApp) -> placement_pb2.NodeRecord:
    """The node's heartbeat, once it knows of both participants."""
    bucket = await app._chassis.kv(NODES)
    async with asyncio.timeout(5):
        while True:
            entry = await bucket.get(app._settings.node_id)
            if entry is not None:
                record = placement_pb2.NodeRecord.FromString(entry.value)
                if record.participants == 2:
                    return record
            await asyncio.sleep(0.05)


async def test_real_sessions_on_two_nodes_survive_a_cut_link() -> None:
    async with (
        running_app(node_id="ND_a") as a,
        running_app(node_id="ND_b") as b,
        Cable(a.grpc_address).laid() as between,
        signaling(a.grpc_address) as to_a,
        signaling(b.grpc_address) as to_b,
    ):
        home = {
            "home_node_id": "ND_a",
            "home_address": between.url.removeprefix("nats://"),
        }
        alice = open_session(to_a, "alice")
        assert (await to_a.response(alice)).join.participant.identity == "alice"
        bob = open_session(to_b, "bob", **home)
        assert (await to_b.response(bob)).join.other_participants[0].identity == "alice"
        between.pull()
        carol = open_session(to_b, "carol", **home)
        await asyncio.sleep(0.1)
        assert to_b.frames[carol].empty()
        await between.plug()
        joined = (await to_b.response(carol)).join
        assert [p.identity for p in joined.other_participants] == ["alice", "bob"]
        update = await response(to_a, alice, "update")
        while "carol" not in [p.identity for p in update.update.participants]:
            update = await response(to_a, alice, "update")


async def test_max_participants_refuses_the_socket() -> None:
    async with running_app(max_participants=1) as app, signaling(app.grpc_address) as to:
        await to.response(open_session(to, "alice"))
        frame = await to.frame(open_session(to, "bob"))
        assert frame.WhichOneof("message") == "refused", frame
        assert frame.refused.http_status == 503


async def test_a_stop_with_nobody_there_is_immediate() -> None:
    loop = asyncio.get_running_loop()
    async with running_app():
        began = loop.time()
    assert loop.time() - began < 1.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"api_keys": {}}, "api_keys is empty"),
        ({"udp_addresses": ("0.0.0.0:0",)}, "set node_ip"),
        ({"udp_addresses": ("192.0.2.1:1",)}, "cannot open a media port"),
    ],
)
async def test_settings_that_cannot_work_are_said_precisely(
    values: dict[str, object], words: str
) -> None:
    chosen = settings(**values)
    with pytest.raises(SettingsError, match=words):
        await build(chosen, memory_chassis(chosen))


async def test_a_drain_tells_how_it_goes_and_sends_who_is_left_to_another_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sfu.app.DRAIN_REPORT_S", 0.05)
    running = running_app(drain_timeout_s=30)
    app = await running.__aenter__()
    async with signaling(app.grpc_address) as to:
        alice = open_session(to, "alice")
        await to.response(alice)
        with structlog.testing.capture_logs() as logs:
            drain = asyncio.create_task(app.drain())
            await asyncio.sleep(0.2)
            drain.cancel()
        told = [line for line in logs if line["event"] == "draining"]
        assert len(told) >= 3
        assert (told[0]["rooms"], told[0]["participants"]) == (1, 1)
        assert 25 < told[0]["seconds_left"] <= 30
        async with httpx.AsyncClient(base_url=f"http://{app.health_address}") as http:
            ready = await http.get("/readyz?verbose")
            assert ready.status_code == 200
            assert "draining: 1 rooms, 1 participants, " in ready.text
            (shown,) = (await http.get("/debug/rooms")).json()
            assert [it["identity"] for it in shown["participants"]] == ["alice"]
            assert (await http.get("/debug/other")).status_code == 404
            assert "roomwright_sfu_draining 1" in (await http.get("/metrics")).text
        ending = asyncio.create_task(running.__aexit__(None, None, None))
        leave = (await response(to, alice, "leave")).leave
        assert (leave.reason, leave.action) == (lk.SERVER_SHUTDOWN, rtc.LeaveRequest.RECONNECT)
        await ending

"""A whole node whose connection to NATS is cut: rooms freeze, go on, thaw, and tell everything later."""

import asyncio
from pathlib import Path

import pytest

from chassis.chassis import open_chassis
from chassis.subjects import EVENTS
from contracts.events.v1 import events_pb2
from sfu import clients
from sfu.app import build
from sfu.core import renewal
from sfu.core.room_events import FROZEN
from tests.integration.sfu.test_app import open_session, settings
from tests.support.cable import Cable
from tests.support.nats import connected_bus, disconnected, running_nats
from tests.support.nodes import signaling, until


async def test_a_node_cut_from_nats_freezes_thaws_and_publishes_its_facts_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(renewal, "LEASE_LIFE", 1.0)
    monkeypatch.setattr(clients, "HEARTBEAT_S", 0.1)
    async with (
        running_nats() as server,
        Cable(server.url).laid() as cable,
        connected_bus(server) as reader,
    ):
        chosen = settings(
            nats_url=cable.url,
            nats_user=server.user,
            nats_password=server.password,
            spool_directory=tmp_path,
        )
        async with open_chassis(chosen) as chassis:
            app = await build(chosen, chassis)
            await app.start()
            try:
                async with signaling(app.grpc_address) as to:
                    await to.response(open_session(to, "alice"))
                    await app._events.flush(5.0)
                    cable.pull()
                    await disconnected(chassis.bus)  # type: ignore[arg-type]
                    assert not app.node.is_frozen
                    await to.response(open_session(to, "bob"))  # within the lease's life
                    await until(lambda: app.node.is_frozen)
                    refused = (await to.frame(open_session(to, "carol"))).refused
                    assert (refused.http_status, refused.message) == (503, FROZEN)
                    assert list(tmp_path.glob("*.facts")) == []  # nobody left or became active
                    await cable.plug()
                    await until(lambda: not app.node.is_frozen, timeout_s=10.0)
                    carol = await to.response(open_session(to, "carol"))
                    others = [p.identity for p in carol.join.other_participants]
                    assert others == ["alice", "bob"]
                    cable.pull()
                    await disconnected(chassis.bus)  # type: ignore[arg-type]
                    await app.node.close()
                    await until(lambda: bool(list(tmp_path.glob("*.facts"))))
                    await cable.plug()
                    await until(lambda: not app._events.waiting, timeout_s=10.0)
                    assert list(tmp_path.glob("*.facts")) == []
            finally:
                await app.close()
        names: list[str] = []
        async with asyncio.timeout(5), await reader.read_stream(EVENTS) as stored:
            async for message in stored:
                names.append(events_pb2.RoomEvent.FromString(message.data).name)
                if names[-1] == "room_finished":
                    break
        assert names == ["room_started", *["participant_connection_aborted"] * 3, "room_finished"]

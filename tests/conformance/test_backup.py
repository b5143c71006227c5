"""Everything that NATS held is lost, and a backup brings back what somebody set up."""

import argparse
import asyncio
import sys
from pathlib import Path

import pytest
from livekit import api, rtc

from chassis import subjects
from contracts.access.v1 import access_pb2
from contracts.events.v1 import events_pb2
from contracts.webhook.v1 import webhook_pb2
from roomwright.connection import connected
from tests.support.dev_server import KEY, SECRET, DevServer, running
from tests.support.server import join_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


async def command(data: Path, *arguments: str) -> str:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roomwright", *arguments, "--data-dir", str(data),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def leave(data: Path, room: str) -> None:
    """A dead letter and a revocation, as the services leave them."""
    fact = events_pb2.RoomEvent(id="EV_1", name="room_started", room_name=room, created_at=1)
    letter = webhook_pb2.DeadLetter(
        target="t1", event=fact.SerializeToString(), attempts=3, reason="410 Gone"
    )
    subject = subjects.dead_letter_subject("t1")
    async with connected(options(data)) as opened:
        await opened.bus.open_stream(subjects.WEBHOOKS_DEAD)
        await opened.bus.publish_durable(subject, letter.SerializeToString(), "1")
        revocation = access_pb2.RevocationRecord(schema=1, not_before=5)
        revocations = await opened.kv(subjects.REVOCATIONS)
        await revocations.put(f"{room}-revoked", revocation.SerializeToString())


def options(data: Path) -> argparse.Namespace:
    """What the flags of a command become."""
    return argparse.Namespace(nats="", data_dir=data)


async def listed(server: DevServer, *names: str) -> list[api.Room]:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        return list((await lk.room.list_rooms(api.ListRoomsRequest(names=names))).rooms)


async def test_a_backup_brings_back_what_was_set_up(tmp_path: Path, room: str) -> None:
    first_data, second_data = tmp_path / "first" / "data", tmp_path / "second" / "data"
    for data in (first_data, second_data):
        data.parent.mkdir()
    file, secrets = tmp_path / "saved.jsonl.gz", tmp_path / "keys"
    async with running(first_data.parent) as first:
        async with api.LiveKitAPI(first.http_url, KEY, SECRET) as lk:
            made = await lk.room.create_room(
                api.CreateRoomRequest(
                    name=room,
                    metadata="kept",
                    max_participants=7,
                    tags={"roomwright.persistent": "true"},
                )
            )
            await lk.room.create_room(api.CreateRoomRequest(name=f"{room}-passing"))
        secret = (await command(first_data, "keys", "add", "mine")).strip().partition(": ")[2]
        await leave(first_data, room)
        async with asyncio.timeout(20):
            while ": 1 rooms" not in (  # noqa: ASYNC110 - it is asked, nothing tells
                saved := await command(first_data, "backup", str(file))
            ):
                await asyncio.sleep(0.2)  # the room's record is written a moment later
        assert ": 1 rooms, 1 API keys, 1 revocations, 1 dead letters; " in saved
        kept = tmp_path / "kept"
        kept.mkdir()
        await command(first_data, "backup", str(kept), "--keep", "1")
        await asyncio.sleep(1)  # names have seconds
        assert "removed, 1 are kept" in await command(
            first_data, "backup", str(kept), "--keep", "1"
        )
        assert len(list(kept.iterdir())) == 1

    secrets.write_text(f"mine: {secret}\n")
    async with running(second_data.parent) as second:
        assert not await listed(second, room)
        told = await command(second_data, "restore", str(file))
        assert (
            "restored: 1 rooms, 0 API keys, 1 revocations, 1 dead letters; there already: 0" in told
        )
        assert "not restored, since the backup does not hold their secrets: API keys mine" in told
        async with asyncio.timeout(30):
            while not (rooms := await listed(second, room)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        found = [(it.sid, it.metadata, it.max_participants) for it in rooms]
        assert found == [(made.sid, "kept", 7)]
        assert not await listed(second, f"{room}-passing")

        told = await command(second_data, "restore", str(file), "--keys-file", str(secrets))
        assert "restored: 0 rooms, 1 API keys, 0 revocations, 0 dead letters" in told
        assert "there already: 1 rooms, 0 API keys, 1 revocations, 1 dead letters" in told
        ann = rtc.Room()
        await ann.connect(second.url, join_token("mine", secret, room, "ann"))
        assert ann.metadata == "kept"
        await ann.disconnect()
        assert "1 dead letter\n" in await command(second_data, "webhooks", "dead")
        assert len(await listed(second, room)) == 1

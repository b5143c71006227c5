"""Backups by the chart's CronJob, and a restore of one."""

import json
from collections.abc import Callable

import pytest
from livekit import api

from tests.e2e.release import Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

RESTORE = 'python -m roomwright restore "$(ls /backups/*.gz | tail -1)"'


async def test_a_room_that_was_deleted_is_restored_from_a_backup(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    volume = f"{release.namespace}-backups"
    await release.cluster.make_volumes(volume, "1Gi", 1, "")
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": f"{volume}-0",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "backups"},
        "spec": spec,
    }
    await release.cluster.apply(release.namespace, claim)
    await release.upgrade("--set", "backup.enabled=true", "--set", "backup.existingClaim=backups")
    try:
        async with release.server_api() as server:
            request = api.CreateRoomRequest(
                name=room, metadata="kept", tags={"roomwright.persistent": "true"}
            )
            made = await server.room.create_room(request)
            saved = await run_job(release, "backup-now")
            assert ": 1 rooms, 0 API keys, " in saved
            await server.room.delete_room(api.DeleteRoomRequest(room=room))
            restored = await run_job(release, "restore-now", RESTORE)
            assert "restored: 1 rooms" in restored

            async def is_back() -> bool:
                listed = await server.room.list_rooms(api.ListRoomsRequest(names=[room]))
                return [(it.sid, it.metadata) for it in listed.rooms] == [(made.sid, "kept")]

            took = await eventually(is_back, "the room is back", 60)
            measured(f"a restored room was there after {took:.1f} s")
            await server.room.delete_room(api.DeleteRoomRequest(room=room))
    finally:
        await release.upgrade()
        await release.kubectl("delete", "job", "backup-now", "restore-now", "--ignore-not-found")
        await release.kubectl("delete", "pvc", "backups")
        await release.cluster.drop_volumes(volume)


async def run_job(release: Release, name: str, script: str = "") -> str:
    """What a Job made from the CronJob prints; with a script, it runs that."""
    made = f"cronjob/{release.name}-backup"
    text = await release.kubectl(
        "create", "job", f"--from={made}", name, "--dry-run=client", "-o", "json"
    )
    job = json.loads(text)
    if script:
        container = job["spec"]["template"]["spec"]["containers"][0]
        container["command"], container["args"] = ["sh", "-c"], [script]
    await release.cluster.apply(release.namespace, job)
    await release.kubectl("wait", "--for=condition=complete", f"job/{name}", "--timeout=120s")
    return await release.kubectl("logs", f"job/{name}")

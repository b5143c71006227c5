"""What calls of the server API cost with many rooms: `python -m loadtest.api_calls --rooms 10000`.

CreateRoom for each room, then ListRooms of all of them and of single names. CPU is that of all the server's processes;
with `--url` and `--server-pid` another server is measured, which must take the same key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from livekit import api

from loadtest.own_server import KEY, SECRET, own_server

CALLERS = 32


async def main() -> None:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=10_000)
    parser.add_argument("--url", default="", help="http://host:port of another server")
    parser.add_argument("--server-pid", type=int, default=0)
    options = parser.parse_args()
    if options.url:
        await _measure(options.url, options.server_pid, options.rooms)
        return
    with tempfile.TemporaryDirectory() as directory:
        async with own_server(Path(directory)) as server:
            await _measure(f"http://127.0.0.1:{server.port}", server.pid, options.rooms)


async def _measure(url: str, pid: int, rooms: int) -> None:
    grants = api.VideoGrants(room_create=True, room_list=True)
    token = api.AccessToken(KEY, SECRET).with_identity("bench").with_grants(grants).to_jwt()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/protobuf"}
    names = [f"room-{number}" for number in range(rooms)]
    async with aiohttp.ClientSession(url, headers=headers) as http:

        async def call(method: str, request: bytes) -> bytes:
            async with http.post(f"/twirp/livekit.RoomService/{method}", data=request) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise SystemExit(f"{method}: {answer.status} {body[:200]!r}")
                return body

        async def create(name: str) -> None:
            request = api.CreateRoomRequest(name=name, empty_timeout=3600)
            await call("CreateRoom", request.SerializeToString())

        async def list_all(_: str) -> None:
            found = api.ListRoomsResponse.FromString(await call("ListRooms", b""))
            if len(found.rooms) != rooms:
                raise SystemExit(f"{len(found.rooms)} rooms listed of {rooms}")

        async def list_one(name: str) -> None:
            request = api.ListRoomsRequest(names=[name]).SerializeToString()
            found = api.ListRoomsResponse.FromString(await call("ListRooms", request))
            if [room.name for room in found.rooms] != [name]:
                raise SystemExit(f"{name} is not listed")

        results = {
            "create": await _timed(pid, create, names, CALLERS),
            "list_all": await _timed(pid, list_all, names[:10], 1),
            "list_by_name": await _timed(pid, list_one, names[:: max(1, rooms // 2000)], CALLERS),
        }
    print(json.dumps({"rooms": rooms, **results}, indent=2))


async def _timed(
    pid: int, work: Callable[[str], Awaitable[None]], names: list[str], callers: int
) -> dict[str, float]:
    """Do the work for each name, by so many callers; what one call took and cost."""
    left = iter(names)

    async def caller() -> None:
        for name in left:
            await work(name)

    began, cpu = time.monotonic(), _cpu_s(pid)
    await asyncio.gather(*(caller() for _ in range(callers)))
    took, used = time.monotonic() - began, _cpu_s(pid) - cpu
    return {
        "calls": len(names),
        "calls_per_s": round(len(names) / took, 1),
        "cpu_ms_per_call": round(used / len(names) * 1000, 3),
        "calls_per_s_per_core": round(len(names) / used, 1),
    }


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children that run."""
    if not pid:
        return float("nan")
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    asyncio.run(main())

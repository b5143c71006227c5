"""`python -m loadtest.idle`: what idle rooms cost a node: CPU of the sfu's process alone, while nothing happens.

Every service and nats-server is a process of its own. Measured are the node without rooms, with rooms nobody is in,
and with one participant in each who publishes nothing.
"""

import argparse
import asyncio
from collections.abc import Sequence

from livekit import api

from loadtest.own_services import own_services
from loadtest.process import machine_load, usage
from loadtest.swarm import Swarm

SETTLE_S = 8.0


async def _measure(what: str, pid: int, seconds: float) -> None:
    await asyncio.sleep(SETTLE_S)
    before = usage(pid)
    await asyncio.sleep(seconds)
    after = usage(pid)
    share = (after.cpu_ns - before.cpu_ns) / 1e9 / (after.taken_at - before.taken_at)
    print(f"{what:<40} {share:6.2%} of a core, {after.own_rss_bytes / 1e6:5.0f} MB", flush=True)


async def _main(rooms: int, seconds: float) -> None:
    print(f"before: {machine_load()}")
    async with own_services() as services:
        target, pid = services.target, services.sfu_pid
        await _measure("no rooms", pid, seconds)
        async with api.LiveKitAPI(target.http_url, target.key, target.secret) as server:
            names = [f"idle-{number}" for number in range(rooms)]
            for name in names:
                request = api.CreateRoomRequest(name=name, empty_timeout=3600)
                await server.room.create_room(request)
            await _measure(f"{rooms} rooms without participants", pid, seconds)
            swarm = Swarm(target)
            try:
                for name in names:
                    await swarm.join(name)
                await _measure(f"{rooms} rooms of one silent participant", pid, seconds)
            finally:
                await swarm.close()
    print(f"after: {machine_load()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.idle", description=__doc__)
    parser.add_argument("--rooms", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    given = parser.parse_args(arguments)
    asyncio.run(_main(max(given.rooms, 1), given.seconds))


if __name__ == "__main__":
    main()

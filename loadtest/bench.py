"""`make bench`: a swarm against any LiveKit-compatible server, and what the server spent on it.

Without `--url` it starts a Roomwright of its own. `--server-pid` says whose CPU and memory to read (its children's
too), so that another server is measured by the same swarm in the same run. Figures are CPU time per unit of work; the
machine's load is printed beside them.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.access import Target
from loadtest.own_server import OwnServerError, own_server
from loadtest.process import Usage, machine_load, usage
from loadtest.swarm import Fanout, Swarm

VIDEO = Fanout(kind="video", frames_per_second=30, packets_per_frame=10, payload_bytes=1100)
AUDIO = Fanout(kind="audio", frames_per_second=50, packets_per_frame=1, payload_bytes=100)
WARM_UP_S = 3.0
SETTLE_S = 3.0
CHURN_ROOM = 20


@dataclass(frozen=True, slots=True)
class FanoutResult:
    """One fan-out, measured."""

    name: str
    subscribers: int
    packets_per_second: float
    cpu_us_per_packet: float
    packets_per_second_per_core: float
    latency_p50_ms: float
    latency_p99_ms: float
    lost: int


@dataclass(frozen=True, slots=True)
class JoinResult:
    """Joins, measured."""

    joins: int
    cpu_ms_per_join: float
    seconds_per_join_p50: float
    memory_per_participant_kb: float


@dataclass(frozen=True, slots=True)
class ChurnResult:
    """Joins and leaves, measured: memory that does not come back, of the server and of its children (nats-server)."""

    joins: int
    server_before_mb: float
    server_after_mb: float
    children_before_mb: float
    children_after_mb: float


async def fanout(
    swarm: Swarm, pid: int, shape: Fanout, subscribers: int, seconds: float
) -> FanoutResult:
    """One publisher to `subscribers`, measured for `seconds` after a warm-up."""
    room = swarm.new_room()
    publisher = await swarm.join(room)
    await publisher.publish(shape)
    viewers = await swarm.join_many(room, subscribers)
    for viewer in viewers:
        await viewer.until_receiving()
    await asyncio.sleep(WARM_UP_S)
    swarm.reset_latency()
    received, before = swarm.received(), usage(pid)
    await asyncio.sleep(seconds)
    after, packets = usage(pid), swarm.received() - received
    latency = swarm.latency_ms()
    lost = swarm.lost()
    await swarm.leave_all()
    return FanoutResult(
        name=f"{shape.kind} 1 -> {subscribers}",
        subscribers=subscribers,
        packets_per_second=packets / (after.taken_at - before.taken_at),
        cpu_us_per_packet=_cpu_us(before, after) / max(packets, 1),
        packets_per_second_per_core=1e6 * packets / max(_cpu_us(before, after), 1.0),
        latency_p50_ms=latency[0],
        latency_p99_ms=latency[1],
        lost=lost,
    )


async def joins(swarm: Swarm, pid: int, count: int, per_room: int) -> JoinResult:
    """`count` joins, four at a time, into rooms of `per_room`; then what they hold. A few joins before warm up."""
    await _join_and_leave(swarm, 2 * per_room, per_room)
    before = usage(pid)
    times: list[float] = []
    for _ in range(max(count // per_room, 1)):
        times += await swarm.timed_joins(swarm.new_room(), per_room)
    joined = usage(pid)
    await asyncio.sleep(SETTLE_S)
    settled = usage(pid)
    await swarm.leave_all()
    times.sort()
    return JoinResult(
        joins=len(times),
        cpu_ms_per_join=_cpu_us(before, joined) / 1000 / len(times),
        seconds_per_join_p50=times[len(times) // 2],
        memory_per_participant_kb=(settled.rss_bytes - before.rss_bytes) / 1024 / len(times),
    )


async def churn(swarm: Swarm, pid: int, count: int) -> ChurnResult:
    """`count` joins and leaves after as many as fill every cache; memory is read when all have left."""
    await _join_and_leave(swarm, max(count // 2, CHURN_ROOM), CHURN_ROOM)
    await asyncio.sleep(SETTLE_S)
    before = usage(pid)
    await _join_and_leave(swarm, count, CHURN_ROOM)
    await asyncio.sleep(SETTLE_S)
    after = usage(pid)
    return ChurnResult(
        joins=count,
        server_before_mb=before.own_rss_bytes / 1e6,
        server_after_mb=after.own_rss_bytes / 1e6,
        children_before_mb=(before.rss_bytes - before.own_rss_bytes) / 1e6,
        children_after_mb=(after.rss_bytes - after.own_rss_bytes) / 1e6,
    )


async def _join_and_leave(swarm: Swarm, count: int, per_room: int) -> None:
    for _ in range(count // per_room):
        await swarm.join_many(swarm.new_room(), per_room)
        await swarm.leave_all()


def _cpu_us(before: Usage, after: Usage) -> float:
    return (after.cpu_ns - before.cpu_ns) / 1000


async def measure(target: Target, pid: int, options: argparse.Namespace) -> list[object]:
    """Every scenario asked for, one after the other."""
    results: list[object] = []
    most_at_a_time = max(options.subscribers + 1, options.joins, CHURN_ROOM)
    swarm = Swarm(target, sockets=2 * most_at_a_time)
    try:
        for name in options.scenario:
            print(f"... {name}", file=sys.stderr, flush=True)
            match name:
                case "video":
                    results.append(
                        await fanout(swarm, pid, VIDEO, options.subscribers, options.seconds)
                    )
                case "audio":
                    results.append(
                        await fanout(swarm, pid, AUDIO, options.subscribers, options.seconds)
                    )
                case "joins":
                    results.append(await joins(swarm, pid, options.joins, options.per_room))
                case "churn":
                    results.append(await churn(swarm, pid, options.churn))
    finally:
        await swarm.close()
    for what, times in swarm.rejected.items():
        print(f"the swarm's engine refused {times} times: {what}", file=sys.stderr)
    return results


def show(results: list[object]) -> None:
    """A line for each result."""
    for result in results:
        match result:
            case FanoutResult():
                print(
                    f"{result.name:14} {result.packets_per_second:9.0f} packets/s forwarded"
                    f"   {result.cpu_us_per_packet:6.2f} us CPU/packet"
                    f"   {result.packets_per_second_per_core:9.0f} packets/s/core"
                    f"   latency p50 {result.latency_p50_ms:.2f} ms p99 {result.latency_p99_ms:.2f} ms"
                    f"   lost {result.lost}"
                )
            case JoinResult():
                print(
                    f"joins          {result.joins:9d} joins"
                    f"   {result.cpu_ms_per_join:6.2f} ms CPU/join"
                    f"   p50 {result.seconds_per_join_p50 * 1000:.0f} ms"
                    f"   {result.memory_per_participant_kb:.0f} kB/participant"
                )
            case ChurnResult():
                print(
                    f"churn          {result.joins:9d} joins and leaves"
                    f"   resident {result.server_before_mb:.1f} MB before, {result.server_after_mb:.1f} MB after"
                    f"   children {result.children_before_mb:.1f} MB before,"
                    f" {result.children_after_mb:.1f} MB after"
                )


async def main_async(options: argparse.Namespace) -> None:
    """Measure the given server, or one of our own."""
    load = machine_load()
    if options.url is None:
        with tempfile.TemporaryDirectory() as directory:
            async with own_server(Path(directory)) as server:
                results = await measure(server.target, server.pid, options)
    else:
        target = Target(options.url, options.key, options.secret)
        results = await measure(target, options.server_pid, options)
    print(f"machine: {os.cpu_count()} cores, {load} before, {machine_load()} after")
    show(results)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(it) for it in results], indent=2))  # type: ignore[call-overload]


def main() -> None:
    """Read the flags and measure."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--url", help="ws:// address of the server; by default one is started")
    parser.add_argument("--key", default="devkey")
    parser.add_argument("--secret", default="secret")
    parser.add_argument("--server-pid", type=int, help="whose CPU to read; needed with --url")
    scenarios = ["video", "audio", "joins", "churn"]
    parser.add_argument("--scenario", nargs="+", choices=scenarios, default=scenarios)
    parser.add_argument("--subscribers", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--joins", type=int, default=200)
    parser.add_argument("--per-room", type=int, default=10, help="room size of the joins")
    parser.add_argument("--churn", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    if options.url is not None and options.server_pid is None:
        parser.error("--url needs --server-pid, the process whose CPU is read")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    try:
        asyncio.run(main_async(options))
    except OwnServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

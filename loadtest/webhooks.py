"""How many webhooks go out, how soon, and whether any is lost when parts are killed.

    python -m loadtest.webhooks --rate 1000 --seconds 60           throughput and latency
    python -m loadtest.webhooks --rate 1000 --seconds 120 --kill 10  every 10 s one of: webhook service, NATS, target

A private nats-server, the webhook service as a process of its own, and a target in another; this process appends facts
to the stream as nodes do (kept while NATS is away), and checks what the target has noted: every fact, in the order of
its room.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chassis import subjects
from chassis.bus import NatsBus
from chassis.errors import BusError
from contracts.events.v1 import events_pb2
from loadtest.webhook_target import NOTE_SEPARATOR

KEY, SECRET = "bench", "a secret that has 32 characters..."
USER, PASSWORD = "bench", "bench"
ROOMS: Final = 500
PUBLISHERS: Final = 16
"""Rooms are spread over so many tasks; the facts of one room wait for each other, as on a node."""
PARTS: Final = ("webhook", "nats", "target")
DRAIN_S: Final = 180.0


@dataclass
class Part:
    """A process that is killed and started again."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    cpu_s: float = 0.0

    async def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment},
            )

    async def kill(self) -> None:
        """End it without a word."""
        if self.process is not None and self.process.returncode is None:
            self.cpu_s += self.cpu_now()
            self.process.kill()
            await self.process.wait()

    def cpu_now(self) -> float:
        """CPU seconds of the running process."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def cpu_total(self) -> float:
        """CPU seconds of all its processes so far."""
        return self.cpu_s + self.cpu_now()


@dataclass
class Told:
    """What was appended, by room and in order, and when."""

    order: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    at: dict[str, float] = field(default_factory=dict)


async def main() -> None:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1000.0, help="facts per second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument(
        "--kill", type=float, default=0.0, metavar="SECONDS", help="0: nothing is killed"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        await _run(Path(directory), options)


async def _run(directory: Path, options: argparse.Namespace) -> None:
    ports = {name: _free_port() for name in ("nats", "target", "health")}
    notes = directory / "notes"
    parts = {part.name: part for part in _parts(directory, ports, notes)}
    for name in ("nats", "target"):
        await parts[name].start()
    bus = NatsBus(f"nats://127.0.0.1:{ports['nats']}", user=USER, password=PASSWORD, name="bench")
    await bus.start()
    await bus.open_stream(subjects.EVENTS)
    await parts["webhook"].start()
    await asyncio.sleep(4)  # it takes its shards: facts from now on are told
    told = Told()
    began, cpu = time.monotonic(), {name: part.cpu_total for name, part in parts.items()}
    killing = asyncio.create_task(_kill(parts, options)) if options.kill else None
    await _tell(bus, told, options)
    appended_s = time.monotonic() - began
    if killing is not None:
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing
    count = len(told.at)
    print(
        f"{count} facts of {ROOMS} rooms appended in {appended_s:.1f} s ({count / appended_s:.0f}/s)"
    )
    came = await _until_told(notes, count)
    used = {name: part.cpu_total - cpu[name] for name, part in parts.items()}
    _report(told, came, time.monotonic() - began, used)
    await bus.close()
    for part in parts.values():
        await part.kill()


def _parts(directory: Path, ports: dict[str, int], notes: Path) -> list[Part]:
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{ports["nats"]}"\njetstream {{ store_dir: "{directory}/streams" }}\n'
        f'authorization {{ user: "{USER}", password: "{PASSWORD}" }}\n'
    )
    binary = shutil.which("nats-server") or str(Path(sys.executable).parent / "nats-server")
    python = sys.executable
    webhook = {
        "WEBHOOK_NATS_URL": f"nats://127.0.0.1:{ports['nats']}",
        "WEBHOOK_NATS_USER": USER,
        "WEBHOOK_NATS_PASSWORD": PASSWORD,
        "WEBHOOK_INSECURE": "true",
        "WEBHOOK_API_KEYS": f"{KEY}: {SECRET}",
        "WEBHOOK_URLS": f"http://127.0.0.1:{ports['target']}/",
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "WEBHOOK_HEALTH_ADDRESS": f"127.0.0.1:{ports['health']}",
        "WEBHOOK_LOG_LEVEL": "warning",
    }
    target = (python, "-m", "loadtest.webhook_target", str(ports["target"]), str(notes))
    return [
        Part("nats", (binary, "-c", str(config)), {}, directory / "nats.log"),
        Part("target", target, {}, directory / "target.log"),
        Part("webhook", (python, "-m", "webhook"), webhook, directory / "webhook.log"),
    ]


async def _tell(bus: NatsBus, told: Told, options: argparse.Namespace) -> None:
    """Append facts at the rate; what NATS does not take now is sent again in its turn, as nodes do."""
    total = int(options.rate * options.seconds)
    queues: list[asyncio.Queue[events_pb2.RoomEvent | None]] = [
        asyncio.Queue() for _ in range(PUBLISHERS)
    ]
    publishers = [asyncio.create_task(_publish(bus, queue)) for queue in queues]
    choose = random.Random(options.seed)
    began = time.monotonic()
    for number in range(total):
        behind = number / options.rate - (time.monotonic() - began)
        if behind > 0:
            await asyncio.sleep(behind)
        room = choose.randrange(ROOMS)
        fact = events_pb2.RoomEvent(
            schema=1,
            id=f"EV_{number}",
            name="participant_joined",
            room_name=f"room-{room}",
            created_at=int(time.time()),
            room=b"\x0a\x05RM_ab\x12\x04room",
            participant=b"\x0a\x05PA_ab\x12\x05alice\x32\x80\x01" + b"m" * 128,
        )
        told.order[fact.room_name].append(fact.id)
        told.at[fact.id] = time.time()
        queues[room % PUBLISHERS].put_nowait(fact)
    for queue in queues:
        queue.put_nowait(None)
    await asyncio.gather(*publishers)


async def _publish(bus: NatsBus, queue: asyncio.Queue[events_pb2.RoomEvent | None]) -> None:
    while (fact := await queue.get()) is not None:
        subject = subjects.event_subject(fact.room_name, fact.name)
        while True:
            try:
                await bus.publish_durable(subject, fact.SerializeToString(), fact.id)
                break
            except BusError:
                await asyncio.sleep(0.2)


async def _kill(parts: dict[str, Part], options: argparse.Namespace) -> None:
    choose = random.Random(options.seed)
    killed: Counter[str] = Counter()
    try:
        while True:
            await asyncio.sleep(options.kill * choose.uniform(0.5, 1.5))
            name = choose.choice(PARTS)
            killed[name] += 1
            await parts[name].kill()
            await asyncio.sleep(choose.uniform(0.0, 2.0))
            await parts[name].start()
    finally:
        for part in parts.values():
            if part.process is not None and part.process.returncode is not None:
                await part.start()
        print("killed: " + ", ".join(f"{name} {count} times" for name, count in killed.items()))


async def _until_told(notes: Path, count: int) -> list[tuple[str, float]]:
    """What the target noted, in order, once all is there or it is time to give up."""
    deadline = time.monotonic() + DRAIN_S
    while True:
        lines = notes.read_text().splitlines() if notes.exists() else []
        came = []
        for line in lines:
            identifier, _, at = line.partition(NOTE_SEPARATOR)
            if at:
                came.append((identifier, float(at)))
        if len({identifier for identifier, _ in came}) >= count or time.monotonic() > deadline:
            return came
        await asyncio.sleep(0.5)


def _report(
    told: Told, came: list[tuple[str, float]], took_s: float, used: dict[str, float]
) -> None:
    first: dict[str, float] = {}
    for identifier, at in came:
        first.setdefault(identifier, at)
    position = {identifier: place for place, identifier in enumerate(first)}
    lost = [identifier for identifier in told.at if identifier not in first]
    disordered = sum(
        places != sorted(places)
        for ids in told.order.values()
        if (places := [position[identifier] for identifier in ids if identifier in position])
    )
    delays = sorted(at - told.at[identifier] for identifier, at in first.items())
    result = {
        "facts": len(told.at),
        "lost": len(lost),
        "rooms_out_of_order": disordered,
        "told_again": len(came) - len(first),
        "seconds_until_all_told": round(took_s, 1),
        "delay_ms": {
            name: round(delays[min(len(delays) - 1, int(len(delays) * share))] * 1000, 1)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
        "cpu_us_per_fact": {name: round(cpu / len(told.at) * 1e6) for name, cpu in used.items()},
        "peak_memory_of_children_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        // 1024,
    }
    print(json.dumps(result, indent=2))
    if lost or disordered:
        sys.exit("facts were lost, or came out of order")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    asyncio.run(main())

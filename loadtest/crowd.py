"""`python -m loadtest.crowd`: a thousand silent people join one room at a steady rate, then somebody turns a camera on.

Every service is a process of its own. Measured are the CPU of signaling and of the sfu per join at the end of the ramp,
the participant updates each receiver gets, what an idle participant keeps resident in both, and the time from the
camera's announcement to its first frame at each viewer.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Sequence

from loadtest.own_services import OwnServices, own_services
from loadtest.participant import Participant
from loadtest.process import machine_load, usage
from loadtest.swarm import Fanout, Swarm

CAMERA = Fanout(kind="video", frames_per_second=10, packets_per_frame=2, payload_bytes=600)
ROOM = "crowd"
WARM_UP_JOINS = 50
SETTLE_S = 5.0
END_OF_RAMP = 0.1
"""Share of the joins that counts as the end."""


async def _ramp(swarm: Swarm, count: int, per_second: float) -> list[Participant]:
    """Begin a join every 1/`per_second` seconds, whether or not those before are done."""
    began = time.monotonic()
    tasks: list[asyncio.Task[Participant]] = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        tasks.append(asyncio.create_task(swarm.join(ROOM)))
    return list(await asyncio.gather(*tasks))


def _cpu_ms(services: OwnServices) -> tuple[float, float]:
    return tuple(usage(pid).cpu_ns / 1e6 for pid in (services.signaling_pid, services.sfu_pid))  # type: ignore[return-value]


def _rss_kb(services: OwnServices) -> tuple[float, float]:
    return tuple(  # type: ignore[return-value]
        usage(pid).own_rss_bytes / 1e3 for pid in (services.signaling_pid, services.sfu_pid)
    )


async def _measure(services: OwnServices, count: int, per_second: float) -> None:
    swarm = Swarm(services.target, sockets=2 * (count + WARM_UP_JOINS) + 64)
    try:
        # First joins fill caches that later ones share; they are not what a participant costs.
        await swarm.join_many("warm-up", WARM_UP_JOINS)
        await asyncio.sleep(SETTLE_S)
        empty = _rss_kb(services)
        last = int(count * END_OF_RAMP)
        people = await _ramp(swarm, count - last, per_second)
        marks = {participant: len(participant.updates) for participant in people}
        before, since = _cpu_ms(services), time.monotonic()
        late = await _ramp(swarm, last, per_second)
        spent = [after - then for then, after in zip(before, _cpu_ms(services), strict=True)]
        took = time.monotonic() - since
        updates = [len(participant.updates) - marks[participant] for participant in people]
        gaps = [b - a for p in people for a, b in zip(p.updates, p.updates[1:], strict=False)]
        await asyncio.sleep(SETTLE_S)
        full = _rss_kb(services)
        signaling_ms, sfu_ms = (part / last for part in spent)
        print(
            f"{count} silent joins at {per_second:.0f}/s; the last {last} took {took:.1f} s:"
            f" {signaling_ms + sfu_ms:.1f} ms CPU each (signaling {signaling_ms:.1f}, sfu {sfu_ms:.1f}),"
            f" slowest {max(p.join_seconds for p in late):.2f} s"
        )
        print(
            f"participant updates meanwhile: at most {max(updates)} a receiver, {max(updates) / took:.1f}/s;"
            f" least gap {min(gaps, default=0) * 1000:.0f} ms"
        )
        signaling_kb, sfu_kb = ((b - a) / count for a, b in zip(empty, full, strict=True))
        print(f"memory per participant: signaling {signaling_kb:.0f} kB, sfu {sfu_kb:.0f} kB")
        await _camera(swarm, services, [*people, *late])
        print(f"rejected by the swarm's engine: {dict(swarm.rejected)}")
    finally:
        await swarm.close()


async def _camera(swarm: Swarm, services: OwnServices, viewers: Sequence[Participant]) -> None:
    publisher = await swarm.join(ROOM)
    before, began = _cpu_ms(services), time.monotonic()

    async def first_frame(viewer: Participant) -> float:
        await viewer.until_receiving()
        return time.monotonic() - began

    waiting = [asyncio.create_task(first_frame(viewer)) for viewer in viewers]
    await publisher.publish(CAMERA)
    seconds = sorted(await asyncio.gather(*waiting))
    signaling_ms, sfu_ms = (b - a for a, b in zip(before, _cpu_ms(services), strict=True))
    print(
        f"a camera for {len(viewers)} viewers: first frame after p50 {seconds[len(seconds) // 2]:.2f} s,"
        f" p99 {seconds[int(len(seconds) * 0.99)]:.2f} s, last {seconds[-1]:.2f} s;"
        f" CPU signaling {signaling_ms / 1e3:.2f} s, sfu {sfu_ms / 1e3:.2f} s"
    )


async def _main(count: int, per_second: float) -> None:
    print(f"before: {os.cpu_count()} cores, {machine_load()}")
    async with own_services() as services:
        await _measure(services, count, per_second)
    print(f"after: {machine_load()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.crowd", description=__doc__)
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--per-second", type=float, default=50.0)
    given = parser.parse_args(arguments)
    asyncio.run(_main(max(given.participants, 20), given.per_second))


if __name__ == "__main__":
    main()

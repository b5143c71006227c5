"""The end of a replica: its clients are sent to the others, a few at a time, and media never stops."""

import asyncio
from collections.abc import Collection

import structlog

from chassis.clock import Clock
from signaling.core.drain import TICK_S, batch_size
from signaling.runner import SocketRunner

log = structlog.get_logger(__name__)

GOODBYE_S = 2.0


async def drain(
    sockets: Collection[SocketRunner], clock: Clock, *, delay_s: float, timeout_s: float
) -> None:
    """Serve on for `delay_s`, until load balancers send nobody any more; then close every socket before `timeout_s`."""
    ends_at = clock.now() + timeout_s - GOODBYE_S
    await asyncio.sleep(delay_s)
    log.info("closing sockets", sockets=len(sockets))
    told: set[SocketRunner] = set()
    while sockets:
        left = [socket for socket in sockets if socket not in told]
        seconds_left = ends_at - clock.now()
        if not left and seconds_left < 0:
            return
        for socket in left[: batch_size(len(left), seconds_left)]:
            socket.drain()
            told.add(socket)
        await asyncio.sleep(TICK_S)

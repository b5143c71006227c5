"""How fast a replica sends its clients away."""

import math

TICK_S = 0.05
MIN_BATCH = 5
"""A hundred clients a second are no burden for the other replicas."""


def batch_size(sockets: int, seconds_left: float) -> int:
    """How many sockets to close now, once every `TICK_S`, to be done in time."""
    ticks_left = int(seconds_left / TICK_S)
    if ticks_left <= 1:
        return sockets
    return max(MIN_BATCH, math.ceil(sockets / ticks_left))

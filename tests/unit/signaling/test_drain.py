"""A draining replica closes its sockets evenly, and all of them in time."""

import pytest

from signaling.core.drain import MIN_BATCH, TICK_S, batch_size


@pytest.mark.parametrize(
    ("sockets", "seconds"), [(1, 20.0), (50, 20.0), (3000, 20.0), (10_000, 5.0)]
)
def test_all_are_closed_in_time_and_never_all_at_once(sockets: int, seconds: float) -> None:
    left, sizes, now = sockets, list[int](), 0.0
    while left:
        size = batch_size(left, seconds - now)
        sizes.append(min(size, left))
        left -= sizes[-1]
        now += TICK_S
    assert now <= seconds + TICK_S
    assert max(sizes) <= max(MIN_BATCH, 1.2 * sockets * TICK_S / seconds + 1)


def test_without_time_all_are_closed_at_once() -> None:
    assert batch_size(500, 0.0) == 500
    assert batch_size(500, -3.0) == 500

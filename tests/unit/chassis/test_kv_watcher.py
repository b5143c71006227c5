"""Where the initial values of the client library's watcher end."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import nats.errors

from chassis.kv import whole


def entry(pending: int) -> Any:
    return SimpleNamespace(delta=pending)


class Watcher:
    """What the library gives, and what the server says it has sent."""

    def __init__(self, *updates: Any, sent: int = 0, is_cut: bool = False) -> None:
        self._updates = updates
        self._sent, self._is_cut = sent, is_cut
        self._sub = self

    async def consumer_info(self) -> Any:
        if self._is_cut:
            raise nats.errors.TimeoutError
        return SimpleNamespace(delivered=SimpleNamespace(consumer_seq=self._sent), num_pending=0)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for update in self._updates:
            yield update


async def told(watcher: Any) -> list[Any]:
    return [update async for update in whole(watcher)]


async def test_end_that_comes_before_what_was_sent_is_put_behind_it() -> None:
    first, last, news = entry(1), entry(0), entry(0)
    assert await told(Watcher(None, first, last, news, sent=2)) == [first, last, None, news]


async def test_end_of_an_empty_bucket_stays_first() -> None:
    news = entry(0)
    assert await told(Watcher(None, news)) == [None, news]


async def test_end_that_comes_after_values_stays_there() -> None:
    first, last, news = entry(1), entry(0), entry(0)
    assert await told(Watcher(first, last, None, news, sent=2)) == [first, last, None, news]


async def test_lost_connection_leaves_the_end_where_it_is() -> None:
    assert await told(Watcher(None, is_cut=True)) == [None]

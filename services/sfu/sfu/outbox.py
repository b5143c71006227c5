"""What waits to be written to one gRPC stream, so that no machine waits for a network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

from chassis.errors import ResourceExhausted, ServiceError

LINK_QUEUE_BYTES = 64 * 1024 * 1024


class Sized(Protocol):
    """A protobuf message, as far as a queue needs to know it."""

    def ByteSize(self) -> int: ...


M = TypeVar("M", bound=Sized)


class Outbox(Generic[M]):
    """What waits to be written to one stream: bounded in bytes; whoever overflows it loses it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._waiting: deque[tuple[M, int]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._error: ServiceError | None = None
        self._is_closed = False

    def put(self, message: M) -> None:
        """Queue a message; after an overflow or `close` it is dropped."""
        if self._is_closed:
            return
        size = message.ByteSize()
        if self._bytes + size > self._limit:
            self._waiting.clear()
            self.close(ResourceExhausted(f"more than {self._limit} bytes wait on this stream"))
            return
        self._waiting.append((message, size))
        self._bytes += size
        self._changed.set()

    def close(self, error: ServiceError | None = None) -> None:
        """End the stream after what waits, with an error if there is one."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._changed.set()

    async def __aiter__(self) -> AsyncIterator[M]:
        async for batch in self.batches(0):
            for message in batch:
                yield message

    async def batches(self, limit_bytes: int) -> AsyncIterator[list[M]]:
        """What waits whenever the stream can take more: at least one message, else up to `limit_bytes`."""
        while True:
            while self._waiting:
                batch: list[M] = []
                batch_bytes = 0
                while self._waiting and (
                    not batch or batch_bytes + self._waiting[0][1] <= limit_bytes
                ):
                    message, size = self._waiting.popleft()
                    batch.append(message)
                    batch_bytes += size
                self._bytes -= batch_bytes
                yield batch
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                return
            self._changed.clear()
            await self._changed.wait()

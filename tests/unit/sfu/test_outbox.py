"""A stream's queue: in order, bounded in bytes, ended with what waits or with an error."""

import asyncio

import pytest

from chassis.errors import ResourceExhausted
from contracts.node.v1 import node_pb2
from sfu.outbox import Outbox


def frame(number: int, size: int = 10) -> node_pb2.SignalResponseFrame:
    return node_pb2.SignalResponseFrame(session_ids=[number], signal_response=bytes(size))


async def read(outbox: Outbox[node_pb2.SignalResponseFrame]) -> list[int]:
    return [response.session_ids[0] async for response in outbox]


async def test_messages_leave_in_order_and_a_close_lets_the_waiting_ones_leave() -> None:
    outbox: Outbox[node_pb2.SignalResponseFrame] = Outbox(1000)
    reading = asyncio.create_task(read(outbox))
    for number in (1, 2):
        outbox.put(frame(number))
    await asyncio.sleep(0)
    outbox.put(frame(3))
    outbox.close()
    outbox.put(frame(4))
    assert await reading == [1, 2, 3]


async def test_who_reads_too_slowly_loses_the_stream() -> None:
    outbox: Outbox[node_pb2.SignalResponseFrame] = Outbox(100)
    for number in range(20):
        outbox.put(frame(number))
    with pytest.raises(ResourceExhausted):
        await read(outbox)


async def test_what_was_read_makes_room() -> None:
    outbox: Outbox[node_pb2.SignalResponseFrame] = Outbox(40)
    numbers: list[int] = []
    for number in range(20):
        outbox.put(frame(number))
        numbers.append((await anext(aiter(outbox))).session_ids[0])
    assert numbers == list(range(20))


async def test_what_waits_leaves_together_up_to_a_size() -> None:
    outbox: Outbox[node_pb2.SignalResponseFrame] = Outbox(1000)
    for number in range(5):
        outbox.put(frame(number, size=20))
    outbox.put(frame(5, size=500))
    outbox.close()
    batches = [[it.session_ids[0] for it in batch] async for batch in outbox.batches(60)]
    assert batches == [[0, 1], [2, 3], [4], [5]]

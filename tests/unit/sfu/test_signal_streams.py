"""The end of signaling's streams: nothing that was said before is lost."""

import asyncio

from chassis.telemetry import Metrics
from contracts.node.v1 import node_pb2
from sfu.api import SignalStreams
from sfu.core.effects import SocketRef
from sfu.metrics import SfuMetrics
from sfu.outbox import Outbox

SOON_S = 0.05


class Reader:
    """Signaling's end of one stream."""

    def __init__(self, streams: SignalStreams) -> None:
        self._streams = streams
        self.number, outbox = streams.open()
        self.closed: list[int] = []
        self.task = asyncio.create_task(self._read(outbox))

    async def _read(self, outbox: Outbox[node_pb2.SignalResponseFrame]) -> None:
        async for frame in outbox:
            self.closed += frame.session_ids if frame.HasField("close") else ()
        self._streams.forget(self.number)

    def socket(self, session: int) -> SocketRef:
        socket = SocketRef(self.number, session)
        self._streams.session_began(socket)
        return socket


async def test_stream_ends_once_signaling_said_of_every_socket_that_it_is_closed() -> None:
    streams = SignalStreams(SfuMetrics(Metrics()))
    reader = Reader(streams)
    sockets = [reader.socket(number) for number in (1, 2)]
    for socket in sockets:
        streams.close(socket, "over")
    finishing = asyncio.create_task(streams.finish(5.0))
    streams.session_ended(sockets[0])
    done, _ = await asyncio.wait({finishing}, timeout=SOON_S)
    assert not done
    assert reader.closed == [1, 2]
    assert not reader.task.done()
    streams.session_ended(sockets[1])
    async with asyncio.timeout(1.0):
        await asyncio.gather(finishing, reader.task)


async def test_signaling_that_says_nothing_is_not_waited_for_long() -> None:
    streams = SignalStreams(SfuMetrics(Metrics()))
    reader = Reader(streams)
    reader.socket(1)
    async with asyncio.timeout(1.0):
        await streams.finish(SOON_S)
        await reader.task


async def test_sockets_of_a_broken_stream_are_not_waited_for() -> None:
    streams = SignalStreams(SfuMetrics(Metrics()))
    reader = Reader(streams)
    socket = reader.socket(1)
    finishing = asyncio.create_task(streams.finish(5.0))
    await asyncio.sleep(0)
    streams.forget(reader.number)
    streams.session_ended(socket)  # said before the stream broke
    async with asyncio.timeout(1.0):
        await finishing
    reader.task.cancel()

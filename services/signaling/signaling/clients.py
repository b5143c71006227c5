"""Outbound: placement, and the signal stream and API calls of every node this replica talks to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import structlog
from google.protobuf.message import DecodeError

from chassis import rpc, subjects, telemetry
from chassis.bus import Bus, Subscription
from chassis.clock import Clock
from chassis.errors import BusError, NotFound, ServiceError, Unimplemented, Unreachable
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from signaling.core import lost_node
from signaling.core.frames import Response
from signaling.core.lost_node import AskHome, AskNode, LostNode, RoomAt, TellBack, TellMoved
from signaling.core.session import (
    CloseArrived,
    Event,
    NodeBack,
    NodeLost,
    RefusalArrived,
    ResponseArrived,
    RoomMoved,
)

MAX_UNSENT_REQUESTS = 10_000
MAX_BATCH = 64
ASK_DEADLINE_S = 1.0
CONNECT_DEADLINE_S = 2.0
MAX_QUESTIONS = 32
IDLE_S = 60.0
SWEEP_INTERVAL_S = 10.0
PLACEMENT_RETRY_DELAYS_S = (0.0, 0.1, 0.5, 1.0)

log = structlog.get_logger()

OnEvent = Callable[[Event], None]
T = TypeVar("T")


class LeaseRefused(ServiceError):
    """The node surely did not do a call: it cannot be reached, or the room is not its own."""

    code = Unreachable.code


class PlacementClient:
    """Asks placement for the home of a room; errors come as `ServiceError`."""

    def __init__(self, address: str, auth: rpc.RpcAuth, region: str = "") -> None:
        """`region`: where this replica is, and so its callers; new homes are looked for near it."""
        self._region = region
        self._channel = rpc.channel(address, auth=auth)
        self._stub = placement_pb2_grpc.PlacementServiceStub(self._channel)
        self._doubts: dict[tuple[str, bool, int], asyncio.Task[placement_pb2.Lease]] = {}

    async def assign(
        self, room_name: str, *, create: bool, preferred_node_id: str = ""
    ) -> placement_pb2.AssignRoomResponse:
        """The room's home; a new one only when `create`, else `NotFound`.

        A new home is on the preferred node when that one can take it.
        """
        request = placement_pb2.AssignRoomRequest(
            room_name=room_name,
            create=create,
            region=self._region,
            preferred_node_id=preferred_node_id,
        )
        return await _patiently(lambda: self._stub.AssignRoom(request))

    async def doubt(
        self, room_name: str, epoch: int, *, create: bool = False
    ) -> placement_pb2.Lease:
        """The room's home, looked at closely: the holder of `epoch` refused or cannot be reached.

        However many sockets doubt a room at the same time, placement is asked once.
        """
        key = (room_name, create, epoch)
        task = self._doubts.get(key)
        if task is None:
            task = self._doubts[key] = asyncio.create_task(self._doubt(*key))
            task.add_done_callback(lambda _: self._doubts.pop(key))
        return await asyncio.shield(task)

    async def _doubt(self, room_name: str, create: bool, epoch: int) -> placement_pb2.Lease:
        request = placement_pb2.AssignRoomRequest(
            room_name=room_name, create=create, region=self._region, doubted_epoch=epoch
        )
        return (await _patiently(lambda: self._stub.AssignRoom(request))).lease

    async def find(self, room_name: str) -> placement_pb2.Lease:
        """The room's present home, or `NotFound` with the text SDKs know."""
        request = placement_pb2.FindRoomRequest(room_name=room_name)
        try:
            return (await _patiently(lambda: self._stub.FindRoom(request))).lease
        except NotFound:
            raise NotFound("requested room does not exist") from None

    async def list(self, room_names: list[str]) -> list[placement_pb2.Lease]:
        """Every room with a home, or those of the given names."""
        request = placement_pb2.ListRoomsRequest(room_names=room_names)
        return list((await _patiently(lambda: self._stub.ListRooms(request))).leases)

    async def close(self) -> None:
        """Close the channel."""
        for task in list(self._doubts.values()):
            task.cancel()
        await asyncio.gather(*self._doubts.values(), return_exceptions=True)
        await self._channel.close()


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while placement cannot be reached: every question to it may be asked twice."""
    for delay_s in PLACEMENT_RETRY_DELAYS_S:
        try:
            return await ask()
        except Unreachable:
            await asyncio.sleep(delay_s)
    return await ask()


@dataclass(frozen=True, slots=True)
class _Session:
    room: RoomAt
    on_event: OnEvent
    on_opened: Callable[[str], None]


class NodeClient:
    """One process at one address: its signal stream, opened with the first session, and its API calls.

    When the stream breaks it finds out what became of the node and of each room, and tells the rooms' sockets.
    """

    def __init__(
        self,
        node_id: str,
        address: str,
        auth: rpc.RpcAuth,
        placement: PlacementClient,
        clock: Clock,
    ) -> None:
        self._node_id = node_id
        self._address = address
        self._placement = placement
        self._clock = clock
        self._channel = rpc.channel(address, auth=auth)
        self._stub = node_pb2_grpc.NodeServiceStub(self._channel)
        self._requests: asyncio.Queue[node_pb2.SignalRequestFrame] = asyncio.Queue()
        self._room_in_queue = asyncio.Event()
        self._room_in_queue.set()
        self._sessions: dict[int, _Session] = {}
        self._next_session = 1
        self._task: asyncio.Task[None] | None = None
        self._searches: dict[asyncio.Task[None], _Search] = {}
        self._calls = 0
        self.used_at = clock.now()

    @property
    def is_in_use(self) -> bool:
        """Has it sessions, sockets that wait for news of them, or calls under way?"""
        return bool(self._sessions or self._searches or self._calls)

    def open(
        self,
        request: node_pb2.OpenSession,
        on_event: OnEvent,
        on_opened: Callable[[str], None],
    ) -> int:
        """Begin a session on this node; what the node answers comes as events."""
        session_id = self._next_session
        self._next_session += 1
        self._sessions[session_id] = _Session(
            RoomAt(request.room_name, request.epoch), on_event, on_opened
        )
        self.used_at = self._clock.now()
        self._put(node_pb2.SignalRequestFrame(session_id=session_id, open=request))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return session_id

    async def send(self, session_id: int, request: bytes) -> None:
        """Pass one SignalRequest on; waits while the node takes none."""
        await self._room_in_queue.wait()
        if session_id in self._sessions:
            self._put(node_pb2.SignalRequestFrame(session_id=session_id, signal_request=request))

    def end(self, session_id: int, cause: node_pb2.SocketClosed.Cause.ValueType) -> None:
        """Forget a session and tell the node that its socket is gone."""
        self.used_at = self._clock.now()
        if self._sessions.pop(session_id, None) is not None:
            closed = node_pb2.SocketClosed(cause=cause)
            self._put(node_pb2.SignalRequestFrame(session_id=session_id, socket_closed=closed))
            return
        for search in self._searches.values():
            search.forget(session_id)

    async def call(self, request: node_pb2.CallApiRequest) -> bytes:
        """One API call on a room of this node; its error comes as `ServiceError`.

        `LeaseRefused` when the node surely did not do it.
        """
        self._calls += 1
        try:
            if not await rpc.connected(self._channel, CONNECT_DEADLINE_S):
                raise LeaseRefused("the room's node cannot be reached, try again")
            deadline_s = rpc.DEFAULT_DEADLINE_S + request.patience_ms / 1000
            response = await self._stub.CallApi(request, timeout=deadline_s)
        finally:
            self._calls -= 1
            self.used_at = self._clock.now()
        if response.lease_refused:
            raise LeaseRefused(response.error_message)
        if response.error_code:
            meta = dict(response.error_meta)
            raise ServiceError.of(response.error_code, response.error_message, meta)
        return response.response

    def leave_rooms(self, epochs: Mapping[str, int]) -> None:
        """Rooms whose homes were taken over, with their new epochs: sessions of older ones are over."""
        for session in list(self._sessions.values()):
            if session.room.epoch < epochs.get(session.room.name, 0):
                session.on_event(RoomMoved())

    async def close(self) -> None:
        """End the stream; the node sees every socket of this replica go."""
        tasks = [*self._searches, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channel.close()

    def _put(self, request: node_pb2.SignalRequestFrame) -> None:
        self._requests.put_nowait(request)
        if self._requests.qsize() >= MAX_UNSENT_REQUESTS:
            self._room_in_queue.clear()

    async def _outgoing(self) -> AsyncIterator[node_pb2.SignalStreamRequest]:
        requests = self._requests
        while True:
            frames = [await requests.get()]
            while len(frames) < MAX_BATCH and not requests.empty():
                frames.append(requests.get_nowait())
            if requests.qsize() < MAX_UNSENT_REQUESTS // 2:
                self._room_in_queue.set()
            yield node_pb2.SignalStreamRequest(frames=frames)

    async def _run(self) -> None:
        # The first session made this task; it serves all of them.
        telemetry.leave_trace()
        structlog.contextvars.unbind_contextvars("room")
        try:
            with rpc.service_errors():
                async for response in self._stub.SignalStream(self._outgoing()):
                    for frame in response.frames:
                        self._deliver(frame)
        except ServiceError as error:
            log.warning("signal stream broke", node_address=self._address, error=error.message)
        finally:
            self._requests = asyncio.Queue()
            self._room_in_queue.set()
            # A session opened from now on needs a stream of its own.
            self._task = None
            lost, self._sessions = self._sessions, {}
            for session in lost.values():
                session.on_event(NodeLost())
        if lost:
            log.warning("node lost", node=self._node_id, sockets=len(lost))
            search = _Search(self._node_id, self._stub, self._placement, self._clock, lost)
            task = asyncio.create_task(search.run())
            self._searches[task] = search
            task.add_done_callback(self._searched)

    def _searched(self, task: asyncio.Task[None]) -> None:
        del self._searches[task]
        self.used_at = self._clock.now()
        if not task.cancelled() and task.exception() is not None:
            log.error("search for a lost node failed", exc_info=task.exception())

    def _deliver(self, response: node_pb2.SignalResponseFrame) -> None:
        event = _event(response)
        if event is None:
            self._deliver_opened(response)
            return
        sessions = self._sessions
        for session_id in response.session_ids:
            session = sessions.get(session_id)
            if session is not None:
                session.on_event(event)

    def _deliver_opened(self, response: node_pb2.SignalResponseFrame) -> None:
        if response.WhichOneof("message") != "opened":
            return  # a newer node's message
        for session_id in response.session_ids:
            session = self._sessions.get(session_id)
            if session is not None:
                session.on_opened(response.opened.participant_sid)


class _Search:
    """Runs one `LostNode` until every socket of the broken stream knows what became of its room."""

    def __init__(
        self,
        node_id: str,
        node: "node_pb2_grpc.NodeServiceAsyncStub",
        placement: PlacementClient,
        clock: Clock,
        lost: dict[int, _Session],
    ) -> None:
        self._node = node
        self._placement = placement
        self._clock = clock
        self._lost = lost
        self._rooms: dict[RoomAt, set[int]] = {}
        for session_id, session in lost.items():
            self._rooms.setdefault(session.room, set()).add(session_id)
        self._machine = LostNode.of(node_id, self._rooms, clock.now())
        self._questions: set[asyncio.Task[None]] = set()
        self._may_ask = asyncio.Semaphore(MAX_QUESTIONS)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until all is known, or nobody waits, or it took too long."""
        self._on_event(lost_node.Ticked())
        try:
            while (deadline := self._machine.next_timeout()) is not None:
                self._changed.clear()
                try:
                    async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                        await self._changed.wait()
                except TimeoutError:
                    self._on_event(lost_node.Ticked())
        finally:
            for task in self._questions:
                task.cancel()
            await asyncio.gather(*self._questions, return_exceptions=True)

    def forget(self, session_id: int) -> None:
        """The socket is gone."""
        session = self._lost.pop(session_id, None)
        if session is None:
            return
        waiting = self._rooms[session.room]
        waiting.discard(session_id)
        if not waiting:
            self._on_event(lost_node.RoomDeserted(session.room))

    def _on_event(self, event: lost_node.Event) -> None:
        for effect in self._machine.handle(event, self._clock.now()):
            match effect:
                case AskNode():
                    self._spawn(self._ask_node())
                case AskHome(room):
                    self._spawn(self._ask_home(room))
                case TellBack(rooms):
                    for room in rooms:
                        self._tell(room, NodeBack())
                case TellMoved(room):
                    self._tell(room, RoomMoved())
                case _:
                    assert_never(effect)
        self._changed.set()

    def _tell(self, room: RoomAt, event: Event) -> None:
        for session_id in list(self._rooms[room]):
            session = self._lost.get(session_id)
            if session is not None:
                session.on_event(event)

    def _spawn(self, question: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(question)
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _ask_node(self) -> None:
        try:
            answer = await self._node.ReportNode(
                node_pb2.ReportNodeRequest(), timeout=ASK_DEADLINE_S
            )
        except Unimplemented:
            # A node of an older release: it is there, and refuses who it does not know.
            self._on_event(lost_node.NodeAnswered(""))
        except ServiceError:
            self._on_event(lost_node.NodeSilent())
        else:
            self._on_event(lost_node.NodeAnswered(answer.record.node_id))

    async def _ask_home(self, room: RoomAt) -> None:
        async with self._may_ask:
            try:
                lease = await self._placement.doubt(room.name, room.epoch)
            except NotFound:
                self._on_event(lost_node.HomeTold(room, None))
            except ServiceError:
                self._on_event(lost_node.HomeUnknown(room))
            else:
                self._on_event(lost_node.HomeTold(room, (lease.node_id, lease.epoch)))


class NodeClients:
    """The nodes this replica talks to, by node id and gRPC address."""

    def __init__(self, auth: rpc.RpcAuth, placement: PlacementClient, clock: Clock) -> None:
        self._auth = auth
        self._placement = placement
        self._clock = clock
        self._nodes: dict[tuple[str, str], NodeClient] = {}

    def of(self, lease: placement_pb2.Lease) -> NodeClient:
        """The client of a lease's holder, made on first use."""
        key = (lease.node_id, lease.node_address)
        if key not in self._nodes:
            self._nodes[key] = NodeClient(*key, self._auth, self._placement, self._clock)
        return self._nodes[key]

    async def follow_takeovers(self, bus: Bus) -> None:
        """Until canceled: who is in a room whose old home still serves this replica is sent to the new one."""
        while True:
            connection = bus.connections
            try:
                async with await bus.subscribe(subjects.ROOM_TAKEN_OVER) as news:
                    await self._leave_rooms_of(news)
            except BusError:
                await bus.wait_for_reconnection(connection)

    async def _leave_rooms_of(self, news: Subscription) -> None:
        async for message in news:
            epochs: dict[str, int] = {}
            for data in (message.data, *(later.data for later in news.take_waiting())):
                try:
                    lease = placement_pb2.Lease.FromString(data)
                except DecodeError:
                    log.warning("news of a takeover cannot be read")
                    continue
                epochs[lease.room_name] = max(lease.epoch, epochs.get(lease.room_name, 0))
            for node in list(self._nodes.values()):
                node.leave_rooms(epochs)

    async def close_idle(self) -> None:
        """Close, now and then, what was not used lately: nodes come and go, and their channels with them."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = self._clock.now()
            for key, node in list(self._nodes.items()):
                if not node.is_in_use and now >= node.used_at + IDLE_S:
                    del self._nodes[key]
                    await node.close()

    async def close(self) -> None:
        """Close every stream."""
        await asyncio.gather(*(node.close() for node in self._nodes.values()))


def _event(response: node_pb2.SignalResponseFrame) -> Event | None:
    match response.WhichOneof("message"):
        case "signal_response":
            return ResponseArrived(Response.of(response.signal_response))
        case "refused":
            refused = response.refused
            return RefusalArrived(refused.http_status, refused.message, refused.lease_refused)
        case "close":
            return CloseArrived(response.close.code)
        case _:
            return None

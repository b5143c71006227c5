"""The message bus: publish, subscribe, request, and durable streams. NATS, and a double in memory.

What it is not: a queue that waits for a broken connection. Without one, `NotConnected` is raised at
once and the caller decides whether to spool, to refuse or to drop. Subscriptions survive
reconnections by themselves. The trace context travels in headers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol

import nats
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js import api as jetstream

from chassis import telemetry
from chassis.errors import BusError, NoResponders, NotConnected, RequestTimedOut
from chassis.nats_permissions import inbox_prefix
from chassis.subjects import Stream

MESSAGE_ID: Final = "Nats-Msg-Id"
ACK_TIMEOUT_S: Final = 2.0
READER_DOUBT_S: Final = 30.0
"""A reader that got nothing for so long makes sure that its consumer is there, by making another."""
READER_FORGOTTEN_S: Final = 60.0
"""After which the server clears away the consumer of a reader that is gone."""
MAX_PENDING: Final = 65_536
"""Messages a subscription holds for a slow reader before new ones are dropped and counted."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as received."""

    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    sequence: int = 0
    """Position in the stream; 0 for messages that come from none."""
    reply: Callable[[bytes], Awaitable[None]] | None = field(default=None, repr=False)

    async def respond(self, data: bytes) -> None:
        """Answer a request; nothing happens when nobody waits."""
        if self.reply is not None:
            await self.reply(data)


@dataclass(frozen=True, slots=True)
class Ack:
    """A stream has taken a message."""

    sequence: int
    duplicate: bool
    """The message id was known: nothing was stored again."""


class Subscription:
    """Messages as an asynchronous iterator; `close`, or the end of `async with`, ends it."""

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._messages: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._close = close
        self.dropped = 0
        """Messages lost because the reader was too slow."""

    def push(self, message: Message) -> None:
        """The bus's side: one more message."""
        if len(self._messages) >= MAX_PENDING:
            self.dropped += 1
            return
        self._messages.append(message)
        self._wake.set()

    async def close(self) -> None:
        """Take no more messages; the iteration ends."""
        if not self._closed:
            self._closed = True
            self._wake.set()
            await self._close()

    def take_waiting(self) -> list[Message]:
        """What has come already, without waiting."""
        waiting = list(self._messages)
        self._messages.clear()
        return waiting

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self._messages:
                return self._messages.popleft()
            self._wake.clear()
            await self._wake.wait()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class StreamReader(Protocol):
    """Reads a stream in order and at the reader's own pace; nothing is held for it between two reads."""

    async def read(self, limit: int, wait_s: float) -> list[Message]:
        """The next messages, 1 to `limit`; none when none came within `wait_s`. Raises `BusError`: read again."""
        ...

    async def close(self) -> None:
        """Read no more."""
        ...


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """The sequences of the first message a stream still has, and of the last one it ever had; 1 and 0: it had none."""

    first: int
    last: int


class Bus(Protocol):
    """What services use of the bus. Subjects stand in `chassis.subjects`."""

    @property
    def connected(self) -> bool:
        """Is there a connection now?"""
        ...

    @property
    def connections(self) -> int:
        """How many times a connection was made; a change means that something may be missed."""
        ...

    async def wait_for_reconnection(self, seen: int) -> int:
        """Wait until `connections` differs from `seen`; returns the new count."""
        ...

    async def publish(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
    ) -> None:
        """Tell whoever listens now; nobody may. Raises `NotConnected`."""
        ...

    async def open_stream(self, stream: Stream) -> None:
        """Make the stream unless it is there."""
        ...

    async def stream_fill(self, stream: Stream) -> float:
        """How full the stream is: bytes over the most that it takes. 0 when there is none; raises `BusError`."""
        ...

    async def publish_durable(self, subject: str, data: bytes, message_id: str) -> Ack:
        """Append to the stream of `subject`, once per `message_id`.

        Raises `NotConnected`, `RequestTimedOut` (send again with the same id), or `BusError` when
        the stream refuses (full, or there is none).
        """
        ...

    async def subscribe(self, subject: str, queue: str | None = None) -> Subscription:
        """Messages from now on; of subscriptions with the same `queue` one gets each message."""
        ...

    async def read_stream(self, stream: Stream, subject: str = ">", start: int = 1) -> Subscription:
        """A stream's messages on `subject` from sequence `start`, in order, then new ones."""
        ...

    def open_reader(self, stream: Stream, subjects: Sequence[str], start: int) -> StreamReader:
        """A reader of the messages on any of `subjects` from sequence `start` on."""
        ...

    async def stream_ends(self, stream: Stream) -> StreamEnds:
        """Where the stream begins and ends now. Raises `BusError`, also when there is no such stream."""
        ...

    async def stored_message(self, stream: Stream, sequence: int) -> Message | None:
        """One message of a stream; None when it has it no longer. Raises `BusError`."""
        ...

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """The first answer. Raises `NoResponders`, `RequestTimedOut` or `NotConnected`."""
        ...


class NatsBus:
    """The bus on NATS. It connects in the background and again whenever the connection breaks."""

    def __init__(self, url: str, *, user: str = "", password: str = "", name: str = "") -> None:
        self._url = url
        self._user = user
        self._password = password
        self._name = name
        self._client = Client()
        self._connecting: asyncio.Task[None] | None = None
        self._connections = 0
        self._changed = asyncio.Event()
        self.replicas = 1

    async def start(self, wait_s: float = 5.0) -> None:
        """Begin to connect and wait up to `wait_s` for it; without success go on trying."""
        self._connecting = asyncio.create_task(self._connect(), name="nats connect")
        done, _ = await asyncio.wait({self._connecting}, timeout=wait_s)
        if done:
            await self._connecting
        else:
            log.warning("bus not connected yet", url=self._url)

    async def close(self) -> None:
        """Flush what was published and disconnect."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._connecting
        if self._client.is_connected:
            with suppress(nats.errors.Error, TimeoutError):
                await self._client.flush(timeout=1)
        await self._client.close()

    @property
    def connected(self) -> bool:
        """Is there a connection now?"""
        return self._client.is_connected

    @property
    def connections(self) -> int:
        """See `Bus.connections`."""
        return self._connections

    async def wait_for_reconnection(self, seen: int) -> int:
        """See `Bus.wait_for_reconnection`."""
        while self._connections == seen:
            self._changed.clear()
            await self._changed.wait()
        return self._connections

    def jetstream(self) -> JetStreamContext:
        """The client's JetStream face, for `chassis.kv`; raises `NotConnected`."""
        self._require_connection()
        return self._client.jetstream(timeout=ACK_TIMEOUT_S)

    async def publish(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
    ) -> None:
        """See `Bus.publish`."""
        self._require_connection()
        try:
            await self._client.publish(subject, data, headers=_outgoing(headers, message_id))
        except nats.errors.Error as error:
            raise BusError(f"publish failed: {_words(error)}") from error

    async def open_stream(self, stream: Stream) -> None:
        """See `Bus.open_stream`."""
        config = jetstream.StreamConfig(
            name=stream.name,
            subjects=list(stream.subjects),
            discard=jetstream.DiscardPolicy.NEW,
            max_bytes=stream.max_bytes,
            max_age=stream.max_age_s,
            duplicate_window=stream.duplicate_window_s,
            num_replicas=self.replicas,
        )
        js = self.jetstream()
        try:
            await js.add_stream(config)
        except nats.js.errors.APIError as error:
            if error.err_code != _STREAM_NAME_IN_USE:
                raise BusError(f"cannot make stream {stream.name}: {_words(error)}") from error
            await js.update_stream(config)
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"cannot make stream {stream.name}: {_words(error)}") from error

    async def stream_fill(self, stream: Stream) -> float:
        """See `Bus.stream_fill`."""
        try:
            info = await self.jetstream().stream_info(stream.name)
        except nats.js.errors.NotFoundError:
            return 0.0
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"stream {stream.name} cannot be asked: {_words(error)}") from error
        # What the server keeps to, which an operator may have changed.
        limit = info.config.max_bytes or 0
        return info.state.bytes / limit if limit > 0 else 0.0

    async def publish_durable(self, subject: str, data: bytes, message_id: str) -> Ack:
        """See `Bus.publish_durable`."""
        js = self.jetstream()
        try:
            ack = await js.publish(subject, data, headers=_outgoing(None, message_id))
        except (nats.errors.TimeoutError, nats.errors.ConnectionClosedError) as error:
            raise RequestTimedOut(f"no acknowledgement for {subject}") from error
        except nats.errors.Error as error:
            raise BusError(f"{subject} was not stored: {_words(error)}") from error
        return Ack(ack.seq, bool(ack.duplicate))

    async def subscribe(self, subject: str, queue: str | None = None) -> Subscription:
        """See `Bus.subscribe`."""
        self._require_connection()
        subscription = Subscription(lambda: _unsubscribe(source))

        async def take(message: Msg) -> None:
            subscription.push(_incoming(message))

        try:
            source = await self._client.subscribe(subject, queue=queue or "", cb=take)
            # The interest must be known to the server before this returns.
            await self._client.flush(timeout=5)
        except nats.errors.Error as error:
            raise BusError(f"cannot subscribe to {subject}: {_words(error)}") from error
        return subscription

    async def read_stream(self, stream: Stream, subject: str = ">", start: int = 1) -> Subscription:
        """See `Bus.read_stream`."""
        js = self.jetstream()
        subscription = Subscription(lambda: _unsubscribe(source))

        async def take(message: Msg) -> None:
            subscription.push(_incoming(message, message.metadata.sequence.stream))

        try:
            source = await js.subscribe(
                subject,
                stream=stream.name,
                cb=take,
                ordered_consumer=True,
                config=jetstream.ConsumerConfig(
                    deliver_policy=jetstream.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start
                ),
            )
        except nats.errors.Error as error:
            raise BusError(f"cannot read {stream.name}: {_words(error)}") from error
        return subscription

    def open_reader(self, stream: Stream, subjects: Sequence[str], start: int) -> StreamReader:
        """See `Bus.open_reader`."""
        return _NatsReader(self, stream, tuple(subjects), start)

    async def stream_ends(self, stream: Stream) -> StreamEnds:
        """See `Bus.stream_ends`."""
        try:
            state = (await self.jetstream().stream_info(stream.name)).state
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"stream {stream.name} cannot be asked: {_words(error)}") from error
        return StreamEnds(max(1, state.first_seq), state.last_seq)

    async def stored_message(self, stream: Stream, sequence: int) -> Message | None:
        """See `Bus.stored_message`."""
        try:
            found = await self.jetstream().get_msg(stream.name, sequence)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"{stream.name} cannot be read: {_words(error)}") from error
        headers = dict(found.headers or {})
        return Message(found.subject or "", found.data or b"", headers, sequence)

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `Bus.request`."""
        self._require_connection()
        try:
            answer = await self._client.request(
                subject, data, timeout=timeout_s, headers=_outgoing(headers, None)
            )
        except nats.errors.NoRespondersError as error:
            raise NoResponders(f"nobody listens on {subject}") from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            raise RequestTimedOut(f"no answer on {subject} in {timeout_s:g} s") from error
        except nats.errors.Error as error:
            raise BusError(f"request failed: {_words(error)}") from error
        return _incoming(answer)

    async def _connect(self) -> None:
        await self._client.connect(
            servers=[url.strip() for url in self._url.split(",")],
            user=self._user or None,
            password=self._password or None,
            name=self._name,
            inbox_prefix=inbox_prefix(self._user),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # it is slept, any number does
            connect_timeout=2,
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_connect,
        )
        await self._on_connect()

    async def _on_connect(self) -> None:
        self._connections += 1
        self._changed.set()
        log.info("bus connected", connections=self._connections)

    async def _on_disconnect(self) -> None:
        if not self._client.is_closed:
            log.warning("bus connection lost")

    async def _on_error(self, error: Exception) -> None:
        log.debug("bus error", error=_words(error))

    def _require_connection(self) -> None:
        if not self._client.is_connected:
            raise NotConnected("no connection to the bus")


class _NatsReader:
    """A pull consumer that nothing depends on: when it is lost, or misses one, the next read makes another."""

    def __init__(self, bus: NatsBus, stream: Stream, subjects: tuple[str, ...], start: int) -> None:
        self._bus = bus
        self._stream = stream
        self._subjects = subjects
        self._next = start
        self._source: JetStreamContext.PullSubscription | None = None
        self._connection = 0
        self._taken = 0  # by this consumer's own count
        self._quiet_s = 0.0

    async def read(self, limit: int, wait_s: float) -> list[Message]:
        """See `StreamReader.read`."""
        try:
            found = await self._fetched(await self._consumer(), limit, wait_s)
        except (nats.errors.TimeoutError, TimeoutError):
            self._quiet_s += wait_s
            if self._quiet_s >= READER_DOUBT_S:
                await self.close()  # nothing to read, or nobody there to read it from
            return []
        except (nats.errors.Error, nats.js.errors.Error) as error:
            await self.close()
            raise BusError(f"cannot read {self._stream.name}: {_words(error)}") from error
        self._quiet_s = 0.0
        return await self._in_order(found)

    async def _fetched(
        self, source: JetStreamContext.PullSubscription, limit: int, wait_s: float
    ) -> list[Msg]:
        """What comes; nothing at once when the connection was made anew, since nobody knows this consumer then."""
        fetching = asyncio.ensure_future(source.fetch(limit, timeout=wait_s))
        renewed = asyncio.ensure_future(self._bus.wait_for_reconnection(self._connection))
        try:
            await asyncio.wait({fetching, renewed}, return_when=asyncio.FIRST_COMPLETED)
            return fetching.result() if fetching.done() else []
        finally:
            fetching.cancel()
            renewed.cancel()

    async def close(self) -> None:
        """See `StreamReader.close`."""
        source, self._source = self._source, None
        if source is not None:
            await _unsubscribe(source)

    async def _in_order(self, found: Sequence[Msg]) -> list[Message]:
        messages = []
        for message in found:
            place = message.metadata.sequence
            if place.consumer != self._taken + 1:
                await self.close()  # one was lost on the way: read again from there
                break
            self._taken = place.consumer
            self._next = place.stream + 1
            messages.append(_incoming(message, place.stream))
        return messages

    async def _consumer(self) -> JetStreamContext.PullSubscription:
        if self._source is not None and self._connection == self._bus.connections:
            return self._source
        await self.close()
        js = self._bus.jetstream()
        self._connection = self._bus.connections
        made = await js.add_consumer(
            self._stream.name,
            jetstream.ConsumerConfig(
                deliver_policy=jetstream.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next,
                ack_policy=jetstream.AckPolicy.NONE,
                filter_subjects=list(self._subjects),
                inactive_threshold=READER_FORGOTTEN_S,
                mem_storage=True,
            ),
        )
        self._source = await js.pull_subscribe_bind(made.name, self._stream.name)
        self._taken, self._quiet_s = 0, 0.0
        return self._source


class MemoryBus:
    """The bus inside one process, for tests; `connected` can be switched off to act an outage."""

    def __init__(self) -> None:
        self.connected = True
        self.connections = 1
        self._reconnected = asyncio.Event()
        self._subscriptions: dict[int, tuple[str, str | None, Subscription]] = {}
        self._streams: dict[str, _MemoryStream] = {}
        self._numbers = itertools.count(1)
        self._turn = itertools.count()

    def reconnect(self) -> None:
        """Act the end of an outage."""
        self.connected = True
        self.connections += 1
        self._reconnected.set()

    async def wait_for_reconnection(self, seen: int) -> int:
        """See `Bus.wait_for_reconnection`."""
        while self.connections == seen:
            self._reconnected.clear()
            await self._reconnected.wait()
        return self.connections

    async def publish(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
    ) -> None:
        """See `Bus.publish`."""
        self._require_connection()
        self._deliver(Message(subject, data, _outgoing(headers, message_id) or {}))

    async def open_stream(self, stream: Stream) -> None:
        """See `Bus.open_stream`."""
        self._require_connection()
        self._streams.setdefault(stream.name, _MemoryStream(stream))

    async def stream_fill(self, stream: Stream) -> float:
        """See `Bus.stream_fill`."""
        self._require_connection()
        kept = self._streams.get(stream.name)
        return 0.0 if kept is None else kept.fill

    async def publish_durable(self, subject: str, data: bytes, message_id: str) -> Ack:
        """See `Bus.publish_durable`."""
        self._require_connection()
        for stream in self._streams.values():
            if any(_matches(pattern, subject) for pattern in stream.config.subjects):
                message = Message(subject, data, _outgoing(None, message_id) or {})
                ack, stored = stream.append(message, message_id)
                if stored is not None:
                    self._deliver(stored)
                return ack
        raise BusError(f"{subject} was not stored: no stream takes it")

    async def subscribe(self, subject: str, queue: str | None = None) -> Subscription:
        """See `Bus.subscribe`."""
        self._require_connection()
        number = next(self._numbers)

        async def close() -> None:
            self._subscriptions.pop(number, None)

        subscription = Subscription(close)
        self._subscriptions[number] = (subject, queue, subscription)
        return subscription

    async def read_stream(self, stream: Stream, subject: str = ">", start: int = 1) -> Subscription:
        """See `Bus.read_stream`."""
        return self.kept(stream).read(subject, start)

    def open_reader(self, stream: Stream, subjects: Sequence[str], start: int) -> StreamReader:
        """See `Bus.open_reader`."""
        return _MemoryReader(self, stream, tuple(subjects), start)

    async def stream_ends(self, stream: Stream) -> StreamEnds:
        """See `Bus.stream_ends`."""
        kept = self.kept(stream)
        return StreamEnds(1, len(kept.messages))

    async def stored_message(self, stream: Stream, sequence: int) -> Message | None:
        """See `Bus.stored_message`."""
        messages = self.kept(stream).messages
        return messages[sequence - 1] if 1 <= sequence <= len(messages) else None

    def kept(self, stream: Stream) -> _MemoryStream:
        """The stream; raises `BusError` when there is none, or no connection."""
        self._require_connection()
        found = self._streams.get(stream.name)
        if found is None:
            raise BusError(f"cannot read {stream.name}: there is no such stream")
        return found

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `Bus.request`."""
        self._require_connection()
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def reply(response: bytes) -> None:
            if not answer.done():
                answer.set_result(Message("_INBOX", response))

        if not self._deliver(Message(subject, data, _outgoing(headers, None) or {}, reply=reply)):
            raise NoResponders(f"nobody listens on {subject}")
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise RequestTimedOut(f"no answer on {subject} in {timeout_s:g} s") from None

    def _deliver(self, message: Message) -> bool:
        queues: dict[str, list[Subscription]] = {}
        found = False
        for pattern, queue, subscription in list(self._subscriptions.values()):
            if not _matches(pattern, message.subject):
                continue
            found = True
            if queue is None:
                subscription.push(message)
            else:
                queues.setdefault(queue, []).append(subscription)
        for members in queues.values():
            members[next(self._turn) % len(members)].push(message)
        return found

    def _require_connection(self) -> None:
        if not self.connected:
            raise NotConnected("no connection to the bus")


class _MemoryStream:
    """A stream of `MemoryBus`."""

    def __init__(self, config: Stream) -> None:
        self.config = config
        self.messages: list[Message] = []
        self._sequence_of_id: dict[str, int] = {}
        self._readers: list[tuple[str, Subscription]] = []
        self._bytes = 0
        self._appended = asyncio.Event()

    async def wait_for(self, sequence: int) -> None:
        """Until the stream has so many messages."""
        while len(self.messages) < sequence:
            self._appended.clear()
            await self._appended.wait()

    @property
    def fill(self) -> float:
        """0 to 1."""
        return self._bytes / self.config.max_bytes

    def append(self, message: Message, message_id: str) -> tuple[Ack, Message | None]:
        """Store it unless its id is known."""
        known = self._sequence_of_id.get(message_id)
        if known is not None:
            return Ack(known, duplicate=True), None
        if self._bytes + len(message.data) > self.config.max_bytes:
            raise BusError(f"{message.subject} was not stored: maximum bytes exceeded")
        self._bytes += len(message.data)
        sequence = len(self.messages) + 1
        stored = Message(message.subject, message.data, message.headers, sequence)
        self.messages.append(stored)
        self._sequence_of_id[message_id] = sequence
        self._appended.set()
        for subject, reader in self._readers:
            if _matches(subject, stored.subject):
                reader.push(stored)
        return Ack(sequence, duplicate=False), stored

    def read(self, subject: str, start: int) -> Subscription:
        """What is kept from `start` on, then what comes."""

        async def close() -> None:
            self._readers.remove(reader)

        subscription = Subscription(close)
        reader = (subject, subscription)
        self._readers.append(reader)
        for message in self.messages[start - 1 :]:
            if _matches(subject, message.subject):
                subscription.push(message)
        return subscription


class _MemoryReader:
    """A reader of a `_MemoryStream`."""

    def __init__(
        self, bus: MemoryBus, stream: Stream, subjects: tuple[str, ...], start: int
    ) -> None:
        self._bus, self._stream, self._subjects, self._next = bus, stream, subjects, start

    async def read(self, limit: int, wait_s: float) -> list[Message]:
        """See `StreamReader.read`."""
        found = self._found(limit)
        if not found:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._bus.kept(self._stream).wait_for(self._next)
            found = self._found(limit)
        return found

    async def close(self) -> None:
        """See `StreamReader.close`."""

    def _found(self, limit: int) -> list[Message]:
        found: list[Message] = []
        messages = self._bus.kept(self._stream).messages
        while self._next <= len(messages) and len(found) < limit:
            message = messages[self._next - 1]
            self._next += 1
            if any(_matches(subject, message.subject) for subject in self._subjects):
                found.append(message)
        return found


def _outgoing(headers: Mapping[str, str] | None, message_id: str | None) -> dict[str, str] | None:
    made = dict(headers or {})
    if message_id is not None:
        made[MESSAGE_ID] = message_id
    telemetry.inject(made)
    return made or None


def _incoming(message: Msg, sequence: int = 0) -> Message:
    reply = message.respond if message.reply and not sequence else None
    return Message(message.subject, message.data, dict(message.headers or {}), sequence, reply)


async def _unsubscribe(source: Any) -> None:
    with suppress(nats.errors.Error):
        await source.unsubscribe()


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


def _words(error: BaseException) -> str:
    """An error's text, or its class for those that have none."""
    return str(error) or type(error).__name__


log = structlog.get_logger(__name__)
_STREAM_NAME_IN_USE: Final = 10058

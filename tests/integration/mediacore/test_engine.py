"""Engines on loopback: a client's and a server's connect, and data and media cross."""

import asyncio
import errno
import hmac
import os
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from mediacore import (
    Binding,
    Codec,
    Connected,
    DataChannelOpened,
    DataReceived,
    EncodingStarted,
    Engine,
    EngineConfig,
    Event,
    ExtensionIds,
    LayerChanged,
    PeerConnectionConfig,
    ReceiverConfig,
    Rejected,
    RemoteTransport,
    SenderConfig,
    SourceConfig,
)

MIDS = ExtensionIds(mid=4, abs_send_time=2, transport_cc=3)
VP8 = [Codec("video/VP8", 96, 90_000, 97, nack=True, pli=True, transport_cc=True)]


class Side:
    """One engine and the events it gave so far."""

    def __init__(self, address: str, tcp: str | None = None) -> None:
        udp = [] if tcp else [Binding(address)]
        self.engine = Engine(EngineConfig(udp, [Binding(tcp)] if tcp else []))
        self.events: list[Event] = []

    def until(self, wanted: Callable[[Event], bool], seconds: float = 8) -> Event:
        """Waits by the event descriptor; the first wanted event, each given out once."""
        deadline = time.monotonic() + seconds
        while True:
            for index, event in enumerate(self.events):
                if wanted(event):
                    return self.events.pop(index)
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"it did not come; there were {self.events}")
            select.select([self.engine.event_fd()], [], [], left)
            self.events.extend(self.engine.drain())

    def counter(self, name: str) -> int:
        return self.engine.stats().counters[name]


@pytest.fixture
def side() -> Iterator[Callable[..., Side]]:
    sides: list[Side] = []

    def make(address: str = "127.0.0.1:0", tcp: str | None = None) -> Side:
        sides.append(Side(address, tcp))
        return sides[-1]

    yield make
    for one in sides:
        one.engine.close()


def connect(server: Side, client: Side, pc: int = 1) -> None:
    """Makes peer connection `pc` of the server with 1 of the client, and waits until both are up."""
    names = (f"srv{pc:04}", "s" * 24), (f"cli{pc:04}", "c" * 24)
    (server_ufrag, server_pwd), (client_ufrag, client_pwd) = names
    server.engine.create_peer_connection(pc, PeerConnectionConfig(server_ufrag, server_pwd))
    client.engine.create_peer_connection(
        1,
        PeerConnectionConfig(
            client_ufrag, client_pwd, ice_lite=False, ice_controlling=True, dtls_active=False
        ),
    )
    fingerprint = client.engine.fingerprint
    server.engine.set_remote(pc, RemoteTransport(client_ufrag, client_pwd, fingerprint))
    fingerprint = server.engine.fingerprint
    client.engine.set_remote(1, RemoteTransport(server_ufrag, server_pwd, fingerprint))
    for candidate in server.engine.candidates(server_ufrag):
        client.engine.add_remote_candidate(1, candidate)
    server.until(lambda event: isinstance(event, Connected) and event.pc == pc)
    client.until(lambda event: isinstance(event, Connected) and event.pc == 1)


def is_open(label: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, DataChannelOpened) and event.label == label


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_data_crosses_both_ways_on_both_kinds_of_channel(
    side: Callable[..., Side], address: str
) -> None:
    server, client = side(address), side(address)
    connect(server, client)
    server.engine.open_data_channel(1, "_reliable")
    server.engine.open_data_channel(1, "_lossy", ordered=False, max_retransmits=0)
    for label, reliable in (("_reliable", True), ("_lossy", False)):
        opened = client.until(is_open(label))
        assert isinstance(opened, DataChannelOpened)
        assert (opened.ordered, opened.reliable) == (reliable, reliable)
        server.until(is_open(label))
        for sender, receiver in ((server, client), (client, server)):
            sender.engine.send_data([1], label, b"\x00\xffhello", binary=True)
            sender.engine.send_data([1], label, "grüß".encode(), binary=False)
            payloads = []
            for _ in range(2):
                event = receiver.until(lambda event: isinstance(event, DataReceived))
                assert isinstance(event, DataReceived)
                assert (event.pc, event.label) == (1, label)
                payloads.append((event.payload, event.binary))
            assert sorted(payloads) == [(b"\x00\xffhello", True), ("grüß".encode(), False)]


def publish(server: Side, publisher: Side, frames_per_second: float = 30) -> None:
    """A generated video from the publisher's peer connection 1 becomes track 10 of the server."""
    source = SourceConfig("video", "video/VP8", 90_000, frames_per_second, 10, 1_000)
    publisher.engine.add_source(5, source)
    server.engine.add_receiver(1, 10, ReceiverConfig("video", "0", VP8, (), MIDS))
    publisher.engine.add_sender(1, 5, SenderConfig(5, "0", 1111, 1112, "cname", VP8, MIDS))


def subscribe(server: Side, subscriber: Side, pc: int) -> None:
    """Track 10 goes out on the server's `pc`; the subscriber reads its time stamps."""
    config = ReceiverConfig("video", "1", VP8, (), MIDS, probe=True)
    subscriber.engine.add_receiver(1, 20, config)
    sender = SenderConfig(10, "1", 2000 + pc, 3000 + pc, "cname", VP8, MIDS)
    server.engine.add_sender(pc, pc, sender)


def received(side: Side, track: int) -> int:
    return next((one.packets for one in side.engine.stats().tracks if one.track == track), 0)


def until_received(side: Side, track: int, packets: int) -> None:
    deadline = time.monotonic() + 8
    while received(side, track) < packets:
        assert time.monotonic() < deadline, side.engine.stats()
        threading.Event().wait(0.05)


def test_a_made_track_is_forwarded_to_a_second_client(side: Callable[..., Side]) -> None:
    server, publisher, subscriber = side(), side(), side()
    connect(server, publisher, 1)
    connect(server, subscriber, 2)
    publish(server, publisher)
    subscribe(server, subscriber, 2)
    started = server.until(lambda event: isinstance(event, EncodingStarted))
    assert isinstance(started, EncodingStarted)
    assert (started.track, started.mime.lower()) == (10, "video/vp8")
    changed = server.until(
        lambda event: isinstance(event, LayerChanged) and event.spatial_layer == 0
    )
    assert isinstance(changed, LayerChanged)
    assert changed.sender == 2
    until_received(subscriber, 20, 100)
    stats = subscriber.engine.stats()
    assert sum(stats.probe_latency_us) > 50
    assert next(one.lost for one in stats.tracks if one.track == 20) == 0


def test_muted_track_stops_at_the_server(side: Callable[..., Side]) -> None:
    server, publisher, subscriber = side(), side(), side()
    connect(server, publisher, 1)
    connect(server, subscriber, 2)
    publish(server, publisher)
    subscribe(server, subscriber, 2)
    until_received(subscriber, 20, 30)
    server.engine.set_track_muted(10, True)
    server.engine.stats()  # performed after it
    threading.Event().wait(1.2)  # a second of blank frames
    before, arrived = received(subscriber, 20), received(server, 10)
    until_received(server, 10, arrived + 30)
    assert received(subscriber, 20) == before


def connectivity_check(username: str, password: str) -> bytes:
    """A nominating binding request (RFC 8445 section 7.1), framed for TCP (RFC 4571)."""

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)

    def header(length: int) -> bytes:
        return struct.pack("!HHI12s", 0x0001, length, 0x2112A442, b"transaction!")

    body = attribute(0x0006, username.encode()) + attribute(0x0024, b"\x6e\x7f\xff\xff")
    body += attribute(0x802A, b"tiebreak") + attribute(0x0025, b"")
    signed = header(len(body) + 24) + body
    body += attribute(0x0008, hmac.digest(password.encode(), signed, "sha1"))
    crc = zlib.crc32(header(len(body) + 8) + body) ^ 0x5354554E
    body += attribute(0x8028, struct.pack("!I", crc))
    message = header(len(body)) + body
    return struct.pack("!H", len(message)) + message


def test_check_over_tcp_is_answered_and_dtls_begins_there(side: Callable[..., Side]) -> None:
    server = side(tcp="127.0.0.1:0")
    (candidate,) = server.engine.candidates("srvx")
    assert "tcptype passive" in candidate
    server.engine.create_peer_connection(1, PeerConnectionConfig("srvx", "s" * 24))
    remote = RemoteTransport("clix", "c" * 24, server.engine.fingerprint)
    server.engine.set_remote(1, remote)
    host, port = server.engine.tcp_addresses[0].rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as stream, stream.makefile("rb") as frames:
        stream.sendall(connectivity_check("srvx:clix", "s" * 24))

        def frame() -> bytes:
            (length,) = struct.unpack("!H", frames.read(2))
            return frames.read(length)

        kinds = {frame()[:2] for _ in range(2)}
    assert b"\x01\x01" in kinds  # binding success response
    assert any(kind[0] == 22 for kind in kinds)  # a DTLS handshake record
    assert server.counter("tcp_accepted") == 1


def test_event_descriptor_wakes_asyncio(side: Callable[..., Side]) -> None:
    one = side()

    async def first_event() -> list[Event]:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        loop.add_reader(one.engine.event_fd(), woken.set)
        one.engine.remove_sender(77)
        await asyncio.wait_for(woken.wait(), 5)
        loop.remove_reader(one.engine.event_fd())
        return one.engine.drain()

    (event,) = asyncio.run(first_event())
    assert isinstance(event, Rejected)
    assert (event.command, event.id) == ("remove_sender", 77)
    assert not select.select([one.engine.event_fd()], [], [], 0)[0]


def test_busy_port_error_names_the_address(side: Callable[..., Side]) -> None:
    busy = side().engine.udp_addresses[0]
    with pytest.raises(OSError, match=busy) as caught:
        Engine(EngineConfig([Binding(busy)]))
    assert caught.value.errno == errno.EADDRINUSE


def test_candidates_tell_the_advertised_address(side: Callable[..., Side]) -> None:
    engine = Engine(EngineConfig([Binding("127.0.0.1:0", "203.0.113.5:30000")]))
    (candidate,) = engine.candidates("abcd")
    engine.close()
    assert "203.0.113.5 30000 typ host" in candidate
    assert "127.0.0.1" not in candidate


def test_a_closed_engine_refuses_commands_and_closes_again() -> None:
    engine = Engine(EngineConfig([Binding("127.0.0.1:0")]))
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.close_peer_connection(1)
    with pytest.raises(RuntimeError, match="closed"):
        engine.candidates("abcd")
    assert engine.drain() == []
    assert engine.stats().counters == {"engine_panics": 0}


def test_two_hundred_engines_leave_neither_threads_nor_descriptors() -> None:
    config = EngineConfig([Binding("127.0.0.1:0"), Binding("[::1]:0")], [Binding("127.0.0.1:0")])
    Engine(config).close()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for _ in range(200):
        engine = Engine(config)
        engine.create_peer_connection(1, PeerConnectionConfig("abcd", "p" * 24))
        engine.close()
        del engine
    after = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    assert after == before


def test_exporting_an_unknown_peer_connection_is_a_key_error(side: Callable[..., Side]) -> None:
    with pytest.raises(KeyError, match="77"):
        side().engine.export_peer_connection(77)


def test_rejected_commands_come_back_as_events(side: Callable[..., Side]) -> None:
    one = side()
    config = PeerConnectionConfig("abcd", "p" * 24)
    one.engine.create_peer_connection(1, config)
    one.engine.create_peer_connection(1, config)
    event = one.until(lambda event: isinstance(event, Rejected))
    assert isinstance(event, Rejected)
    assert (event.command, event.id) == ("create_peer_connection", 1)
    assert "p" * 24 not in repr(event)

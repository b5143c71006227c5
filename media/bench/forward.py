"""Measures the engine thread's CPU time per forwarded packet on loopback: one publisher, many subscribers.

The clients live in a process of their own, each with its own engine and socket, as browsers would. Run it as
`python media/bench/forward.py [subscribers] [packets in a burst] [seconds]` on a release build.
"""

import multiprocessing
import multiprocessing.connection
import sys
import time

from mediacore import (
    Binding,
    Codec,
    Connected,
    Engine,
    EngineConfig,
    ExtensionIds,
    PeerConnectionConfig,
    ReceiverConfig,
    RemoteTransport,
    SenderConfig,
    SourceConfig,
)

MIDS = ExtensionIds(mid=4, abs_send_time=2, transport_cc=3)
VP8 = [Codec("video/VP8", 96, 90_000, 97, nack=True, pli=True, transport_cc=True)]
PACKETS_PER_SECOND = 300
PAYLOAD_BYTES = 1_100
SERVER_PWD, CLIENT_PWD = "s" * 24, "c" * 24


def clients(pipe: multiprocessing.connection.Connection, count: int, burst: int) -> None:
    """Client 0 publishes, the others subscribe; told what to do through the pipe."""
    engines = [Engine(EngineConfig([Binding("127.0.0.1:0")])) for _ in range(count)]
    pipe.send([engine.fingerprint for engine in engines])
    fingerprint, candidates = pipe.recv()
    for number, engine in enumerate(engines):
        config = PeerConnectionConfig(f"cli{number:04}", CLIENT_PWD, False, True, False)
        engine.create_peer_connection(1, config)
        engine.set_remote(1, RemoteTransport(f"srv{number:04}", SERVER_PWD, fingerprint))
        for candidate in candidates:
            engine.add_remote_candidate(
                1, candidate.replace("ufrag srv0000", f"ufrag srv{number:04}")
            )
        if number:
            receiver = ReceiverConfig("video", "1", VP8, (), MIDS, probe=True)
            engine.add_receiver(1, 20, receiver)
    pipe.recv()
    frames = PACKETS_PER_SECOND / burst
    engines[0].add_source(
        5, SourceConfig("video", "video/VP8", 90_000, frames, burst, PAYLOAD_BYTES)
    )
    engines[0].add_sender(1, 5, SenderConfig(5, "0", 1111, 1112, "cname", VP8, MIDS))
    while pipe.recv() == "count":
        tracks = [track for engine in engines[1:] for track in engine.stats().tracks]
        pipe.send((sum(track.packets for track in tracks), sum(track.lost for track in tracks)))
    for engine in engines:
        engine.close()


def measure(subscribers: int, burst: int, seconds: float) -> dict[str, float]:
    """Counters of the server's engine over the window, and what the subscribers received."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=clients, args=(theirs, subscribers + 1, burst)
    )
    process.start()
    server = Engine(EngineConfig([Binding("127.0.0.1:0")]))
    for number, fingerprint in enumerate(ours.recv()):
        server.create_peer_connection(number, PeerConnectionConfig(f"srv{number:04}", SERVER_PWD))
        server.set_remote(number, RemoteTransport(f"cli{number:04}", CLIENT_PWD, fingerprint))
    ours.send((server.fingerprint, server.candidates("srv0000")))
    up: set[int] = set()
    while len(up) <= subscribers:
        time.sleep(0.05)
        up.update(event.pc for event in server.drain() if isinstance(event, Connected))
    server.add_receiver(0, 10, ReceiverConfig("video", "0", VP8, (), MIDS))
    for number in range(1, subscribers + 1):
        sender = SenderConfig(10, "1", 2000 + number, 3000 + number, "cname", VP8, MIDS)
        server.add_sender(number, number, sender)
    ours.send("go")
    time.sleep(2)

    def snapshot() -> dict[str, float]:
        ours.send("count")
        packets, lost = ours.recv()
        return {**server.stats().counters, "received": packets, "lost": lost}

    before = snapshot()
    time.sleep(seconds)
    after = snapshot()
    ours.send("end")
    process.join()
    server.close()
    return {name: after[name] - before.get(name, 0) for name in after}


def main() -> None:
    """Prints one window's figures."""
    subscribers, burst = (
        int(value) for value in (sys.argv[1:3] + ["40", "10"][len(sys.argv) - 1 :])
    )
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
    window = measure(subscribers, burst, seconds)
    per_packet = window["engine_cpu_us"] / max(window["received"], 1)
    lines = [
        f"{per_packet:.2f} us CPU per forwarded packet, {window['received'] / seconds:.0f} packets/s"
    ]
    lines += [f"{name} {value:.0f}" for name, value in sorted(window.items()) if value]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

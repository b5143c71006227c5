"""The node's media as metrics: totals outlive their tracks, and nothing is counted twice."""

from dataclasses import dataclass, field

import pytest

from chassis.telemetry import Metrics
from sfu.core import media_commands as commands
from sfu.media_metrics import CountedMedia
from sfu.metrics import SfuMetrics


@dataclass
class Track:
    track: int
    packets: int = 0
    bytes: int = 0
    lost: int = 0
    jitter: float = 0.0
    nacks_sent: int = 0
    keyframe_requests_sent: int = 0


@dataclass
class Sender:
    sender: int
    packets: int = 0
    bytes: int = 0
    retransmitted: int = 0
    nacks_received: int = 0
    keyframe_requests_received: int = 0
    fraction_lost: float = 0.0
    rtt: float | None = None


@dataclass
class Snapshot:
    tracks: list[Track] = field(default_factory=list)
    senders: list[Sender] = field(default_factory=list)


@dataclass
class Engine:
    performed: list[commands.Command] = field(default_factory=list)

    def perform(self, command: commands.Command) -> None:
        self.performed.append(command)


class Counted:
    """A node's media with its metrics."""

    def __init__(self) -> None:
        self.metrics = Metrics({"node_id": "ND_x"})
        self.engine = Engine()
        self.media = CountedMedia(self.engine, SfuMetrics(self.metrics))

    def shown(self, name: str) -> dict[str, float]:
        """Samples of a metric, by what is between the braces after the node's id."""
        found = {}
        for line in self.metrics.render().splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                sample, _, value = line.rpartition(" ")
                labels = sample.partition("{")[2].removesuffix("}")
                found[labels.removeprefix('node_id="ND_x"').lstrip(",")] = float(value)
        return found


@pytest.fixture
def counted() -> Counted:
    return Counted()


def publish(counted: Counted, pc: int, track: int, kind: str) -> None:
    config = commands.ReceiverConfig(kind=kind, mid="0", codecs=())  # type: ignore[arg-type]
    counted.media.perform(commands.AddReceiver(pc, track, config))


def subscribe(counted: Counted, pc: int, sender: int, track: int) -> None:
    config = commands.SenderConfig(
        track=track, mid="0", ssrc=1, rtx_ssrc=None, cname="c", codecs=()
    )
    counted.media.perform(commands.AddSender(pc, sender, config))


def test_tracks_are_counted_by_kind_until_they_end(counted: Counted) -> None:
    publish(counted, 1, 10, "audio")
    publish(counted, 1, 11, "video")
    subscribe(counted, 2, 20, 11)
    assert counted.shown("livekit_track_published_total") == {'kind="AUDIO"': 1, 'kind="VIDEO"': 1}
    assert counted.shown("livekit_track_subscribed_total")['kind="VIDEO"'] == 1
    counted.media.perform(commands.RemoveSender(20))
    counted.media.perform(commands.ClosePeerConnection(1))
    assert set(counted.shown("livekit_track_published_total").values()) == {0}
    assert set(counted.shown("livekit_track_subscribed_total").values()) == {0}
    assert len(counted.engine.performed) == 5, "everything reached the engine"


def test_totals_of_tracks_become_totals_of_the_node(counted: Counted) -> None:
    publish(counted, 1, 10, "video")
    counted.media.take(Snapshot([Track(10, packets=100, bytes=9000, lost=5, nacks_sent=2)]))
    counted.media.take(Snapshot([Track(10, packets=150, bytes=9900, lost=3, nacks_sent=2)]))
    counted.media.take(Snapshot([Track(12, packets=7)]))
    incoming = 'direction="incoming",transmission="initial"'
    assert counted.shown("livekit_packet_total") == {incoming: 157}
    assert counted.shown("livekit_packet_bytes") == {incoming: 9900}
    lost = counted.shown("livekit_packet_loss_total")
    assert lost == {'direction="incoming",type="VIDEO"': 5}, "late packets take nothing back"
    assert counted.shown("livekit_nack_total") == {'direction="outgoing"': 2}


def test_senders_show_repairs_loss_and_round_trip(counted: Counted) -> None:
    publish(counted, 1, 10, "video")
    subscribe(counted, 2, 20, 10)
    row = Sender(20, packets=90, retransmitted=4, nacks_received=6, fraction_lost=0.5, rtt=0.03)
    row.keyframe_requests_received = 1
    counted.media.take(Snapshot(senders=[row]))
    counted.media.take(Snapshot(senders=[row]))  # nothing was sent since
    assert counted.shown("livekit_packet_total") == {
        'direction="outgoing",transmission="initial"': 90,
        'direction="outgoing",transmission="retransmit"': 4,
    }
    assert counted.shown("livekit_nack_total") == {'direction="incoming"': 6}
    assert counted.shown("livekit_pli_total") == {'direction="incoming"': 1}
    stream = 'direction="outgoing",type="VIDEO"'
    assert counted.shown("livekit_rtt_ms_sum") == {stream: 30}
    assert counted.shown("livekit_packet_loss_percent_sum") == {stream: 50}
    assert counted.shown("livekit_rtt_ms_count") == {stream: 1}


def test_data_packets_are_counted_with_size_and_receivers(counted: Counted) -> None:
    counted.media.perform(commands.SendData((1, 2, 3), "_reliable", b"x" * 100))
    assert counted.shown("livekit_datapacket_stream_dest_count_sum") == {"": 3}
    assert counted.shown("livekit_datapacket_stream_bytes_sum") == {"": 100}


def test_peer_connections_are_counted(counted: Counted) -> None:
    for pc in (1, 2):
        counted.media.perform(commands.CreatePeerConnection(pc, "u", "p"))
    counted.media.perform(commands.ClosePeerConnection(1))
    assert counted.shown("roomwright_sfu_peer_connections") == {"": 1}

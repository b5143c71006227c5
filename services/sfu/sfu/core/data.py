"""Data packets between participants: what is stamped, dropped, and to whom the rest goes.

One SCTP message is one livekit.DataPacket. The sender's identity and sid are written by the
server, never believed; the sequence is left alone, since receivers tell duplicates by it. Nothing
is reordered within a sender. Server-made packets (SendData) come through `address` only.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from livekit.protocol import metrics, models

RELIABLE_LABEL: Final = "_reliable"
LOSSY_LABEL: Final = "_lossy"
DATA_TRACK_LABEL: Final = "_data_track"

MAX_MESSAGE_BYTES = 65_535
HELD_BYTES = 100_000
HELD_SECONDS = 2.0
NONCE_BYTES = 16
NONCES_REMEMBERED = 100
MAX_TIMESTAMP_MS = 253_402_300_799_999  # the year 9999, where protobuf's time ends


@dataclass(frozen=True, slots=True)
class Sender:
    """The participant a packet came from, as far as data is concerned."""

    sid: str
    identity: str
    is_hidden: bool
    is_agent: bool


@dataclass(frozen=True, slots=True)
class Addressed:
    """A packet ready to go out, the same bytes for every recipient."""

    payload: bytes
    is_reliable: bool
    sequence: int
    identities: frozenset[str]  # with `sids` empty: everyone but the sender
    sids: frozenset[str]
    answered_request: str = ""  # id of the RPC request that an rpc_ack or rpc_response is for
    is_metrics: bool = False

    def is_for(self, identity: str, sid: str) -> bool:
        """Whether a participant other than the sender gets it."""
        if not self.identities and not self.sids:
            return True
        return identity in self.identities or sid in self.sids


@dataclass(frozen=True, slots=True)
class Dropped:
    """A packet that goes nowhere; `reason` is a metric's label."""

    reason: str


class DataGate:
    """Admits the packets of one room's local senders: stamps them, drops repeats."""

    def __init__(self) -> None:
        self._nonces: deque[bytes] = deque(maxlen=NONCES_REMEMBERED)

    def admit(
        self,
        payload: bytes,
        sender: Sender,
        *,
        is_reliable: bool,
        last_sequence: int,
        wall_ms: int,
    ) -> Addressed | Dropped:
        """The stamped packet, or why it goes nowhere."""
        if len(payload) > MAX_MESSAGE_BYTES:
            return Dropped("too_large")
        packet = models.DataPacket()
        try:
            packet.ParseFromString(payload)
        except DecodeError:
            return Dropped("malformed")
        value = packet.WhichOneof("value")
        if value is None or value == "speaker":
            return Dropped("not_forwarded")
        if value == "transcription" and not sender.is_agent:
            return Dropped("not_an_agent")
        if is_reliable and 0 < packet.sequence <= last_sequence:
            return Dropped("duplicate")
        if value == "user" and self._is_repeated_nonce(packet.user.nonce):
            return Dropped("duplicate")
        if value == "metrics":
            normalize_times(packet.metrics, wall_ms)
        _stamp(packet, sender, is_reliable=is_reliable)
        return address(packet, is_reliable=is_reliable)

    def _is_repeated_nonce(self, nonce: bytes) -> bool:
        if len(nonce) != NONCE_BYTES:
            return False
        if nonce in self._nonces:
            return True
        self._nonces.append(nonce)
        return False


def address(packet: models.DataPacket, *, is_reliable: bool) -> Addressed:
    """Merge both lists of destinations and serialize."""
    identities = set(packet.destination_identities)
    sids: set[str] = set()
    if packet.WhichOneof("value") == "user":
        identities |= set(packet.user.destination_identities)
        sids = set(packet.user.destination_sids)
        packet.user.destination_identities[:] = sorted(identities)
    packet.destination_identities[:] = sorted(identities)
    return Addressed(
        packet.SerializeToString(),
        is_reliable,
        packet.sequence,
        frozenset(identities),
        frozenset(sids),
        _answered_request(packet),
        packet.HasField("metrics"),
    )


def normalize_times(batch: metrics.MetricsBatch, wall_ms: int) -> None:
    """Say of every sample and event when it was by our clock, whatever the sender's clock says."""
    ahead_ms = wall_ms - batch.timestamp_ms

    def write(timestamp: Timestamp, sender_ms: int) -> None:
        millis = min(max(sender_ms + ahead_ms, 0), MAX_TIMESTAMP_MS)
        timestamp.FromMilliseconds(millis)

    write(batch.normalized_timestamp, batch.timestamp_ms)
    for series in batch.time_series:
        for sample in series.samples:
            write(sample.normalized_timestamp, sample.timestamp_ms)
    for event in batch.events:
        write(event.normalized_start_timestamp, event.start_timestamp_ms)
        if event.HasField("end_timestamp_ms"):
            write(event.normalized_end_timestamp, event.end_timestamp_ms)


class HeldPackets:
    """Reliable packets for one recipient that has joined but whose channels are not open yet.

    Sequenced ones are kept for 2 s, all together at most 100 kB; the oldest go first.
    """

    def __init__(self) -> None:
        self._packets: deque[tuple[float, bool, bytes]] = deque()
        self._bytes = 0

    def hold(self, packet: Addressed, now: float) -> None:
        """Keep a packet, dropping the oldest beyond the limit."""
        self._packets.append((now, packet.sequence > 0, packet.payload))
        self._bytes += len(packet.payload)
        while self._bytes > HELD_BYTES:
            self._bytes -= len(self._packets.popleft()[2])

    def release(self, now: float) -> list[bytes]:
        """Everything still worth sending, in the order it came; nothing is held afterwards."""
        kept = [
            payload
            for held_at, is_sequenced, payload in self._packets
            if not is_sequenced or now - held_at <= HELD_SECONDS
        ]
        self._packets.clear()
        self._bytes = 0
        return kept


def _stamp(packet: models.DataPacket, sender: Sender, *, is_reliable: bool) -> None:
    packet.kind = models.DataPacket.RELIABLE if is_reliable else models.DataPacket.LOSSY
    identity = "" if sender.is_hidden else sender.identity
    claimed = packet.participant_identity
    packet.participant_sid = "" if sender.is_hidden else sender.sid
    packet.participant_identity = identity
    match packet.WhichOneof("value"):
        case "user":
            packet.user.participant_sid = packet.participant_sid
            packet.user.participant_identity = identity
        case "chat_message" if _speaks_for(sender, claimed):
            packet.participant_identity = claimed
            packet.chat_message.generated = True
        case "stream_header" if _speaks_for(sender, claimed):
            # Agents publish transcripts in the name of the user who spoke.
            if packet.stream_header.WhichOneof("content_header") == "text_header":
                packet.participant_identity = claimed
                packet.stream_header.text_header.generated = True
        case _:
            pass


def _answered_request(packet: models.DataPacket) -> str:
    match packet.WhichOneof("value"):
        case "rpc_ack":
            return packet.rpc_ack.request_id
        case "rpc_response":
            return packet.rpc_response.request_id
        case _:
            return ""


def _speaks_for(sender: Sender, claimed: str) -> bool:
    return sender.is_agent and claimed not in {"", sender.identity}

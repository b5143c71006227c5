"""Data packets: stamped with the sender, never repeated, held for who is not open yet."""

import pytest
from livekit.protocol import metrics, models, rtc

from sfu.core.data import (
    HELD_SECONDS,
    MAX_MESSAGE_BYTES,
    Addressed,
    DataGate,
    Dropped,
    HeldPackets,
    Sender,
    address,
)
from sfu.core.media_commands import SendData
from sfu.core.media_events import (
    SEND_BUFFER_FULL,
    Connected,
    DataChannelOpened,
    DataReceived,
    Rejected,
)
from tests.support.scripted_room import WALL_MS, Client, World

ALICE = Sender("PA_a", "alice", is_hidden=False, is_agent=False)


def admit(
    packet: models.DataPacket, sender: Sender = ALICE, *, reliable: bool = True, last: int = 0
) -> models.DataPacket | None:
    admitted = DataGate().admit(
        packet.SerializeToString(),
        sender,
        is_reliable=reliable,
        last_sequence=last,
        wall_ms=WALL_MS,
    )
    if isinstance(admitted, Dropped):
        return None
    return models.DataPacket.FromString(admitted.payload)


def test_sender_is_written_by_the_server() -> None:
    forged = models.DataPacket(
        participant_identity="bob",
        participant_sid="PA_bob",
        kind=models.DataPacket.LOSSY,
        sequence=4,
        user=models.UserPacket(payload=b"x", participant_identity="bob"),
    )
    packet = admit(forged)
    assert packet is not None
    assert (packet.participant_identity, packet.participant_sid) == ("alice", "PA_a")
    assert packet.user.participant_identity == "alice"
    assert packet.kind == models.DataPacket.RELIABLE
    assert packet.sequence == 4


def test_hidden_sender_stays_unnamed() -> None:
    hidden = Sender("PA_h", "hidden", is_hidden=True, is_agent=False)
    packet = admit(models.DataPacket(user=models.UserPacket(payload=b"x")), hidden)
    assert packet is not None
    assert (packet.participant_identity, packet.participant_sid) == ("", "")


def test_agent_may_speak_for_another_and_is_marked() -> None:
    agent = Sender("PA_g", "agent", is_hidden=False, is_agent=True)
    header = models.DataStream.Header(text_header=models.DataStream.TextHeader())
    claimed = models.DataPacket(participant_identity="alice", stream_header=header)
    packet = admit(claimed, agent)
    assert packet is not None
    assert packet.participant_identity == "alice"
    assert packet.stream_header.text_header.generated
    refused = admit(claimed, Sender("PA_b", "bob", is_hidden=False, is_agent=False))
    assert refused is not None
    assert refused.participant_identity == "bob"


@pytest.mark.parametrize(
    "packet",
    [
        models.DataPacket(),
        models.DataPacket(speaker=models.ActiveSpeakerUpdate()),
        models.DataPacket(transcription=models.Transcription()),
        models.DataPacket(sequence=3, user=models.UserPacket(payload=b"again")),
    ],
)
def test_packets_that_go_nowhere(packet: models.DataPacket) -> None:
    assert admit(packet, last=3) is None


def test_junk_and_oversize_are_dropped() -> None:
    gate = DataGate()
    junk = gate.admit(b"\xff\xff", ALICE, is_reliable=True, last_sequence=0, wall_ms=WALL_MS)
    assert junk == Dropped("malformed")
    large = b"x" * (MAX_MESSAGE_BYTES + 1)
    oversize = gate.admit(large, ALICE, is_reliable=True, last_sequence=0, wall_ms=WALL_MS)
    assert oversize == Dropped("too_large")


def test_lossy_packets_are_not_subject_to_sequences() -> None:
    packet = models.DataPacket(sequence=1, user=models.UserPacket(payload=b"x"))
    assert admit(packet, reliable=False, last=5) is not None


def test_repeated_nonce_is_dropped() -> None:
    gate = DataGate()
    packet = models.DataPacket(user=models.UserPacket(payload=b"x", nonce=b"n" * 16))
    raw = packet.SerializeToString()
    first = gate.admit(raw, ALICE, is_reliable=True, last_sequence=0, wall_ms=WALL_MS)
    assert isinstance(first, Addressed)
    again = gate.admit(raw, ALICE, is_reliable=True, last_sequence=0, wall_ms=WALL_MS)
    assert again == Dropped("duplicate")


def test_both_lists_of_destinations_count() -> None:
    packet = models.DataPacket(
        destination_identities=["b"],
        user=models.UserPacket(destination_identities=["c"], destination_sids=["PA_d"]),
    )
    addressed = address(packet, is_reliable=True)
    assert addressed.is_for("b", "PA_b")
    assert addressed.is_for("c", "PA_c")
    assert addressed.is_for("d", "PA_d")
    assert not addressed.is_for("e", "PA_e")


def held(size: int, sequence: int) -> Addressed:
    return Addressed(b"x" * size, True, sequence, frozenset(), frozenset())


def test_held_packets_expire_and_are_bounded() -> None:
    packets = HeldPackets()
    packets.hold(held(1, 1), now=0)
    packets.hold(held(2, 0), now=0)
    packets.hold(held(3, 2), now=HELD_SECONDS)
    assert [len(payload) for payload in packets.release(HELD_SECONDS + 1)] == [2, 3]
    assert packets.release(HELD_SECONDS + 1) == []
    for sequence in range(1, 5):
        packets.hold(held(40_000, sequence), now=0)
    assert len(packets.release(0)) == 2


def user_packet(sequence: int = 0, **fields: object) -> models.DataPacket:
    return models.DataPacket(
        sequence=sequence,
        user=models.UserPacket(payload=b"hi"),
        **fields,  # type: ignore[arg-type]
    )


def trio(world: World) -> tuple[Client, Client, Client]:
    return tuple(world.join(name, connect=True) for name in "abc")  # type: ignore[return-value]


def test_packet_reaches_everyone_but_its_sender_once_serialized(world: World) -> None:
    a, b, c = trio(world)
    a.data(user_packet(sequence=1))
    sent = world.told(SendData)
    assert len(sent) == 1
    assert set(sent[0].pcs) == {b.primary, c.primary}
    assert sent[0].label == "_reliable"


def test_destinations_limit_the_recipients(world: World) -> None:
    a, b, _ = trio(world)
    a.data(user_packet(destination_identities=["b", "nobody"]), label="_lossy")
    assert world.told(SendData)[-1].pcs == (b.primary,)
    assert world.told(SendData)[-1].label == "_lossy"


def test_repeated_reliable_packet_is_dropped_and_resume_tells_the_last(world: World) -> None:
    a, _, _ = trio(world)
    for sequence in (1, 2, 2, 1):
        a.data(user_packet(sequence=sequence))
    assert len(world.told(SendData)) == 2
    again = world.resume(a)
    reconnect = again.inbox[0].reconnect
    assert reconnect.last_message_seq == 2


def test_who_may_not_send_data_is_not_heard(world: World) -> None:
    world.join("b", connect=True)
    a = world.join("a", connect=True, grant={"canPublishData": False})
    a.data(user_packet())
    assert world.told(SendData) == []
    assert world.dropped == ["not_allowed"]


def test_reliable_packets_wait_for_the_channels_of_a_joining_participant(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b")
    for sequence in (1, 2):
        a.data(user_packet(sequence=sequence))
    a.data(user_packet(), label="_lossy")
    assert world.told(SendData) == []
    world.media(Connected(b.primary))
    world.media(DataChannelOpened(b.primary, "_reliable", True, True))
    assert world.told(SendData) == []
    world.media(DataChannelOpened(b.primary, "_lossy", False, False))
    sequences = [
        models.DataPacket.FromString(command.payload).sequence for command in world.told(SendData)
    ]
    assert sequences == [1, 2]


def test_other_labels_carry_raw_user_payload(world: World) -> None:
    a, b, _ = trio(world)
    world.media(DataReceived(a.pcs["publisher"], "chat", b"raw", False))
    sent = world.told(SendData)[-1]
    assert b.primary in sent.pcs
    assert models.DataPacket.FromString(sent.payload).user.payload == b"raw"


def test_single_mode_data_goes_back_on_the_same_connection(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", single=True, connect=True)
    a.data(user_packet())
    assert world.told(SendData)[-1].pcs == (b.pcs["publisher"],)
    assert rtc.SignalTarget.PUBLISHER == 0


# ------------------------------------------------------------------------------- slow readers


def test_who_does_not_read_reliable_data_begins_anew_and_others_notice_nothing(
    world: World,
) -> None:
    a, b, c = trio(world)
    pc = b.primary
    world.media(Rejected("send_data", pc, "data channel closed"))
    assert b.closed is None
    for _ in range(2):
        world.media(Rejected("send_data", pc, SEND_BUFFER_FULL))
    leave = b.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.RECONNECT
    assert leave.reason == models.DisconnectReason.STATE_MISMATCH
    assert world.dropped == ["slow_reader"]
    assert not b.is_present
    a.data(user_packet(sequence=1))
    assert world.told(SendData)[-1].pcs == (c.primary,)


# ------------------------------------------------------------------- late joiners, exactly once


def sequences_to(world: World, pc: int) -> list[int]:
    return [
        models.DataPacket.FromString(command.payload).sequence
        for command in world.told(SendData)
        if pc in command.pcs
    ]


@pytest.mark.parametrize("single", [True, False])
def test_a_joiner_gets_each_reliable_packet_once_and_in_order(world: World, single: bool) -> None:
    a = world.join("a", connect=True)
    a.data(user_packet(sequence=1))
    b = world.join("b", single=single)
    a.data(user_packet(sequence=2))
    world.media(Connected(b.primary))
    a.data(user_packet(sequence=3))
    world.media(DataChannelOpened(b.primary, "_lossy", False, False))
    a.data(user_packet(sequence=4))
    a.data(user_packet(sequence=3))  # sent again by a's client, as after a resume
    world.media(DataChannelOpened(b.primary, "_reliable", True, True))
    a.data(user_packet(sequence=5))
    world.media(Connected(b.primary))
    a.data(user_packet(sequence=6))
    assert sequences_to(world, b.primary) == [2, 3, 4, 5, 6]


def test_a_resume_repeats_nothing_and_loses_nothing(world: World) -> None:
    a, b, _ = trio(world)
    for sequence in (1, 2):
        a.data(user_packet(sequence=sequence))
    world.drop(b)
    a.data(user_packet(sequence=3))
    b = world.resume(b)
    a = world.resume(a)
    for sequence in (3, 4):
        a.data(user_packet(sequence=sequence))
    assert sequences_to(world, b.primary) == [1, 2, 3, 4]


# -------------------------------------------------------------------------------- each by kind


def test_metrics_reach_only_who_may_see_them_and_get_something_of_the_sender(world: World) -> None:
    grant: dict[str, object] = {"canSubscribeMetrics": True}
    a = world.join("a", connect=True, grant=grant)
    world.join("b", connect=True, grant=grant)  # subscribed to nothing of a
    world.join("c", connect=True)
    batch = metrics.MetricsBatch(timestamp_ms=5_000)
    series = batch.time_series.add()
    series.samples.add(timestamp_ms=4_000, value=1.0)
    a.data(models.DataPacket(metrics=batch), label="_lossy")
    (sent,) = world.told(SendData)
    assert sent.pcs == (a.primary,)
    passed = models.DataPacket.FromString(sent.payload).metrics
    assert passed.normalized_timestamp.ToMilliseconds() == world.wall_ms
    sample = passed.time_series[0].samples[0]
    assert sample.normalized_timestamp.ToMilliseconds() == world.wall_ms - 1_000
    assert sample.timestamp_ms == 4_000


@pytest.mark.parametrize("millis", [-(2**63), -1, 0, 2**63 - 1])
def test_times_of_any_clock_are_written_within_bounds(millis: int) -> None:
    batch = metrics.MetricsBatch(timestamp_ms=-millis if millis > -(2**63) else millis)
    batch.events.add(start_timestamp_ms=millis, end_timestamp_ms=millis)
    assert admit(models.DataPacket(metrics=batch)) is not None


@pytest.mark.parametrize(
    "value",
    [
        {"sip_dtmf": models.SipDTMF(code=1)},
        {"chat_message": models.ChatMessage(message="hi")},
        {"stream_header": models.DataStream.Header(stream_id="s")},
        {"stream_chunk": models.DataStream.Chunk(stream_id="s")},
        {"stream_trailer": models.DataStream.Trailer(stream_id="s")},
        {"rpc_request": models.RpcRequest(id="r")},
        {"rpc_ack": models.RpcAck(request_id="r")},
        {"rpc_response": models.RpcResponse(request_id="r")},
        {"encrypted_packet": models.EncryptedPacket(encrypted_value=b"secret")},
    ],
)
def test_other_kinds_are_forwarded_as_they_are(value: dict[str, object]) -> None:
    (kind, sent), *_ = value.items()
    packet = admit(models.DataPacket(**value))  # type: ignore[arg-type]
    assert packet is not None
    assert getattr(packet, kind) == sent
    assert packet.participant_identity == "alice"


def test_transcription_of_an_agent_is_forwarded() -> None:
    agent = Sender("PA_g", "agent", is_hidden=False, is_agent=True)
    assert admit(models.DataPacket(transcription=models.Transcription()), agent) is not None

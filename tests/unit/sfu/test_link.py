"""The room link: exactly once and in order over any cuts; lost memory and stale epochs."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.node.v1 import node_pb2
from sfu.core import link


class Pair:
    """Two ends and the frames in flight between them."""

    def __init__(self, **limits: int) -> None:
        self.ends = [self.make(1, **limits), self.make(2, **limits)]
        self.wires: list[deque[tuple[int, node_pb2.RoomLinkFrame]]] = [deque(), deque()]
        self.delivered: list[list[bytes]] = [[], []]
        self.lost: list[list[str]] = [[], []]
        self.connection = 0
        self.now = 0.0

    @staticmethod
    def make(incarnation: int, epoch: int = 1, **limits: int) -> link.LinkEnd:
        return link.LinkEnd("r", "RM_1", epoch, "ND_b", incarnation, **limits)

    def feed(self, end: int, event: link.Event) -> None:
        for effect in self.ends[end].handle(event, self.now):
            match effect:
                case link.SendFrame(connection, frame):
                    self.wires[1 - end].append((connection, frame))
                case link.Deliver(message):
                    self.delivered[end].append(message)
                case link.Resynchronize(reason):
                    self.lost[end].append(reason)
                case link.CloseConnection():
                    self.cut()
                case link.Superseded():
                    raise AssertionError("no other epoch in this pair")

    def send(self, end: int, message: bytes) -> None:
        self.feed(end, link.Submitted(message))

    def connect(self) -> None:
        self.cut()
        self.connection += 1
        for end in (0, 1):
            self.feed(end, link.Connected(self.connection))

    def cut(self) -> None:
        for end in (0, 1):
            self.wires[end].clear()
            self.feed(end, link.Disconnected(self.connection))

    def carry(self, end: int, count: int) -> None:
        for _ in range(min(count, len(self.wires[end]))):
            connection, frame = self.wires[end].popleft()
            copy = node_pb2.RoomLinkFrame.FromString(frame.SerializeToString())
            self.feed(end, link.FrameArrived(connection, copy))

    def settle(self) -> None:
        for _ in range(20):
            self.now += 1.0
            for end in (0, 1):
                self.feed(end, link.Ticked())
            while any(self.wires):
                for end in (0, 1):
                    self.carry(end, len(self.wires[end]))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("carry"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.sampled_from(["cut", "connect", "tick"]), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS)
def test_any_cut_and_replay_delivers_exactly_once_in_order(
    steps: list[tuple[str, int, int]],
) -> None:
    pair = Pair()
    sent: list[list[bytes]] = [[], []]
    for number, (step, end, count) in enumerate(steps):
        match step:
            case "send":
                sent[end].append(str(number).encode())
                pair.send(end, sent[end][-1])
            case "carry":
                pair.carry(end, count)
            case "cut":
                pair.cut()
            case "connect":
                pair.connect()
            case "tick":
                pair.now += 1.0
                for each in (0, 1):
                    pair.feed(each, link.Ticked())
    pair.connect()
    pair.settle()
    assert pair.delivered == [sent[1], sent[0]]
    assert pair.lost == [[], []]
    assert [end.waiting for end in pair.ends] == [0, 0]


def test_nothing_is_sent_twice_over_a_live_connection() -> None:
    pair = Pair()
    pair.connect()
    pair.settle()
    pair.send(0, b"a")
    assert [frame.numbered.message for _, frame in pair.wires[1]] == [b"a"]


def test_overflow_while_cut_resynchronizes_both_ends_and_goes_on() -> None:
    pair = Pair(buffer_messages=4)
    pair.connect()
    pair.settle()
    pair.cut()
    for number in range(10):
        pair.send(0, b"%d" % number)
    pair.connect()
    pair.settle()
    assert len(pair.lost[0]) == len(pair.lost[1]) == 1
    assert pair.delivered[1] == [b"6", b"7", b"8", b"9"]
    pair.send(0, b"after")
    pair.settle()
    assert pair.delivered[1][-1] == b"after"
    assert len(pair.lost[0]) == len(pair.lost[1]) == 1


def test_an_end_that_acknowledges_too_slowly_is_reconnected() -> None:
    pair = Pair(buffer_messages=4)
    pair.connect()
    pair.settle()
    for number in range(5):
        pair.send(0, b"%d" % number)
    assert not pair.ends[0].is_connected


def test_lost_memory_resynchronizes_the_other_end_only() -> None:
    pair = Pair()
    pair.connect()
    pair.send(0, b"before")
    pair.settle()
    pair.ends[1] = Pair.make(3)
    pair.send(0, b"unacknowledged or new")
    pair.connect()
    pair.settle()
    assert pair.lost == [["the other end lost its memory"], []]
    pair.send(1, b"hello again")
    pair.settle()
    assert pair.delivered[0] == [b"hello again"]
    assert pair.delivered[1] == [b"before", b"unacknowledged or new"]


def test_a_stale_epoch_is_refused_and_the_stale_end_learns_of_it() -> None:
    old, new = Pair.make(1, epoch=4), Pair.make(2, epoch=5)
    (hello_old,) = old.handle(link.Connected(1), 0.0)
    (hello_new,) = new.handle(link.Connected(1), 0.0)
    assert isinstance(hello_old, link.SendFrame)
    assert isinstance(hello_new, link.SendFrame)
    refusal = new.handle(link.FrameArrived(1, hello_old.frame), 0.0)
    reason = "stale epoch 4, the room is at 5"
    assert refusal == [link.CloseConnection(1, reason, refused=True)]
    told = old.handle(link.FrameArrived(1, hello_new.frame), 0.0)
    assert link.Superseded(5) in told


@pytest.mark.parametrize(
    "frame",
    [
        node_pb2.RoomLinkFrame(room_name="r", epoch=1, node_id="ND_b"),
        node_pb2.RoomLinkFrame(room_name="other", epoch=1, node_id="ND_b", acknowledged=1),
        node_pb2.RoomLinkFrame(room_name="r", epoch=1, node_id="ND_b", acknowledged=1),
        node_pb2.RoomLinkFrame(
            room_name="r", epoch=1, node_id="ND_b", numbered=node_pb2.Numbered(sequence=9)
        ),
        node_pb2.RoomLinkFrame(room_name="r", epoch=1, node_id="ND_b", hello=node_pb2.Hello()),
    ],
    ids=["empty", "other room", "acknowledges the unsent", "gap", "second Hello"],
)
def test_a_frame_that_cannot_be_closes_the_connection(frame: node_pb2.RoomLinkFrame) -> None:
    pair = Pair()
    pair.connect()
    pair.settle()
    (effect,) = pair.ends[0].handle(link.FrameArrived(1, frame), 0.0)
    assert isinstance(effect, link.CloseConnection)
    assert not effect.refused

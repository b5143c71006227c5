"""What the media engine reports, as values, and which stage each report is for.

Not per packet: the engine gathers events and gives them in batches. `sfu.media` translates them
from the compiled module. An engine id carries the number of the stage that made it in the bits
above `OWNER_SHIFT`, so that the node routes an event without a table, but for the ids that went to
another stage with a participant who was moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import assert_never

OWNER_SHIFT = 32
SEND_BUFFER_FULL = "send buffer full"
"""`Rejected.message` of a `send_data`: the far side reads so slowly that 16 MiB of reliable data wait."""


@dataclass(frozen=True, slots=True)
class Connected:
    """ICE and DTLS are up. Comes again after a restart."""

    pc: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No authenticated traffic for 10 s; Failed follows 5 s later unless it comes back."""

    pc: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The transport is beyond repair without a restart. `reason` is for logs."""

    pc: int
    reason: str


@dataclass(frozen=True, slots=True)
class DataChannelOpened:
    """Both ends may send on this channel."""

    pc: int
    label: str
    ordered: bool
    reliable: bool


@dataclass(frozen=True, slots=True)
class DataChannelClosed:
    """The channel is gone."""

    pc: int
    label: str


@dataclass(frozen=True, slots=True)
class DataReceived:
    """One message from a data channel."""

    pc: int
    label: str
    payload: bytes
    binary: bool


@dataclass(frozen=True, slots=True)
class EncodingStarted:
    """First packet of an encoding of a received track."""

    track: int
    spatial_layer: int
    rid: str | None
    ssrc: int
    mime: str


@dataclass(frozen=True, slots=True)
class EncodingStopped:
    """No packet of this encoding for 2 s, or its SSRC said goodbye."""

    track: int
    spatial_layer: int


@dataclass(frozen=True, slots=True)
class AudioLevels:
    """One window: (track, loudest active level in -dBov, share of the window that was active)."""

    levels: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class LayerChanged:
    """What a sender really forwards now; -1 is nothing."""

    sender: int
    spatial_layer: int
    temporal_layer: int


@dataclass(frozen=True, slots=True)
class SenderPaused:
    """Congestion paused a sender, or lets it go on; not what its client asked for."""

    sender: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """A command could not be performed; the engine's state is as before it."""

    command: str
    id: int
    message: str


@dataclass(frozen=True, slots=True)
class TrackLoss:
    """From the stats snapshot: share of a received track's packets lost lately, 0..1; seconds."""

    track: int
    fraction_lost: float
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class SenderLoss:
    """From the stats snapshot: share of a sender's packets the far side says it lost; seconds."""

    sender: int
    fraction_lost: float
    round_trip: float = 0.0


MediaEvent = (
    Connected
    | Disconnected
    | Failed
    | DataChannelOpened
    | DataChannelClosed
    | DataReceived
    | EncodingStarted
    | EncodingStopped
    | AudioLevels
    | LayerChanged
    | SenderPaused
    | Rejected
    | TrackLoss
    | SenderLoss
)


def maker_of(engine_id: int) -> int:
    """The number of the stage that made this engine id."""
    return engine_id >> OWNER_SHIFT


def split_by_owner(
    event: MediaEvent, moved: Mapping[int, int] = MappingProxyType({})
) -> list[tuple[int, MediaEvent]]:
    """The event once for each stage it concerns; only AudioLevels ever concerns more than one.

    `moved` has the ids that another stage than their maker has now, with that stage's number.
    """

    def owner_of(engine_id: int) -> int:
        return moved.get(engine_id) or maker_of(engine_id)

    match event:
        case AudioLevels(levels):
            parts: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
            for row in levels:
                parts[owner_of(row[0])].append(row)
            return [(owner, AudioLevels(tuple(rows))) for owner, rows in parts.items()]
        case (
            Connected()
            | Disconnected()
            | Failed()
            | DataChannelOpened()
            | DataChannelClosed()
            | DataReceived()
        ):
            return [(owner_of(event.pc), event)]
        case EncodingStarted() | EncodingStopped() | TrackLoss():
            return [(owner_of(event.track), event)]
        case LayerChanged() | SenderPaused() | SenderLoss():
            return [(owner_of(event.sender), event)]
        case Rejected():
            return [(owner_of(event.id), event)]
        case _:
            assert_never(event)

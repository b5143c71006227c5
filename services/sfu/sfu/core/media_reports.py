"""What the engine reports of one transport, track or sender, and which method of its session is told.

A table. Sound levels concern a whole room (reports.py), and data goes to others (the stage).
"""

from __future__ import annotations

from typing import assert_never

from sfu.core.connection_quality import Condition
from sfu.core.effects import CountDropped, Step
from sfu.core.media_events import (
    SEND_BUFFER_FULL,
    Connected,
    DataChannelClosed,
    DataChannelOpened,
    Disconnected,
    EncodingStarted,
    EncodingStopped,
    Failed,
    LayerChanged,
    Rejected,
    SenderLoss,
    SenderPaused,
    TrackLoss,
)
from sfu.core.sessions import Sessions

TransportEvent = Connected | Disconnected | Failed | DataChannelOpened | DataChannelClosed
TrackEvent = EncodingStarted | EncodingStopped | TrackLoss
SenderEvent = LayerChanged | SenderPaused | SenderLoss


def tell_session(
    sessions: Sessions, event: TransportEvent | TrackEvent | SenderEvent | Rejected, step: Step
) -> None:
    """Reports of what is gone meanwhile are void."""
    match event:
        case Rejected():
            _take_rejection(sessions, event, step)
        case EncodingStarted() | EncodingStopped() | TrackLoss():
            _take_track_event(sessions, event, step)
        case LayerChanged() | SenderPaused() | SenderLoss():
            _take_sender_event(sessions, event, step)
        case _:
            _take_transport_event(sessions, event, step)


def _take_transport_event(
    sessions: Sessions,
    event: TransportEvent,
    step: Step,
) -> None:
    participant = sessions.owner(event.pc)
    if participant is None:
        return
    match event:
        case Connected(pc):
            participant.media_connected(pc, step)
        case Disconnected(pc):
            participant.media_disconnected(pc, step)
        case Failed(pc):
            participant.media_failed(pc, step)
        case DataChannelOpened(pc, label):
            participant.channel_opened(pc, label, step)
        case DataChannelClosed(pc, label):
            participant.channel_closed(pc, label)
        case _:
            assert_never(event)


def _take_track_event(sessions: Sessions, event: TrackEvent, step: Step) -> None:
    participant = sessions.owner(event.track)
    if participant is None:
        return
    match event:
        case EncodingStarted():
            participant.publishing.encoding_started(
                event.track, event.spatial_layer, event.rid, event.ssrc, event.mime, step
            )
        case TrackLoss():
            condition = Condition(event.fraction_lost, jitter=event.jitter)
            participant.conditions[event.track] = condition
        case EncodingStopped():
            pass  # the engine chooses another layer by itself
        case _:
            assert_never(event)


def _take_sender_event(sessions: Sessions, event: SenderEvent, step: Step) -> None:
    participant = sessions.owner(event.sender)
    if participant is None:
        return
    match event:
        case LayerChanged():
            participant.subscribing.sender_flows(event.sender, event.spatial_layer, step)
        case SenderPaused(sender, is_paused):
            participant.subscribing.sender_paused(sender, is_paused=is_paused, step=step)
        case SenderLoss():
            condition = Condition(event.fraction_lost, round_trip=event.round_trip)
            participant.conditions[event.sender] = condition
        case _:
            assert_never(event)


def _take_rejection(sessions: Sessions, event: Rejected, step: Step) -> None:
    """Bad descriptions and data not read are the client's fault; others leave state as it was."""
    participant = sessions.owner(event.id)
    if participant is None:
        return
    if event.command == "set_remote":
        participant.fail(step, f"set_remote was refused: {event.message}")
    elif event.command == "send_data" and event.message == SEND_BUFFER_FULL:
        # Reliable data cannot be left out: a client that reads nothing begins anew, without it.
        step.emit(CountDropped("slow_reader"))
        participant.fail(step, "it does not read its reliable data")

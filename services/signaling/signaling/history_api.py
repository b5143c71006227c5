"""Inbound: `roomwright.EventService` over Twirp, our own: what happened in rooms, read from the EVENTS stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from google.protobuf.message import DecodeError, Message

from chassis import subjects
from chassis.bus import Bus
from chassis.errors import BusError, InvalidArgument, NotAllowed, Unavailable
from chassis.projects import scoped
from chassis.tokens import Grants
from chassis.twirp import Methods, TwirpContext
from contracts.events.v1 import events_pb2
from contracts.history.v1 import history_pb2
from signaling.core.history import DEFAULT_LIMIT, MAX_LIMIT, is_wanted, told

log = structlog.get_logger(__name__)

EVENT_SERVICE: Final = "roomwright.EventService"
METHODS: Final[Methods] = {
    "ListEvents": (history_pb2.ListEventsRequest, history_pb2.ListEventsResponse)
}
READ_BATCH: Final = 500
READ_WAIT_S: Final = 1.0
MAX_READ: Final = 50_000
"""Facts looked at for one page; a page may be short, or empty, and say where to go on."""
AT_ONCE: Final = 4
"""Questions answered at a time by one replica."""


@dataclass(frozen=True, slots=True)
class HistoryApi:
    """The history of rooms, page by page."""

    bus: Bus
    turns: asyncio.Semaphore

    async def call(
        self, context: TwirpContext, _service: str, _name: str, request: Message
    ) -> Message:
        """Perform one call; raise `ServiceError`."""
        assert isinstance(request, history_pb2.ListEventsRequest)
        grants = context.grants
        if grants is None or not _may_read(grants, request.room):
            raise NotAllowed
        if request.limit > MAX_LIMIT:
            raise InvalidArgument(f"limit is {request.limit}, {MAX_LIMIT} at most")
        async with self.turns:
            try:
                return await self._page(grants.project, request)
            except BusError as error:
                raise Unavailable(f"the history cannot be read now, try again: {error}") from error

    async def _page(
        self, project: str, request: history_pb2.ListEventsRequest
    ) -> history_pb2.ListEventsResponse:
        await self.bus.open_stream(subjects.EVENTS)
        ends = await self.bus.stream_ends(subjects.EVENTS)
        place = max(request.page_token, ends.first) - 1
        wanted = list(subjects.EVENTS.subjects)
        if request.room:
            partition = subjects.event_partition(scoped(project, request.room))
            wanted = [subjects.partition_subject(partition)]
        page = history_pb2.ListEventsResponse()
        limit, looked_at = request.limit or DEFAULT_LIMIT, 0
        reader = self.bus.open_reader(subjects.EVENTS, wanted, place + 1)
        try:
            while place < ends.last and looked_at < MAX_READ:
                messages = await reader.read(READ_BATCH, READ_WAIT_S)
                if not messages:
                    return page  # what follows is of other rooms
                for message in messages:
                    place, looked_at = message.sequence, looked_at + 1
                    event = _event(message.data, request, project)
                    if event is not None:
                        page.events.append(event)
                    if len(page.events) == limit:
                        break
                if len(page.events) == limit:
                    break
        finally:
            await reader.close()
        if place < ends.last:
            page.page_token = place + 1
        return page


def _may_read(grants: Grants, room: str) -> bool:
    return grants.video.admits(room) if room else grants.video.room_list


def _event(
    data: bytes, request: history_pb2.ListEventsRequest, project: str
) -> history_pb2.Event | None:
    try:
        fact = events_pb2.RoomEvent.FromString(data)
        if not is_wanted(fact, request, project):
            return None
        event = told(fact)
    except DecodeError:
        log.warning("a fact of the stream cannot be read: passed over")
        return None
    return event if request.identity in ("", event.identity) else None

"""The sessions of one stage: found by sid, identity, socket or engine id, and when each is due.

An index and a schedule. What a session does is its own business (participant.py); what one session
does to another is the stage's.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator

from sfu.core.effects import SendSignal, SocketRef, Step
from sfu.core.participant import Participant
from sfu.core.publication import PublishedTrack
from sfu.core.session import TOLD_STATES
from sfu.core.subscription import Directory


class Sessions:
    """Every session from its first socket to its departure.

    `owners` says whose an engine id is; sessions write it, since they make the ids.
    """

    def __init__(self, directory: Directory) -> None:
        self.owners: dict[int, str] = {}
        self._directory = directory
        self._by_sid: dict[str, Participant] = {}
        self._by_identity: dict[str, Participant] = {}
        self._by_socket: dict[SocketRef, Participant] = {}
        self._wakes: list[tuple[float, str]] = []
        self._wake_of: dict[str, float] = {}

    def __iter__(self) -> Iterator[Participant]:
        return iter(list(self._by_sid.values()))

    def __len__(self) -> int:
        return len(self._by_sid)

    # ------------------------------------------------------------------------------ finding

    def get(self, sid: str) -> Participant | None:
        """The session of a participant sid."""
        return self._by_sid.get(sid)

    def by_identity(self, identity: str) -> Participant | None:
        """The newest session of an identity, the only one that may be resumed."""
        return self._by_identity.get(identity)

    def by_socket(self, socket: SocketRef) -> Participant | None:
        """The session behind a socket, also behind one that the session gave up."""
        return self._by_socket.get(socket)

    def owner(self, engine_id: int) -> Participant | None:
        """The session of a pc, track or sender."""
        return self._by_sid.get(self.owners.get(engine_id, ""))

    def published(self, track_sid: str) -> tuple[Participant, PublishedTrack] | None:
        """A track of this node and its publisher."""
        local = self._directory.local.get(track_sid)
        publisher = None if local is None else self._by_sid.get(local.publisher_sid)
        track = None if publisher is None else publisher.publishing.publications.get(track_sid)
        return None if publisher is None or track is None else (publisher, track)

    def tell(self, receivers: Iterable[Participant], response: bytes, step: Step) -> None:
        """One serialized response for many; who has no socket now does without."""
        # A broadcast runs this for every session of the room: no call for each.
        sockets = tuple(
            [
                participant.socket
                for participant in receivers
                if participant.socket is not None and participant.state in TOLD_STATES
            ]
        )
        if sockets:
            step.emit(SendSignal(sockets, response))

    # --------------------------------------------------------------------- coming and going

    def add(self, participant: Participant, socket: SocketRef) -> None:
        """A new session on its first socket."""
        self._by_sid[participant.sid] = participant
        self._by_socket[socket] = participant
        # An older session of this identity stays until the Room ends it, but cannot be resumed.
        self._by_identity[participant.identity] = participant

    def attach(self, participant: Participant, socket: SocketRef) -> None:
        """A session is resumed on another socket."""
        if participant.socket is not None:
            self._by_socket.pop(participant.socket, None)
        self._by_socket[socket] = participant

    def detach(self, socket: SocketRef) -> Participant | None:
        """A socket is gone; whose it was."""
        return self._by_socket.pop(socket, None)

    def forget(self, sid: str) -> None:
        """A session is over."""
        participant = self._by_sid.pop(sid, None)
        if participant is None:
            return
        if self._by_identity.get(participant.identity) is participant:
            del self._by_identity[participant.identity]
        for socket in [key for key, value in self._by_socket.items() if value is participant]:
            del self._by_socket[socket]
        self._wake_of.pop(sid, None)

    # --------------------------------------------------------------------------------- time

    def schedule(self, sids: Iterable[str]) -> None:
        """Ask these when they are due; a session that is due later than before is asked twice."""
        for sid in sids:
            participant = self._by_sid.get(sid)
            due = None if participant is None else participant.next_timeout()
            if due is not None and due < self._wake_of.get(sid, math.inf):
                self._wake_of[sid] = due
                heapq.heappush(self._wakes, (due, sid))

    def next_timeout(self) -> float | None:
        """When the next session is due."""
        return self._wakes[0][0] if self._wakes else None

    def take_due(self, now: float) -> Iterator[Participant]:
        """Those that are due now; schedule them again afterwards."""
        while self._wakes and self._wakes[0][0] <= now:
            due, sid = heapq.heappop(self._wakes)
            if self._wake_of.get(sid) != due:
                continue  # an earlier wake took its place
            del self._wake_of[sid]
            participant = self._by_sid.get(sid)
            if participant is not None:
                yield participant

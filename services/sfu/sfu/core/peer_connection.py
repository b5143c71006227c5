"""The transport half of one peer connection, as a session keeps it.

Credentials, the far side's parameters, candidates waiting for them, open channels. Not SDP
(answering.py, offering.py) and not the transport itself (the engine).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sfu.core.effects import Step
from sfu.core.limits import MAX_CANDIDATE_BYTES
from sfu.core.media_commands import (
    AddRemoteCandidate,
    ClosePeerConnection,
    CreatePeerConnection,
    OpenDataChannel,
    RestartIce,
    SetRemote,
)
from sfu.core.plans import LocalTransport, RemoteParameters

MAX_CANDIDATES = 256
"""Remote candidates of one ICE generation; more are dropped."""


class BadCandidate(ValueError):
    """A trickled candidate cannot be read."""


@dataclass(slots=True)
class PeerConnection:
    """One peer connection of a session; `id` is its engine id."""

    id: int
    local: LocalTransport
    is_controlling: bool = False
    is_created: bool = False
    is_connected: bool = False
    was_connected: bool = False
    is_failed: bool = False
    takes_udp: bool = True
    """Whether UDP candidates of the client count."""
    remote: RemoteParameters | None = None
    channels: set[str] = field(default_factory=set)
    _connected_at: float = 0.0
    _waiting: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def create(self, step: Step) -> None:
        """Make the transport, once."""
        if self.is_created:
            return
        self.is_created = True
        step.emit(
            CreatePeerConnection(
                self.id,
                self.local.ice_ufrag,
                self.local.ice_pwd,
                self.local.ice_lite,
                self.is_controlling,
            )
        )

    def open_channels(self, step: Step, labels: tuple[tuple[str, bool], ...]) -> None:
        """Server-created channels: (label, is reliable). They open when SCTP is up."""
        for label, is_reliable in labels:
            step.emit(
                OpenDataChannel(
                    self.id,
                    label,
                    ordered=is_reliable,
                    max_retransmits=None if is_reliable else 0,
                )
            )

    def connected(self, now: float) -> None:
        """ICE and DTLS are up, for the first time or again."""
        if not self.is_connected:
            self._connected_at = now
        self.is_connected = self.was_connected = True
        self.is_failed = False

    @property
    def is_broken(self) -> bool:
        """It was up, and is not."""
        return self.was_connected and not self.is_connected

    def lived(self, now: float) -> float | None:
        """How long ago it came up last; None: never."""
        return now - self._connected_at if self.was_connected else None

    def restart(self, local: LocalTransport, step: Step) -> None:
        """New local credentials were put into a description."""
        self.local = local
        self._seen.clear()
        step.emit(RestartIce(self.id, local.ice_ufrag, local.ice_pwd))

    def set_remote(self, remote: RemoteParameters, step: Step) -> None:
        """The far side's description came; candidates that waited for it follow."""
        if remote != self.remote:
            self.remote = remote
            step.emit(SetRemote(self.id, remote.ice_ufrag, remote.ice_pwd, remote.fingerprint))
        waiting, self._waiting = self._waiting, []
        for candidate in waiting:
            step.emit(AddRemoteCandidate(self.id, candidate))

    def add_candidate(self, candidate_init: str, step: Step) -> None:
        """A trickled RTCIceCandidateInit as JSON. Raises BadCandidate.

        The end of candidates, repetitions (once a mid), mDNS names and unwanted transports are
        dropped silently.
        """
        candidate = _candidate_of(candidate_init)
        if is_udp(candidate) and not self.takes_udp:
            return
        if not candidate or candidate in self._seen or ".local" in candidate:
            return
        if len(self._seen) >= MAX_CANDIDATES:
            return
        self._seen.add(candidate)
        if self.remote is None:
            self._waiting.append(candidate)
        else:
            step.emit(AddRemoteCandidate(self.id, candidate))

    def close(self, step: Step) -> None:
        """Silently."""
        if self.is_created:
            self.is_created = False
            self.is_connected = False
            step.emit(ClosePeerConnection(self.id))


def is_udp(candidate: str) -> bool:
    """Whether a candidate line is of UDP (RFC 8839 section 5.1)."""
    return candidate.split(" ", 3)[2:3] in (["udp"], ["UDP"])


def _candidate_of(candidate_init: str) -> str:
    if len(candidate_init.encode()) > MAX_CANDIDATE_BYTES:
        raise BadCandidate(f"candidate is over {MAX_CANDIDATE_BYTES} bytes")
    try:
        init = json.loads(candidate_init)
    except (ValueError, RecursionError) as error:
        raise BadCandidate("candidate is not JSON") from error
    if not isinstance(init, dict):
        raise BadCandidate("candidate is not an object")
    candidate = init.get("candidate")
    if candidate is None:
        return ""
    if not isinstance(candidate, str):
        raise BadCandidate("candidate is not text")
    if not candidate.isascii():
        raise BadCandidate("candidate is not ASCII")
    candidate = candidate.strip().removeprefix("a=")
    if candidate and not candidate.startswith("candidate:"):
        candidate = f"candidate:{candidate}"
    return candidate

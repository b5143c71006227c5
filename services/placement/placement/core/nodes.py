"""The nodes as one observer knows them: their last record, and when each was last heard of.

A node is heard of when its record changes, and when it answers a question. Silence is judged by the
observer's own monotonic clock, never by timestamps or by a time-to-live, and starts to count anew
after the observer was blind. What it is not: a health check; a silent node may be alive and cut off,
which is why it is asked before it loses anything. Only another process that speaks from a node's
address proves that the node is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from chassis.ids import NodeId

ASK_AFTER_S: Final = 2.0
"""Silence after which a node is asked; two heartbeats that did not come."""
ANSWER_MEMORY_S: Final = 1.5
"""For how long a question without an answer is not asked again before a takeover."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a node says of itself with every heartbeat. A limit of 0 is none."""

    node_id: NodeId
    address: str
    region: str = ""
    draining: bool = False
    rooms: int = 0
    participants: int = 0
    participant_limit: int = 0
    tracks: int = 0
    """In and out together."""
    track_limit: int = 0
    bytes_per_s: float = 0.0
    """In and out together."""
    bytes_per_s_limit: float = 0.0
    cpu_load: float = 0.0
    """0..1 of the cores it may use."""
    cpu_load_limit: float = 0.0
    system_load: float = 0.0
    """One-minute load average over the machine's cores."""
    pod_name: str = ""
    """Empty outside of Kubernetes."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may get rooms, with what was given to it since its last heartbeat."""

    node: Node
    pending_rooms: int = 0
    pending_participants: int = 0

    @property
    def rooms(self) -> int:
        """Rooms, those on their way included."""
        return self.node.rooms + self.pending_rooms

    @property
    def participants(self) -> int:
        """Participants, those on their way included."""
        return self.node.participants + self.pending_participants


class Standing(StrEnum):
    """What is known of a lease's holder."""

    LIVE = "live"
    """Heard of lately, or not long enough looked for."""
    SILENT = "silent"
    """Heard of neither by record nor by answer for too long, or it said goodbye."""
    REPLACED = "replaced"
    """Another process speaks from its address: it is gone for certain."""


@dataclass(frozen=True, slots=True)
class Census:
    """Everything there is, for metrics."""

    fresh: int
    draining: int
    silent: int
    participants: int
    """Of all nodes that are not silent."""
    participant_capacity: int
    """The limits of fresh nodes that have one, together."""
    free_participants: int
    """What is left of that, by node: a node above its limit takes nothing from the others."""


@dataclass(slots=True)
class _Known:
    node: Node
    revision: int
    heard_at: float
    pending_rooms: int = 0
    pending_participants: int = 0
    has_left: bool = False


@dataclass(slots=True)
class NodeRegistry:
    """Every node heard of, with its freshness."""

    stale_after_s: float
    gone_after_s: float
    _seeing_since: float | None = None
    _known: dict[NodeId, _Known] = field(default_factory=dict)
    _speaker: dict[str, NodeId] = field(default_factory=dict)
    """Who spoke last from each address."""
    _unanswered: dict[NodeId, float] = field(default_factory=dict)
    """When each node was last asked in vain."""
    _unschedulable: frozenset[str] = frozenset()

    # ------------------------------------------------------------------------------------------ news

    def heard(self, node: Node, revision: int, now: float) -> None:
        """A record arrived; only a new revision counts as a sign of life."""
        known = self._known.get(node.node_id)
        if known is None or known.revision != revision:
            self._learn(node, revision, now)

    def answered(self, asked: NodeId, address: str, node: Node, now: float) -> None:
        """`node` answered a question to `asked` at `address`; it may be another process by now."""
        known = self._known.get(node.node_id)
        self._learn(node, 0 if known is None else known.revision, now)
        if node.node_id != asked:
            self._speaks_from(address, node.node_id)

    def unanswered(self, node_id: NodeId, asked_at: float) -> None:
        """Nobody answered a question asked at `asked_at`."""
        self._unanswered[node_id] = asked_at

    def left(self, node_id: NodeId, revision: int) -> None:
        """The node's record is gone, since `revision`.

        When that is the record's own revision nobody removed it: the store lost it, and the node's
        silence counts as any other.
        """
        known = self._known.get(node_id)
        if known is not None and revision != known.revision:
            known.has_left = True

    def assigned(self, node_id: NodeId, *, rooms: int, participants: int) -> None:
        """Load is on its way to the node; counts until its next heartbeat tells."""
        known = self._known.get(node_id)
        if known is not None:
            known.pending_rooms += rooms
            known.pending_participants += participants

    def set_unschedulable(self, pod_names: frozenset[str]) -> None:
        """From now on these pods, and no others, are kept from new rooms by who runs the cluster."""
        self._unschedulable = pod_names

    def pod_loads(self, now: float) -> dict[str, int]:
        """Participants and rooms, added up, of each pod heard of lately."""
        fresh = [known for known in self._known.values() if self._is_fresh(known, now)]
        # A container that started again has a new node in the same pod: the one heard last counts.
        fresh.sort(key=lambda known: known.heard_at)
        return {
            known.node.pod_name: known.node.participants + known.node.rooms
            for known in fresh
            if known.node.pod_name
        }

    def restart_counts(self, now: float) -> None:
        """The observer was blind until now: nobody's silence before this moment counts."""
        self._seeing_since = now

    def prune(self, now: float) -> None:
        """Forget nodes that are gone, so that restarts do not add up."""
        for node_id in [node_id for node_id in self._known if self.is_gone(node_id, now)]:
            self._forget(node_id)
        self._speaker = {
            address: node_id for address, node_id in self._speaker.items() if node_id in self._known
        }
        self._unanswered = {
            node_id: at
            for node_id, at in self._unanswered.items()
            if now - at <= ANSWER_MEMORY_S or node_id in self._known
        }

    # ------------------------------------------------------------------------------------- questions

    def candidates(self, now: float) -> list[Candidate]:
        """Fresh nodes that are not draining, full ones included."""
        return [
            Candidate(known.node, known.pending_rooms, known.pending_participants)
            for known in self._known.values()
            if self._is_fresh(known, now) and not self._is_draining(known.node)
        ]

    def standing(self, node_id: NodeId, address: str, now: float) -> Standing:
        """What is known of the holder of a lease that names this node and address."""
        if self._speaker.get(address, node_id) != node_id:
            return Standing.REPLACED
        known = self._known.get(node_id)
        if known is not None and known.has_left:
            return Standing.SILENT
        is_live = self._silence(known, now) <= self.stale_after_s
        return Standing.LIVE if is_live else Standing.SILENT

    def was_asked_in_vain(self, node_id: NodeId, now: float) -> bool:
        """Was the node asked a moment ago, after its last sign of life, without an answer?"""
        asked_at = self._unanswered.get(node_id)
        if asked_at is None or now - asked_at > ANSWER_MEMORY_S:
            return False
        known = self._known.get(node_id)
        return known is None or asked_at > known.heard_at

    def to_ask(self, now: float) -> list[Node]:
        """Nodes not heard of for a while, whether the observer is blind or not."""
        return [
            known.node
            for known in self._known.values()
            if now - known.heard_at > ASK_AFTER_S and not known.has_left
        ]

    def silence(self, node_id: NodeId, now: float) -> float:
        """Seconds since the node was last heard of, as far as they count."""
        return self._silence(self._known.get(node_id), now)

    def is_gone(self, node_id: NodeId, now: float) -> bool:
        """Was the node silent for so long that it need not be remembered?"""
        return self.silence(node_id, now) > self.gone_after_s

    def why_none(self, now: float) -> str:
        """Why there are no candidates, for the error's text; call it when that is so."""
        if not self._known:
            return "no sfu node has registered"
        if not any(self._is_fresh(known, now) for known in self._known.values()):
            return "no sfu node has been heard of lately"
        return "every sfu node is draining"

    def census(self, now: float) -> Census:
        """Every node once, by its state, and what they can take."""
        fresh = draining = silent = participants = capacity = free = 0
        for known in self._known.values():
            if not self._is_fresh(known, now):
                silent += 1
                continue
            node = known.node
            participants += node.participants
            if self._is_draining(node):
                draining += 1
                continue
            fresh += 1
            capacity += node.participant_limit
            free += max(0, node.participant_limit - node.participants - known.pending_participants)
        return Census(fresh, draining, silent, participants, capacity, free)

    def __iter__(self) -> Iterator[Node]:
        return (known.node for known in self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    # ---------------------------------------------------------------------------------------- within

    def _learn(self, node: Node, revision: int, now: float) -> None:
        self._known[node.node_id] = _Known(node, revision, now)
        self._unanswered.pop(node.node_id, None)
        self._speaks_from(node.address, node.node_id)

    def _speaks_from(self, address: str, node_id: NodeId) -> None:
        before = self._speaker.get(address)
        self._speaker[address] = node_id
        if before is not None and before != node_id:
            self._forget(before)

    def _forget(self, node_id: NodeId) -> None:
        self._known.pop(node_id, None)
        self._unanswered.pop(node_id, None)

    def _is_draining(self, node: Node) -> bool:
        return node.draining or (node.pod_name != "" and node.pod_name in self._unschedulable)

    def _is_fresh(self, known: _Known, now: float) -> bool:
        return not known.has_left and self._silence(known, now) <= self.stale_after_s

    def _silence(self, known: _Known | None, now: float) -> float:
        """Seconds that count; of an unknown node since the observer began to look."""
        if self._seeing_since is None:
            return 0.0
        heard_at = self._seeing_since if known is None else known.heard_at
        return now - max(heard_at, self._seeing_since)

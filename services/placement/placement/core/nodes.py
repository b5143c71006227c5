"""The nodes as one observer knows them: their last record, and when it last changed.

Staleness is judged by the observer's own monotonic clock since it last saw a record change, never by
timestamps or by a time-to-live. What it is not: a health check; a stale node may be alive and cut
off, which is why a takeover asks the node first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chassis.ids import NodeId


@dataclass(frozen=True, slots=True)
class Node:
    """What a node says of itself with every heartbeat."""

    node_id: NodeId
    address: str
    region: str = ""
    draining: bool = False
    rooms: int = 0
    participants: int = 0
    participant_limit: int = 0
    """0: the node does not limit them."""
    cpu_load: float = 0.0
    """0..1 of the cores it may use."""
    pod_name: str = ""
    """Empty outside of Kubernetes."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fresh node, with the rooms given to it since its last heartbeat."""

    node: Node
    pending_rooms: int

    @property
    def is_full(self) -> bool:
        """Has it no room for one more participant?"""
        limit = self.node.participant_limit
        return 0 < limit <= self.node.participants + self.pending_rooms

    @property
    def load(self) -> float:
        """0..1 and above: the scarcest of processor and participants."""
        expected = self.node.participants + self.pending_rooms
        limit = self.node.participant_limit or _LIMIT_TO_COMPARE_BY
        return max(self.node.cpu_load, expected / limit)


@dataclass(slots=True)
class _Known:
    node: Node
    revision: int
    changed_at: float
    pending_rooms: int = 0


@dataclass(slots=True)
class NodeRegistry:
    """Every node heard of, with its freshness."""

    stale_after_s: float
    gone_after_s: float
    _started_at: float | None = None
    _unschedulable: frozenset[str] = frozenset()
    _known: dict[NodeId, _Known] = field(default_factory=dict)

    def heard(self, node: Node, revision: int, now: float) -> None:
        """A record arrived; only a new revision counts as a sign of life."""
        known = self._known.get(node.node_id)
        if known is None or known.revision != revision:
            self._known[node.node_id] = _Known(node, revision, now)

    def forget(self, node_id: NodeId) -> None:
        """The node took its record away."""
        self._known.pop(node_id, None)

    def assigned(self, node_id: NodeId) -> None:
        """A room was given to the node; counts as load until its next heartbeat tells."""
        known = self._known.get(node_id)
        if known is not None:
            known.pending_rooms += 1

    def set_unschedulable(self, pod_names: frozenset[str]) -> None:
        """From now on these pods, and no others, are kept from new rooms by who runs the cluster."""
        self._unschedulable = pod_names

    def pod_loads(self, now: float) -> dict[str, int]:
        """Participants and rooms, added up, of each pod heard of lately."""
        fresh = [known for known in self._known.values() if not self._is_old(known, now)]
        # A container that started again has a new node in the same pod: the one heard last counts.
        fresh.sort(key=lambda known: known.changed_at)
        return {
            known.node.pod_name: known.node.participants + known.node.rooms
            for known in fresh
            if known.node.pod_name
        }

    def restart_counts(self, now: float) -> None:
        """The observer was blind until now: nobody's silence before this moment counts."""
        self._started_at = now
        for known in self._known.values():
            known.changed_at = now

    def candidates(self, now: float) -> list[Candidate]:
        """Fresh nodes that are not draining, full ones included."""
        return [
            Candidate(known.node, known.pending_rooms)
            for known in self._known.values()
            if not self._is_draining(known.node) and now - known.changed_at <= self.stale_after_s
        ]

    def is_stale(self, node_id: NodeId, now: float) -> bool:
        """Was the node silent for longer than `stale_after_s`, or has it no record at all?"""
        known = self._known.get(node_id)
        return known is None or now - known.changed_at > self.stale_after_s

    def is_gone(self, node_id: NodeId, now: float) -> bool:
        """Was the node silent for so long that its rooms are over?"""
        known = self._known.get(node_id)
        since = self._started_at if known is None else known.changed_at
        return since is not None and now - since > self.gone_after_s

    def why_none(self, now: float) -> str:
        """Why no node can take a room, for the error's text; call it when that is so."""
        if not self._known:
            return "no sfu node has registered"
        fresh = [known for known in self._known.values() if not self._is_old(known, now)]
        if not fresh:
            return "no sfu node has been heard of lately"
        if all(self._is_draining(known.node) for known in fresh):
            return "every sfu node is draining"
        return "every sfu node is full"

    def prune(self, now: float) -> None:
        """Forget nodes that are gone, so that restarts do not add up."""
        for node_id in [node_id for node_id in self._known if self.is_gone(node_id, now)]:
            del self._known[node_id]

    def _is_draining(self, node: Node) -> bool:
        return node.draining or (node.pod_name != "" and node.pod_name in self._unschedulable)

    def __len__(self) -> int:
        return len(self._known)

    def _is_old(self, known: _Known, now: float) -> bool:
        return now - known.changed_at > self.stale_after_s


# A node without a limit is compared by participants as if it had this one.
_LIMIT_TO_COMPARE_BY = 1000

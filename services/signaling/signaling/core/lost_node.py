"""A node whose stream broke, as a machine: is it back, or do its rooms live elsewhere now?

The node is asked whether it is still the same process, sooner at first; placement is asked one question for each room
that has sockets here. It ends when every room's question is settled, or after `PATIENCE_S`; the sockets have a deadline
of their own. What it is not: a judge of leases. Only placement says where a room lives.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

PATIENCE_S = 10.0
NODE_INTERVALS_S = (0.0, 0.25, 0.5, 1.0)
HOME_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class RoomAt:
    """A room as its sockets knew it: its name and the epoch of its lease."""

    name: str
    epoch: int


# events
@dataclass(frozen=True, slots=True)
class NodeAnswered:
    """Who answers at the node's address."""

    node_id: str


@dataclass(frozen=True, slots=True)
class NodeSilent:
    """Nobody answered in time."""


@dataclass(frozen=True, slots=True)
class HomeTold:
    """Placement's answer for a room; None when the room has no home any more."""

    room: RoomAt
    home: tuple[str, int] | None
    """The holder's node id and the epoch."""


@dataclass(frozen=True, slots=True)
class HomeUnknown:
    """Placement could not say."""

    room: RoomAt


@dataclass(frozen=True, slots=True)
class RoomDeserted:
    """No socket of this room is left here."""

    room: RoomAt


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed."""


Event = NodeAnswered | NodeSilent | HomeTold | HomeUnknown | RoomDeserted | Ticked


# effects
@dataclass(frozen=True, slots=True)
class AskNode:
    """Ask whoever is at the node's address for its id."""


@dataclass(frozen=True, slots=True)
class AskHome:
    """Ask placement for the room's home, doubting its epoch."""

    room: RoomAt


@dataclass(frozen=True, slots=True)
class TellBack:
    """The node is the same process as before: the sockets of these rooms resume."""

    rooms: tuple[RoomAt, ...]


@dataclass(frozen=True, slots=True)
class TellMoved:
    """The room lives elsewhere, or is over: its sockets join anew."""

    room: RoomAt


Effect = AskNode | AskHome | TellBack | TellMoved


@dataclass(slots=True)
class LostNode:
    """From the broken stream to the last answer about it."""

    node_id: str
    """Who it was; empty when placement did not say."""
    lost_at: float
    rooms: dict[RoomAt, float | None]
    """When placement is asked next; None while it is being asked."""
    over: bool = False
    _asks_node: bool = True
    _node_asked: int = 0
    _ask_node_at: float | None = field(default=None)

    @staticmethod
    def of(node_id: str, rooms: Iterable[RoomAt], now: float) -> "LostNode":
        """Lost just now, with sockets of these rooms."""
        # The node has a moment to answer first: most broken streams are no lost nodes.
        return LostNode(node_id, now, dict.fromkeys(rooms, now + HOME_INTERVAL_S), _ask_node_at=now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Advance; after `over` every event is ignored."""
        if self.over:
            return []
        effects: list[Effect] = []
        match event:
            case NodeAnswered(node_id):
                effects = self._node_answered(node_id, now)
            case NodeSilent():
                self._node_silent(now)
            case HomeTold(room, home):
                effects = self._home_told(room, home, now)
            case HomeUnknown(room):
                self._ask_home_later(room, now)
            case RoomDeserted(room):
                self.rooms.pop(room, None)
            case Ticked():
                pass
            case _:
                assert_never(event)
        self.over = self.over or not self.rooms or now >= self.lost_at + PATIENCE_S
        return effects if self.over else effects + self._due(now)

    def next_timeout(self) -> float | None:
        """When `Ticked` matters next."""
        if self.over:
            return None
        times = [at for at in self.rooms.values() if at is not None]
        if self._asks_node and self._ask_node_at is not None:
            times.append(self._ask_node_at)
        return min([*times, self.lost_at + PATIENCE_S])

    def _node_answered(self, node_id: str, now: float) -> list[Effect]:
        if not node_id or not self.node_id or node_id == self.node_id:
            self.over = True
            return [TellBack(tuple(self.rooms))]
        # Another process has the address: the old one is gone for certain.
        self._asks_node = False
        self._ask_homes_now(now)
        return []

    def _node_silent(self, now: float) -> None:
        self._node_asked += 1
        interval = NODE_INTERVALS_S[min(self._node_asked, len(NODE_INTERVALS_S) - 1)]
        self._ask_node_at = now + interval
        if self._node_asked == 1:
            self._ask_homes_now(now)

    def _home_told(self, room: RoomAt, home: tuple[str, int] | None, now: float) -> list[Effect]:
        if room not in self.rooms:
            return []
        if home is not None and home == (self.node_id or home[0], room.epoch):
            self._ask_home_later(room, now)
            return []
        del self.rooms[room]
        return [TellMoved(room)]

    def _ask_home_later(self, room: RoomAt, now: float) -> None:
        if room in self.rooms:
            self.rooms[room] = now + HOME_INTERVAL_S

    def _ask_homes_now(self, now: float) -> None:
        for room, at in self.rooms.items():
            if at is not None:
                self.rooms[room] = min(at, now)

    def _due(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._asks_node and self._ask_node_at is not None and now >= self._ask_node_at:
            self._ask_node_at = None
            effects.append(AskNode())
        for room, at in self.rooms.items():
            if at is not None and now >= at:
                self.rooms[room] = None
                effects.append(AskHome(room))
        return effects

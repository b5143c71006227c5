"""Who sits where: rooms are filled in order, places that become free are filled first. A plain value; no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count as counting

from loadtest.scenario import Media, Role


@dataclass(frozen=True, slots=True)
class Seat:
    """A place of one participant."""

    room: str
    role: str
    publishes: tuple[str, ...]
    number: int
    """Counts the places of all rooms, so that a free one can be given back."""


@dataclass(slots=True)
class Seating:
    """The places of a media scenario. Rooms are named by `prefix` and a number."""

    media: Media
    prefix: str
    _free: list[int] = field(default_factory=list)
    _next: Iterator[int] = field(default_factory=counting)

    def take(self) -> Seat:
        """The first free place."""
        number = heappop(self._free) if self._free else next(self._next)
        size = self.media.room_size
        room, place = divmod(number, size) if size is not None else (0, number)
        role = self._role(place)
        return Seat(f"{self.prefix}-{room}", role.name, role.publishes, number)

    def give_back(self, seat: Seat) -> None:
        """Its participant left."""
        heappush(self._free, seat.number)

    def _role(self, place: int) -> Role:
        for role in self.media.roles:
            if not isinstance(role.count, int) or place < role.count:
                return role
            place -= role.count
        raise AssertionError("a room has as many places as its roles count")

"""The swarm processes of one Locust process: as many as its participants need, a room whole in one where it fits."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count as counting
from pathlib import Path
from typing import Final

from loadtest.access import Target
from loadtest.scenario import Media
from loadtest.seating import Seat, Seating
from loadtest.swarm_client import SwarmClient
from loadtest.swarm_messages import Join, Leave, Open, Report

CAPACITY: Final = 400
"""Participants of one process. Its media is one thread, its signaling another."""


@dataclass(frozen=True, slots=True)
class Place:
    """A participant that was asked to join."""

    seat: Seat
    number: int
    swarm: SwarmClient


@dataclass(slots=True, eq=False)
class _Process:
    client: SwarmClient
    taken: int = 0
    """Places: those of its rooms of a known size, and the participants of others."""


@dataclass(slots=True)
class Swarms:
    """Started as they are needed. `run` makes room names of their own; `log_directory` gets what each says."""

    media: Media
    target: Target
    run: str
    log_directory: Path
    on_report: Callable[[str, Report], None]
    """With the name of the swarm."""
    on_death: Callable[[str, str], None]
    """With the name of the swarm and a sentence."""
    capacity: int = CAPACITY
    _seating: Seating = field(init=False)
    _processes: list[_Process] = field(default_factory=list)
    _rooms: dict[str, _Process] = field(default_factory=dict)
    _seats: threading.Lock = field(default_factory=threading.Lock)
    """Starting a process gives way to other users."""
    _numbers: Iterator[int] = field(default_factory=counting)

    def __post_init__(self) -> None:
        self._seating = Seating(self.media, f"load-{self.run}")

    def join(self) -> Place:
        """A participant more: the first free place, in the swarm of its room."""
        with self._seats:
            seat, number = self._seating.take(), next(self._numbers)
            process = self._process_for(seat)
        tracks = tuple(self.media.tracks[name] for name in seat.publishes)
        process.client.send(Join(number, seat.room, f"{seat.role}-{self.run}-{number}", tracks))
        return Place(seat, number, process.client)

    def leave(self, place: Place) -> None:
        """A participant less."""
        place.swarm.send(Leave(place.number))
        with self._seats:
            self._seating.give_back(place.seat)
            if self.media.room_size is None:
                for process in self._processes:
                    process.taken -= process.client is place.swarm

    def start_first(self) -> None:
        """Start a process before anybody joins, and wait until it is up: its imports take seconds."""
        with self._seats:
            if not self._processes:
                self._start(self.capacity)
        self._processes[0].client.wait_until_ready()

    def close(self) -> None:
        """Everybody leaves; every process ends."""
        for process in self._processes:
            process.client.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.client.pid for process in self._processes]

    def _process_for(self, seat: Seat) -> _Process:
        if (process := self._rooms.get(seat.room)) is not None:
            return process
        size = self.media.room_size
        wanted = 1 if size is None else size
        for process in self._processes:
            if process.taken + wanted <= self.capacity:
                break
        else:
            process = self._start(max(self.capacity, wanted))
        process.taken += wanted
        if size is not None:
            self._rooms[seat.room] = process
        return process

    def _start(self, places: int) -> _Process:
        name = f"swarm-{len(self._processes)}"
        # A participant that leaves holds its two sockets a moment longer than its place.
        orders = Open(
            self.target.url,
            self.target.key,
            self.target.secret,
            sockets=2 * places + places // 2,
            rates=rates(self.media),
        )
        client = SwarmClient(
            orders,
            self.log_directory / f"{name}-{self.run}.log",
            on_report=lambda report: self.on_report(name, report),
            on_death=lambda sentence: self.on_death(name, sentence),
        )
        process = _Process(client)
        self._processes.append(process)
        return process


def rates(media: Media) -> dict[str, float]:
    """Packets a second of published tracks, by kind; a scenario has one rate for each kind."""
    published = {name for role in media.roles for name in role.publishes}
    return {
        track.kind: track.packets_per_second
        for name, track in media.tracks.items()
        if name in published
    }

"""Published SDKs in a call through the Service, which remember when each other's media came.

`PythonCaller` is the Python SDK (the Rust core of the native SDKs), `BrowserCaller` livekit-client in Chromium.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise, permutations
from typing import Self

from livekit import rtc
from playwright.async_api import Browser

from tests.support.browser_client import BrowserClient
from tests.support.python_client import PythonClient
from tests.support.server import Server

SAMPLING_S = 0.1
"""How often Chromium is asked how many pictures it has shown: the resolution of its gaps."""


class Caller(ABC):
    """One participant of a call, with camera and microphone."""

    identity: str
    arrivals: dict[str, list[float]]
    """By identity: when its pictures came (`time.monotonic`)."""

    @abstractmethod
    async def events(self) -> list[str]:
        """What the SDK told, in order: `reconnecting`, `reconnected`, `disconnected ...`, ..."""

    @abstractmethod
    async def sid(self) -> str:
        """The room's sid as the SDK has it now."""

    @abstractmethod
    async def leave(self) -> None:
        """End the call."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    def frames(self, of: "Caller") -> int:
        """How many pictures of another's camera came until now."""
        return len(self.arrivals.get(of.identity, ()))

    def gap(self, of: "Caller", since: float) -> float:
        """The longest time without a picture of another, in seconds, from `since` (`now()`) until now."""
        return longest_gap(self.arrivals.get(of.identity, []), since, now())

    def seen_again(self, of: "Caller", since: float) -> float | None:
        """Seconds from `since` until the first picture after the longest gap; None while nothing comes."""
        times = [since, *(it for it in self.arrivals.get(of.identity, []) if it >= since)]
        if len(times) < 2:
            return None
        end = max(range(1, len(times)), key=lambda index: times[index] - times[index - 1])
        return times[end] - since

    async def sees(self, of: "Caller", *, within_s: float = 30.0, pictures: int = 5) -> None:
        """Until so many more pictures of another came."""
        begin, before = now(), self.frames(of)
        while self.frames(of) < before + pictures:
            if now() - begin > within_s:
                events = "; ".join((await self.events())[-12:])
                raise AssertionError(
                    f"{self.identity} saw no picture of {of.identity} within {within_s:.0f} s; last events: {events}"
                )
            await asyncio.sleep(0.05)


class PythonCaller(Caller):
    """The Python SDK."""

    def __init__(self, client: PythonClient) -> None:
        self.client = client
        self.identity = client.identity

    @property
    def arrivals(self) -> dict[str, list[float]]:  # type: ignore[override]
        """By identity: when its pictures came."""
        video = f"/{rtc.TrackKind.KIND_VIDEO}"
        return {
            key.removesuffix(video): got.arrivals
            for key, got in self.client.received.items()
            if key.endswith(video)
        }

    def heard(self, of: Caller) -> list[float]:
        """When the test tone of another was heard; Chromium's beeps are no test tone."""
        return self.client.of(of.identity, rtc.TrackKind.KIND_AUDIO).arrivals

    @staticmethod
    async def join(
        server: Server, room: str, identity: str, *, single: bool = True, publish: bool = True
    ) -> "PythonCaller":
        """Connect and publish a tone and a moving picture."""
        caller = PythonCaller(await PythonClient.join(server, room, identity, single=single))
        try:
            if publish:
                await caller.client.publish_tone()
                # Small: several callers share this machine with the cluster.
                await caller.client.publish_video(simulcast=False, width=320, height=180)
        except BaseException:
            await caller.leave()
            raise
        return caller

    async def events(self) -> list[str]:
        return list(self.client.events)

    async def sid(self) -> str:
        return await self.client.room.sid

    async def leave(self) -> None:
        await self.client.leave()


class BrowserCaller(Caller):
    """livekit-client in headless Chromium."""

    def __init__(self, client: BrowserClient) -> None:
        self.client = client
        self.identity = client.identity
        self.arrivals = {}
        self._watching = asyncio.create_task(self._watch())

    @staticmethod
    async def join(
        browser: Browser,
        server: Server,
        room: str,
        identity: str,
        *,
        single: bool = True,
        publish: bool = True,
    ) -> "BrowserCaller":
        """Connect and publish Chromium's fake devices."""
        client = await BrowserClient.join(browser, server, room, identity, single=single)
        caller = BrowserCaller(client)
        try:
            if publish:
                await client.publish()
        except BaseException:
            await caller.leave()
            raise
        return caller

    async def events(self) -> list[str]:
        return await self.client.events()

    async def sid(self) -> str:
        return str(await self.client.call("window.rw.room.getSid()"))

    async def leave(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await self.client.leave()

    async def _watch(self) -> None:
        shown: dict[str, int] = {}
        while True:
            for identity, frames in (await self.client.call(_SHOWN)).items():
                # After a reconnection the receiver is a new one and counts from nothing.
                if frames != shown.get(identity, 0) and frames > 0:
                    self.arrivals.setdefault(identity, []).append(now())
                shown[identity] = frames
            await asyncio.sleep(SAMPLING_S)


_SHOWN = """
async () => {
    const shown = {};
    for (const participant of window.rw.room.remoteParticipants.values())
        for (const publication of participant.trackPublications.values()) {
            if (publication.kind !== 'video' || !publication.track || !publication.track.receiver) continue;
            const report = await publication.track.receiver.getStats();
            for (const entry of report.values())
                if (entry.type === 'inbound-rtp') shown[participant.identity] = entry.framesDecoded ?? 0;
        }
    return shown;
}
"""


@asynccontextmanager
async def call(
    server: Server, room: str, *identities: str, single: bool = True
) -> AsyncIterator[list[PythonCaller]]:
    """A running call of Python SDKs: everybody already sees everybody."""
    callers: list[PythonCaller] = []
    try:
        for identity in identities or ("alice", "bob"):
            joined = await PythonCaller.join(server, room, identity, single=single)
            callers.append(joined)  # one by one: who has joined leaves, also when the next fails
        await everybody_sees_everybody(*callers)
        yield callers
    finally:
        await asyncio.gather(*(caller.leave() for caller in callers), return_exceptions=True)


async def everybody_sees_everybody(*callers: Caller, within_s: float = 30.0) -> None:
    """Until each got new pictures of each other one."""
    await asyncio.gather(
        *(one.sees(other, within_s=within_s) for one, other in permutations(callers, 2))
    )


def gaps(callers: list[PythonCaller] | list[Caller], since: float) -> dict[str, float]:
    """The longest gap of each direction since then, as `alice<-bob`: seconds."""
    return {
        f"{one.identity}<-{other.identity}": round(one.gap(other, since), 2)
        for one, other in permutations(callers, 2)
    }


def longest_gap(arrivals: list[float], since: float, until: float) -> float:
    """The longest time between two arrivals, or an arrival and an end of the window."""
    times = [since, *(it for it in arrivals if since <= it <= until), until]
    return max(after - before for before, after in pairwise(times))


def now() -> float:
    """The clock that arrivals are told by."""
    return time.monotonic()

"""A receiver of webhooks that keeps what it got, verified by the published server SDK, and misbehaves on request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web
from livekit.api import TokenVerifier, WebhookReceiver
from livekit.protocol.webhook import WebhookEvent

Behavior = Callable[[WebhookEvent], Awaitable[web.StreamResponse | None]]
"""What to answer; None: 200."""


@dataclass
class WebhookTarget:
    """What has come, in the order it came; `events` were answered with 200."""

    url: str = ""
    events: list[WebhookEvent] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """Requests by event id, whatever was answered."""
    requests: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    behavior: Behavior | None = None
    keeps_requests: bool = False
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def named(self, name: str, room: str = "") -> list[WebhookEvent]:
        """Those of one name, of one room when it is given."""
        return [e for e in self.events if e.event == name and room in ("", e.room.name)]

    def names(self, room: str) -> list[str]:
        """The names of a room's events, in order."""
        return [event.event for event in self.events if event.room.name == room]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait for what came to satisfy it; says what came when it does not."""
        try:
            async with asyncio.timeout(timeout_s), self._came:
                await self._came.wait_for(condition)
        except TimeoutError:
            came = [(event.room.name, event.event) for event in self.events[-40:]]
            raise AssertionError(f"only this came: {came}") from None

    async def told(self) -> None:
        """Wake who waits."""
        async with self._came:
            self._came.notify_all()


@asynccontextmanager
async def webhook_target(
    key: str, secret: str, *, port: int = 0, verify: bool = True
) -> AsyncIterator[WebhookTarget]:
    """Listen on loopback; requests that the SDK does not verify are answered 401 and kept nowhere."""
    target = WebhookTarget()
    receiver = WebhookReceiver(TokenVerifier(key, secret))

    async def receive(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if target.keeps_requests:
            target.requests.append((body, dict(request.headers)))
        if verify:
            try:
                event = receiver.receive(body.decode(), request.headers["Authorization"])
            except Exception as error:  # noqa: BLE001 - the SDK raises many kinds
                return web.Response(status=401, text=str(error))
        else:
            event = WebhookEvent()
        target.seen[event.id] += 1
        answer = await target.behavior(event) if target.behavior is not None else None
        if answer is None:
            target.events.append(event)
        await target.told()
        return web.Response() if answer is None else answer

    app = web.Application()
    app.router.add_post("/{path:.*}", receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_port=True)
    await site.start()
    bound = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    target.url = f"http://127.0.0.1:{bound}/hook"
    try:
        yield target
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await runner.cleanup()

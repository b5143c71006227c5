"""From settings to a running service, and its end.

    settings -> logs -> telemetry -> build -> start ... SIGTERM or SIGINT: drain -> close -> exit

A second signal while draining ends the process at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol, TypeVar

import structlog
import uvloop
from pydantic import ValidationError

from chassis import logs, rpc, telemetry
from chassis.chassis import Chassis, open_chassis
from chassis.errors import SettingsError
from chassis.health import WebServer
from chassis.rpc import AddToServer
from chassis.settings import ChassisSettings, configured

S = TypeVar("S", bound=ChassisSettings)
GC_THRESHOLDS = (20_000, 50, 100)


class App(Protocol):
    """A service, ready to start; what its `build` returns."""

    @property
    def name(self) -> str:
        """The service's name."""
        ...

    async def start(self) -> None:
        """Bind, connect, begin to serve."""
        ...

    async def drain(self) -> None:
        """Take nothing new and wait until what runs has ended or moved; may be cut short."""
        ...

    async def close(self) -> None:
        """Stop serving; called once, after `drain` or in its place."""
        ...


Build = Callable[[S, Chassis], Awaitable[App]]


class ServiceApp:
    """The usual `App`: a gRPC server, the health port, background tasks, and hooks.

    A background task that ends with an error ends the service: it is not healthy without it.
    """

    def __init__(
        self,
        name: str,
        chassis: Chassis,
        *,
        grpc: Sequence[AddToServer] = (),
        max_connection_age_s: float | None = None,
        web: Sequence[WebServer] = (),
        tasks: Sequence[Callable[[], Awaitable[None]]] = (),
        before: Sequence[Callable[[], Awaitable[None]]] = (),
        drain: Callable[[], Awaitable[object]] | None = None,
        after: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self.name = name
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when a background task ended by itself; holds its error."""
        self._chassis = chassis
        self._tasks = tasks
        self._running: list[asyncio.Task[None]] = []
        self._before, self._drain, self._after = before, drain, after
        settings = chassis.settings
        self._health = WebServer(chassis.health.app(chassis.metrics), [settings.health_address])
        self._web = web
        self._server = (
            rpc.make_server(
                settings.grpc_address,
                *grpc,
                auth=chassis.auth,
                max_connection_age_s=max_connection_age_s,
            )
            if grpc
            else None
        )

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC server as others reach it; empty when there is none."""
        return self._chassis.settings.grpc_advertise or (
            self._server.address if self._server else ""
        )

    @property
    def health_address(self) -> str:
        """host:port of the health port as bound."""
        return self._health.addresses[0]

    @property
    def web_addresses(self) -> list[str]:
        """host:port of every web server, as bound."""
        return [address for server in self._web for address in server.addresses]

    async def start(self) -> None:
        """See `App.start`."""
        await self._health.start()
        for hook in self._before:
            await hook()
        if self._server is not None:
            await self._server.start()
        self._running = [asyncio.create_task(self._supervised(task)) for task in self._tasks]
        for server in self._web:
            await server.start()
        self._chassis.health.is_ready = True
        log.info("service started", service=self.name, grpc=self.grpc_address)

    async def drain(self) -> None:
        """See `App.drain`."""
        if self._drain is not None:
            await self._drain()

    async def close(self) -> None:
        """See `App.close`."""
        self._chassis.health.is_ready = False
        for server in self._web:
            await server.stop()
        if self._server is not None:
            await self._server.stop()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for hook in self._after:
            await hook()
        await self._health.stop()
        log.info("service stopped", service=self.name)

    async def _supervised(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("background task failed", service=self.name)
            if not self.failed.done():
                self.failed.set_exception(error)


async def serve(app: App, stop: asyncio.Event, drain_timeout_s: float = 30.0) -> None:
    """Start, wait for `stop` (or a failure of the app), drain, close.

    Cancel it to skip what is left of the drain. Raises what made the app fail.
    """
    try:
        await app.start()
        failed: asyncio.Future[None] | None = getattr(app, "failed", None)
        stopping = asyncio.ensure_future(stop.wait())
        waiting: set[asyncio.Future[Any]] = {stopping} if failed is None else {stopping, failed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if failed is not None and failed.done():
            failed.result()
        try:
            async with asyncio.timeout(drain_timeout_s):
                await app.drain()
        except TimeoutError:
            log.warning("drain cut short", service=app.name, after_s=drain_timeout_s)
    finally:
        await app.close()


def run(build: Build[S], settings_class: type[S]) -> None:
    """The whole life of a service's process; a service's `__main__` calls this and no more."""
    try:
        settings = settings_class()
        logs.configure(json=settings.log_json, level=settings.log_level)
        flush = observe(build.__module__.partition(".")[0], settings)
        for warning in configured().warnings:
            log.warning(warning)
    except (ValidationError, ValueError, SettingsError) as error:
        sys.exit(f"settings: {settings_error_text(error)}")
    try:
        run_loop(_run(build, settings))
    except SettingsError as error:
        sys.exit(f"cannot start: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        flush()


def observe(service: str, settings: ChassisSettings) -> Callable[[], None]:
    """Name the service in its logs and traces; returns what flushes the traces at the end.

    It holds for the caller's context and the tasks made from it.
    """
    logs.bind_process(service=service, node_id=settings.node_id)
    return telemetry.configure(
        service=service,
        node_id=settings.node_id,
        otlp_endpoint=settings.otlp_endpoint,
        sample_ratio=settings.otlp_sample_ratio,
    )


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on this process's event loop; what every entry point uses in place of `asyncio.run`."""
    # A service holds many small objects for as long as calls last: looking at all of them as often as the defaults
    # say costs a tenth of its CPU.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def _run(build: Build[S], settings: S) -> None:
    stop = asyncio.Event()
    this_task = asyncio.current_task()
    assert this_task is not None
    on_signals(stop, this_task.cancel)
    async with AsyncExitStack() as stack:
        stack.enter_context(suppress(asyncio.CancelledError))
        chassis = await stack.enter_async_context(open_chassis(settings))
        app = await built(build(settings, chassis), stop)
        if app is not None:
            await serve(app, stop, settings.drain_timeout_s)


async def built(building: Awaitable[App], stop: asyncio.Event) -> App | None:
    """The app; None when `stop` was set first: some wait long before they can start."""
    task, stopping = asyncio.ensure_future(building), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        log.info("told to stop before the start")
        return None
    finally:
        stopping.cancel()
        task.cancel()
        await asyncio.wait({task})


def on_signals(stop: asyncio.Event, force: Callable[[], object]) -> None:
    """SIGTERM and SIGINT set `stop`; when it is set already, they call `force`."""

    def signaled() -> None:
        if stop.is_set():
            force()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signaled)


def settings_error_text(error: Exception) -> str:
    """One line per wrong setting, without its value."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'all'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
    return str(error)


log = structlog.get_logger(__name__)

"""A service's life: start, health port, drain, close, failure."""

import asyncio
import os
import signal
from functools import partial

import httpx
import pytest

from chassis.chassis import Chassis, memory_chassis, open_chassis
from chassis.errors import SettingsError
from chassis.health import WebServer, bind
from chassis.run import ServiceApp, built, on_signals, serve
from chassis.settings import ChassisSettings


class Diary:
    """Which hooks ran, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def write(self, line: str) -> None:
        self.lines.append(line)


def make(chassis: Chassis, diary: Diary, **parts: object) -> ServiceApp:
    return ServiceApp(
        "test",
        chassis,
        before=[partial(diary.write, "before")],
        drain=partial(diary.write, "drain"),
        after=[partial(diary.write, "after")],
        **parts,  # type: ignore[arg-type]
    )


async def started(app: ServiceApp, chassis: Chassis) -> None:
    async with asyncio.timeout(5):
        while not chassis.health.is_ready:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_stop_drains_then_closes() -> None:
    chassis, diary, stop = memory_chassis(ChassisSettings()), Diary(), asyncio.Event()
    app = make(chassis, diary)
    serving = asyncio.create_task(serve(app, stop))
    await started(app, chassis)
    assert diary.lines == ["before"]
    stop.set()
    await serving
    assert diary.lines == ["before", "drain", "after"]


async def test_health_port_tells_readiness_and_metrics() -> None:
    chassis, stop = memory_chassis(ChassisSettings()), asyncio.Event()
    chassis.metrics.counter("joins_total", "Joins.").add(3)
    chassis.health.tell("bus", lambda: "connected")
    app = ServiceApp("test", chassis)
    serving = asyncio.create_task(serve(app, stop))
    await started(app, chassis)
    async with httpx.AsyncClient(base_url=f"http://{app.health_address}") as client:
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).text == "ready\n"
        assert (await client.get("/readyz?verbose")).text == "ready\nbus: connected\n"
        assert "joins_total 3\n" in (await client.get("/metrics")).text
        chassis.health.is_ready = False
        assert (await client.get("/readyz")).status_code == 503
    stop.set()
    await serving


async def test_drain_that_takes_too_long_is_cut_short() -> None:
    chassis, diary, stop = memory_chassis(ChassisSettings()), Diary(), asyncio.Event()
    app = ServiceApp(
        "test", chassis, drain=asyncio.Event().wait, after=[partial(diary.write, "after")]
    )
    stop.set()
    await serve(app, stop, drain_timeout_s=0.01)
    assert diary.lines == ["after"]


async def test_failed_background_task_ends_the_service() -> None:
    chassis, diary = memory_chassis(ChassisSettings()), Diary()

    async def fail() -> None:
        raise RuntimeError("broken")

    app = make(chassis, diary, tasks=[fail])
    with pytest.raises(RuntimeError, match="broken"):
        await serve(app, asyncio.Event())
    assert diary.lines == ["before", "after"]


async def test_first_signal_stops_and_the_second_forces() -> None:
    stop, forced = asyncio.Event(), asyncio.Event()
    on_signals(stop, forced.set)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            await stop.wait()
        assert not forced.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await forced.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_busy_port_is_said() -> None:
    sock = bind("127.0.0.1:0")
    port = sock.getsockname()[1]
    with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
        WebServer(lambda *_: None, [f"127.0.0.1:{port}"])  # type: ignore[arg-type]
    sock.close()


async def test_chassis_without_an_internal_token_is_refused() -> None:
    with pytest.raises(SettingsError, match="internal_token"):
        async with open_chassis(ChassisSettings()):
            pass


async def test_stop_before_the_app_is_built_ends_the_wait() -> None:
    stop = asyncio.Event()
    ended: list[str] = []

    async def build_for_long() -> ServiceApp:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("building")
        raise AssertionError

    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await built(build_for_long(), stop) is None
    assert ended == ["building"]


async def test_app_that_cannot_be_built_says_why() -> None:
    async def build_badly() -> ServiceApp:
        raise SettingsError("no address")

    with pytest.raises(SettingsError, match="no address"):
        await built(build_badly(), asyncio.Event())

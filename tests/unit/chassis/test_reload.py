"""A configuration file that changes while a service runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog

from chassis import configuration
from chassis.reload import follow_configuration
from chassis.settings import ChassisSettings


@asynccontextmanager
async def following() -> AsyncIterator[asyncio.Queue[ChassisSettings]]:
    """What was taken over, in order."""
    taken: asyncio.Queue[ChassisSettings] = asyncio.Queue()
    task = asyncio.create_task(follow_configuration(ChassisSettings(), taken.put, 0.005))
    await asyncio.sleep(0.02)
    try:
        yield taken
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_change_is_taken_over_and_a_wrong_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("nats_replicas: 1")
    monkeypatch.setenv(configuration.VARIABLE, str(path))
    with structlog.testing.capture_logs() as logs:
        async with following() as taken, asyncio.timeout(5):
            path.write_text("nats_replicas: 2")
            assert (await taken.get()).nats_replicas == 2
            path.write_text("nats_replicas: many")
            while not any("not right" in line["event"] for line in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            path.unlink()
            path.write_text("nats_replicas: 3")
            async with asyncio.timeout(5):
                while (await taken.get()).nats_replicas != 3:
                    pass
    wrong = next(line for line in logs if "not right" in line["event"])
    assert wrong["error"].startswith("nats_replicas: ")


async def test_without_a_file_nothing_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(configuration.VARIABLE, raising=False)
    async with following() as taken:
        assert taken.empty()

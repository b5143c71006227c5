"""Every scenario, small, through Locust against a whole server; and what happens when something breaks."""

import asyncio
import contextlib
import csv
import json
import os
import queue
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
import yaml
from livekit import api

from loadtest import scenario as scenarios
from loadtest.__main__ import main
from loadtest.figures import Figures
from loadtest.process import descendants
from loadtest.report import read_figures
from loadtest.scenario import DEFAULT_TRACKS
from loadtest.swarm_client import SwarmClient
from loadtest.swarm_messages import Join, Joined, Measured, Open, Reconnected, Report
from tests.support import forked
from tests.support.dev_server import KEY, SECRET, DevServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="session")]
SMALL: Mapping[str, list[str]] = {
    "api": ["--users", "2"],
    "churn": ["--users", "6"],
    "classroom": ["--users", "4"],
    "rooms": ["--users", "2"],
    "telehealth": ["--users", "5"],
    "webinar": ["--users", "2", "--participants-per-user", "2"],
}
WIDE = {"received_percent": 60, "loss_percent": 20, "failures_percent": 0, "reconnects": 0}
"""Budgets for a machine that does something else as well; times get ten seconds."""
SECONDS = 4
Said = TypeVar("Said")
AT_ONCE = 4


forked.preload("loadtest.__main__", "matplotlib.figure", "matplotlib.backends.backend_agg")


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of the command line, over."""

    code: int
    output: str
    results: Path

    @property
    def figures(self) -> Figures:
        return read_figures(self.results)

    def column(self, name: str) -> list[float]:
        with (self.results / "timeline.csv").open(newline="") as file:
            return [float(row[name] or "nan") for row in csv.DictReader(file)]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ran(
    server: DevServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[[str], Awaitable[Ran]]]:
    """Every small run, a few at a time, from the first test on; each test waits for its own."""
    directory = tmp_path_factory.mktemp("runs")
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> Ran:
        async with gate:
            path = with_wide_budgets(name, directory)
            return await run(server, directory / name, str(path), *SMALL[name])

    tasks = {name: asyncio.create_task(one(name)) for name in SMALL}
    yield tasks.__getitem__
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


def with_wide_budgets(name: str, directory: Path) -> Path:
    """A copy that judges the same things, with budgets that only a failure breaks."""
    content = yaml.safe_load(scenarios.find(name).read_text())
    content["budgets"] = {it: WIDE.get(it, 10_000) for it in content["budgets"]}
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@contextlib.asynccontextmanager
async def started(
    server: DevServer, results: Path, *arguments: str, secret: str = SECRET
) -> AsyncIterator[BaseProcess]:
    """The command line, running; killed with all it started when the test ends first."""
    command = ["run", *arguments, "--url", server.url]
    command += ["--spawn-rate", "10", "--results", str(results)]
    environment = {"LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": secret}
    async with forked.running(main, command, environment, output_of(results)) as process:
        try:
            yield process
        finally:
            assert process.pid is not None
            for pid in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def run(server: DevServer, results: Path, *arguments: str, secret: str = SECRET) -> Ran:
    """The command line to its end."""
    duration = ["--duration", str(SECONDS)]
    async with started(server, results, *arguments, *duration, secret=secret) as process:
        return await ended(process, results)


async def ended(process: BaseProcess, results: Path) -> Ran:
    """What it printed, and how it ended."""
    code = await forked.ended(process)
    return Ran(code, output_of(results).read_text(), results)


def output_of(results: Path) -> Path:
    """Where a run of these results prints."""
    return results.with_name(f"{results.name}.txt")


async def test_the_command_line_is_a_program(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "loadtest", "list")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert [line.split()[0] for line in output.decode().splitlines()] == scenarios.names()


@pytest.mark.parametrize("name", SMALL)
async def test_a_scenario_runs_keeps_its_budgets_and_leaves_tables_and_plots(
    ran: Callable[[str], Awaitable[Ran]], name: str
) -> None:
    done = await ran(name)
    assert done.code == 0, done.output
    assert "Every budget was kept." in done.output
    assert (done.results / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert (done.results / "locust_stats.csv").is_file()


async def test_every_scenario_is_tried() -> None:
    assert sorted(SMALL) == scenarios.names()


async def test_locust_shows_media_beside_joins(ran: Callable[[str], Awaitable[Ran]]) -> None:
    done = await ran("classroom")
    with (done.results / "locust_stats.csv").open(newline="") as file:
        shown = {
            (row["Type"], row["Name"]): int(row["Request Count"]) for row in csv.DictReader(file)
        }
    assert shown["JOIN", "media"] == 4
    for name in ("packets received, %", "packets lost, %", "latency p50, ms", "latency p99, ms"):
        assert shown["MEDIA", name] > 0
    assert shown["", "Aggregated"] == 4


async def test_a_user_plays_as_many_participants_as_it_is_told(
    ran: Callable[[str], Awaitable[Ran]],
) -> None:
    done = await ran("webinar")
    assert max(done.column("participants")) == 4
    assert max(done.column("users")) == 2


async def test_churn_joins_both_ways_and_more_often_than_there_are_users(
    ran: Callable[[str], Awaitable[Ran]],
) -> None:
    done = await ran("churn")
    assert done.figures.operation("JOIN").count > 6
    stats = (done.results / "locust_stats.csv").read_text()
    assert "signaling /rtc," in stats
    assert "signaling /rtc/v1," in stats


async def test_joins_that_are_refused_break_a_budget_and_say_why(
    server: DevServer, tmp_path: Path
) -> None:
    done = await run(server, tmp_path, "churn", "--users", "4", secret="not-the-secret-of-this-key")
    assert done.code == 1
    assert "BROKEN  failures_percent: the share of" in done.output
    assert (
        "BROKEN  join_p99_ms: the 99th percentile of the times to join was not measured"
        in done.output
    )
    failures = (tmp_path / "locust_failures.csv").read_text()
    assert "JOIN,media," in failures
    assert "HTTP 401" in failures
    written = [
        path.read_text(errors="replace") for path in tmp_path.iterdir() if path.suffix != ".png"
    ]
    assert not any("not-the-secret-of-this-key" in text or "eyJ" in text for text in written)


async def test_the_death_of_a_swarm_ends_the_run_and_is_said(
    server: DevServer, tmp_path: Path
) -> None:
    arguments = ["rooms", "--users", "2", "--duration", "60"]
    async with started(server, tmp_path, *arguments) as process:
        assert process.pid is not None
        swarm = await asyncio.wait_for(until_swarm(process.pid, tmp_path / "locust.log"), 60)
        os.kill(swarm, signal.SIGKILL)
        done = await asyncio.wait_for(ended(process, tmp_path), 40)
    assert done.code == 1
    assert "BROKEN  A swarm process died (killed by SIGKILL)" in done.output


async def until_swarm(pid: int, log: Path) -> int:
    """The swarm process that a run started, once its users are told to play."""
    while True:
        await asyncio.sleep(0.1)
        if not log.is_file() or "All users spawned" not in log.read_text():
            continue
        for child in descendants(pid):
            with contextlib.suppress(OSError):
                if b"loadtest.swarm_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child


@pytest.fixture
def reports() -> queue.Queue[Report]:
    """What the swarm says, in order."""
    return queue.Queue()


async def next_of(reports: queue.Queue[Report], kind: type[Said]) -> Said:
    """The next report of a kind; others are passed over."""
    while True:
        report = await asyncio.to_thread(reports.get, timeout=30)
        if isinstance(report, kind):
            return report


@pytest.fixture
def swarm(server: DevServer, tmp_path: Path, reports: queue.Queue[Report]) -> Iterator[SwarmClient]:
    """A swarm process without Locust."""
    orders = Open(server.url, KEY, SECRET, sockets=8, rates={"audio": 50.0})
    client = SwarmClient(
        orders, tmp_path / "swarm.log", on_report=reports.put, on_death=pytest.fail
    )
    yield client
    client.close()


async def test_a_participant_whose_session_ends_comes_back_and_is_counted(
    server: DevServer, swarm: SwarmClient, reports: queue.Queue[Report]
) -> None:
    swarm.send(Join(1, "revolving", "ann", (DEFAULT_TRACKS["microphone"],)))
    await next_of(reports, Joined)
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as admin:
        await admin.room.remove_participant(
            api.RoomParticipantIdentity(room="revolving", identity="ann")
        )
    assert 0 < (await next_of(reports, Reconnected)).seconds < 20
    drops, level = 0, 0
    while not drops or not level:
        figures = (await next_of(reports, Measured)).figures
        drops, level = drops + figures.drops, figures.participants
    assert (drops, level) == (1, 1)


async def test_the_results_are_plain_json(ran: Callable[[str], Awaitable[Ran]]) -> None:
    done = await ran("api")
    content = json.loads((done.results / "figures.json").read_text())
    assert content["operations"]["API"]["failures"] == 0

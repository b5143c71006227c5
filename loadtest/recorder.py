"""The record of a run, kept where Locust's statistics come together: the only process, or the master of several."""

import csv
import json
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from locust.env import Environment

from loadtest.figures import OPERATIONS, Figures, MediaFigures, OperationFigures, Tally
from loadtest.plan import FIGURES_FILE, TIMELINE_FILE

SAMPLE_INTERVAL_S: Final = 2.0
PROGRESS_EVERY: Final = 5
"""Samples between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the timeline: a span of `SAMPLE_INTERVAL_S`. None where nothing was measured."""

    seconds: float
    """Since the run began, at the span's end."""
    users: int
    participants: int
    joins: int
    join_failures: int
    join_p50_ms: float | None
    join_p99_ms: float | None
    api_calls: int
    api_failures: int
    api_p50_ms: float | None
    api_p99_ms: float | None
    packets: int
    received_percent: float | None
    loss_percent: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    drops: int
    reconnects: int


class Recorder:
    """Begins with a run and ends with it; a new run begins anew and overwrites the files."""

    def __init__(self, environment: Environment, results: Path) -> None:
        self._environment = environment
        self._results = results
        self._tally = Tally()
        self._media = MediaFigures()
        self._before: dict[str, OperationFigures] = {}
        self._accidents: list[str] = []
        self._most_participants = 0
        self._began = 0.0
        self._rows: list[Sample] = []
        self._sampling: tuple[threading.Thread, threading.Event] | None = None

    def begin(self) -> None:
        """A run begins."""
        self._tally, self._media, self._before = Tally(), MediaFigures(), {}
        self._rows, self._most_participants = [], 0
        self._began = time.monotonic()
        is_over = threading.Event()
        thread = threading.Thread(target=self._sample_until, args=(is_over,), daemon=True)
        self._sampling = thread, is_over
        thread.start()

    def add_media(self, source: str, figures: MediaFigures) -> None:
        """What the swarms of one process measured."""
        self._tally.add(source, figures)

    def add_accident(self, sentence: str) -> None:
        """The load test itself failed."""
        self._accidents.append(sentence)

    def end(self) -> None:
        """The run is over: write the files."""
        if self._sampling is None:
            return
        thread, is_over = self._sampling
        self._sampling = None
        is_over.set()
        thread.join()
        self._sample()
        figures = Figures(
            self._operations(),
            self._media,
            time.monotonic() - self._began,
            self._most_participants,
            tuple(self._accidents),
        )
        self._accidents = []
        self._results.mkdir(parents=True, exist_ok=True)
        with (self._results / TIMELINE_FILE).open("w", newline="") as file:
            table = csv.writer(file)
            names = [it.name for it in fields(Sample)]
            table.writerow(names)
            table.writerows([getattr(row, name) for name in names] for row in self._rows)
        (self._results / FIGURES_FILE).write_text(json.dumps(figures.write(), indent=1))

    def _sample_until(self, is_over: threading.Event) -> None:
        while not is_over.wait(SAMPLE_INTERVAL_S):
            self._sample()
            if len(self._rows) % PROGRESS_EVERY == 0:
                print(_progress(self._rows[-1]), flush=True)

    def _sample(self) -> None:
        media = self._tally.take()
        self._media = self._media + media
        self._most_participants = max(self._most_participants, media.participants)
        now = self._operations()
        joins, api, reconnects = (
            now[kind].since(self._before.get(kind, OperationFigures())) for kind in OPERATIONS
        )
        self._before = now
        runner = self._environment.runner
        self._rows.append(
            Sample(
                seconds=round(time.monotonic() - self._began, 1),
                users=runner.user_count if runner is not None else 0,
                participants=media.participants,
                joins=joins.count,
                join_failures=joins.failures,
                join_p50_ms=joins.percentile_ms(0.5),
                join_p99_ms=joins.percentile_ms(0.99),
                api_calls=api.count,
                api_failures=api.failures,
                api_p50_ms=api.percentile_ms(0.5),
                api_p99_ms=api.percentile_ms(0.99),
                packets=media.received,
                received_percent=media.received_percent,
                loss_percent=media.loss_percent,
                latency_p50_ms=media.latency_ms(0.5),
                latency_p99_ms=media.latency_ms(0.99),
                drops=media.drops,
                reconnects=reconnects.count - reconnects.failures,
            )
        )

    def _operations(self) -> dict[str, OperationFigures]:
        found = {kind: OperationFigures() for kind in OPERATIONS}
        for (_, kind), entry in self._environment.stats.entries.items():
            if kind in found:
                times = {int(time): count for time, count in entry.response_times.items()}
                found[kind] += OperationFigures(entry.num_requests, entry.num_failures, times)
        return found


def _progress(row: Sample) -> str:
    parts = [f"{row.seconds:6.0f} s", f"{row.users} users"]
    if row.participants or row.packets:
        parts.append(f"{row.participants} participants")
    if row.received_percent is not None:
        parts.append(f"{row.received_percent:.1f} % of media received")
    if row.api_calls:
        parts.append(f"{row.api_calls / SAMPLE_INTERVAL_S:.0f} API calls/s")
    if row.joins:
        parts.append(f"{row.joins / SAMPLE_INTERVAL_S:.1f} joins/s")
    failures = row.join_failures + row.api_failures
    if failures or row.drops:
        parts.append(f"{failures} failures, {row.drops} drops")
    return "   ".join(parts)

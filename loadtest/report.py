"""What a run left, for people: a table, and plots over its time. Reads the results directory, judges nothing."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.figures import API, JOIN, RECONNECT, Figures, OperationFigures
from loadtest.plan import FIGURES_FILE, TIMELINE_FILE

PLOT_FILE: Final = "timeline.png"
OPERATION_NAMES: Final = {JOIN: "joins", API: "API calls", RECONNECT: "reconnects"}
NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot: a column of the timeline."""

    column: str
    label: str
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot; left out when none of its columns has a value, but for the first."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    is_logarithmic: bool = False


def read_figures(results: Path) -> Figures:
    """Of the run that left them."""
    return Figures.read(json.loads((results / FIGURES_FILE).read_text()))


def table(figures: Figures) -> str:
    """The run in a few aligned lines."""
    rows = [("", "done", "failed", "p50 ms", "p99 ms")]
    for kind, name in OPERATION_NAMES.items():
        operation = figures.operation(kind)
        if operation.count:
            rows.append((name, *_cells(operation)))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    media = figures.media
    if figures.most_participants:
        lines += [
            "",
            f"participants, at most         {figures.most_participants}",
            f"media packets received        {media.received:,} ({_percent(media.received_percent)} of those sent)",
            f"media packets lost            {media.lost:,} ({_percent(media.loss_percent)})",
            f"media latency p50, p99        {_ms(media.latency_ms(0.5))}, {_ms(media.latency_ms(0.99))}",
            f"sessions that ended unasked   {media.drops}",
        ]
    if media.rejected:
        lines.append(f"commands the engine refused   {media.rejected} (see the swarms' logs)")
    return "\n".join([f"\nRun of {figures.seconds:.0f} s", *lines])


def plot(results: Path) -> Path:
    """Write the plots of the timeline; the file."""
    # A slow import, and a reader of home directories, which only this needs.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    columns = read_timeline(results)
    seconds = columns["seconds"]
    first, *others = PANELS
    panels = [first, *(it for it in others if any(_has_values(columns, line) for line in it.lines))]
    figure = Figure(figsize=(10, 2.1 * len(panels) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for line in panel.lines:
            if line.column in columns and (panel is first or _has_values(columns, line)):
                values = columns[line.column]
                axis.plot(seconds, values, color=line.color, label=line.label, marker=".")
        axis.set_title(panel.title, loc="left", fontsize=10)
        axis.set_ylabel(panel.unit)
        if panel.is_logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
        else:
            axis.margins(y=0.15)
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    axes[-1].set_xlabel("seconds since the run began")
    figure.savefig(results / PLOT_FILE, dpi=110)
    return results / PLOT_FILE


def read_timeline(results: Path) -> dict[str, list[float]]:
    """Columns by name; not a number where nothing was measured."""
    with (results / TIMELINE_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else ()
    return {name: [float(row[name] or "nan") for row in rows] for name in names}


def _has_values(columns: Mapping[str, Sequence[float]], line: Line) -> bool:
    return any(value > 0 for value in columns.get(line.column, ()))


def _cells(operation: OperationFigures) -> tuple[str, str, str, str]:
    times = (operation.percentile_ms(share) for share in (0.5, 0.99))
    p50, p99 = (NOTHING if time is None else f"{time:.0f}" for time in times)
    return f"{operation.count:,}", f"{operation.failures:,}", p50, p99


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g} %"


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g} ms"


BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
"""Colors that people who see fewer of them still tell apart."""
PANELS: Final = (
    Panel(
        "Load",
        "count",
        (Line("users", "Locust users", ORANGE), Line("participants", "participants", BLUE)),
    ),
    Panel(
        "Joins, of each 2 s",
        "count",
        (Line("joins", "joins", BLUE), Line("join_failures", "failed", RED)),
    ),
    Panel(
        "Time to join",
        "ms",
        (Line("join_p50_ms", "p50", BLUE), Line("join_p99_ms", "p99", ORANGE)),
    ),
    Panel(
        "API calls, of each 2 s",
        "count",
        (Line("api_calls", "calls", BLUE), Line("api_failures", "failed", RED)),
    ),
    Panel(
        "Time of an API call",
        "ms",
        (Line("api_p50_ms", "p50", BLUE), Line("api_p99_ms", "p99", ORANGE)),
    ),
    Panel("Media packets received, of each 2 s", "packets", (Line("packets", "received", BLUE),)),
    Panel(
        "Media packets received and lost",
        "%",
        (Line("received_percent", "received", GREEN), Line("loss_percent", "lost", RED)),
    ),
    Panel(
        "Media latency",
        "ms",
        (Line("latency_p50_ms", "p50", BLUE), Line("latency_p99_ms", "p99", ORANGE)),
        is_logarithmic=True,
    ),
    Panel(
        "Sessions that ended unasked, of each 2 s",
        "count",
        (Line("drops", "ended", RED), Line("reconnects", "back again", GREEN)),
    ),
)

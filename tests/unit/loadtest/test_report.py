"""The table, the plots and the exit code of what a run left."""

import json
from pathlib import Path

import pytest

from loadtest.__main__ import COULD_NOT_RUN, main, report_on
from loadtest.figures import Figures, MediaFigures, OperationFigures
from loadtest.report import plot, read_timeline, table
from loadtest.scenario import Scenario

FIGURES = Figures(
    {"JOIN": OperationFigures(1200, 3, {40: 1197}), "API": OperationFigures()},
    MediaFigures(0, 2000.0, 1990, 10, (0,) * 30 + (100,), drops=1),
    60.4,
    300,
)
TIMELINE = """seconds,users,joins,join_p50_ms,packets
2.0,5,4,31,
4.0,9,,,120
"""


def scenario(**budgets: float) -> Scenario:
    api = {"calls_per_second": 1}
    return Scenario.model_validate(
        {
            "description": "x",
            "users": 1,
            "spawn_rate": 1,
            "duration_s": 1,
            "api": api,
            "budgets": budgets,
        }
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES.write()))
    (tmp_path / "timeline.csv").write_text(TIMELINE)
    return tmp_path


def test_the_table_shows_what_was_done_and_leaves_out_what_was_not() -> None:
    lines = table(FIGURES).splitlines()
    assert lines[1] == "Run of 60 s"
    assert lines[3].split() == ["joins", "1,200", "3", "40", "40"]
    assert "API" not in table(FIGURES)
    assert "media packets received        1,990 (99.5 % of those sent)" in lines
    assert "sessions that ended unasked   1" in lines


def test_a_missing_value_of_the_timeline_is_no_zero(results: Path) -> None:
    assert read_timeline(results)["packets"][1] == 120
    assert str(read_timeline(results)["packets"][0]) == "nan"


def test_a_kept_budget_exits_0_and_a_broken_one_1(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_on(results, scenario(join_p99_ms=40)) == 0
    assert "Every budget was kept." in capsys.readouterr().out
    assert report_on(results, scenario(join_p99_ms=39, reconnects=0)) == 1
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BROKEN")]
    assert len(broken) == 2
    assert (results / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_in_which_nothing_happened_is_plotted_too(results: Path) -> None:
    (results / "timeline.csv").write_text("seconds,users\n2.0,0\n")
    assert plot(results).is_file()


def test_a_run_without_figures_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_on(tmp_path, scenario()) == COULD_NOT_RUN
    assert "left no figures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "clasroom"], "no scenario 'clasroom': give one of api, churn"),
        (["run", "api", "--url", "http://x"], "give the address clients use: ws:// or wss://"),
        (["run", "api", "--participants-per-user", "2"], "has no media"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == COULD_NOT_RUN
    assert said in capsys.readouterr().err


def test_list_shows_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6

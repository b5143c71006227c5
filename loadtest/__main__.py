"""`python -m loadtest run SCENARIO`: a scenario against a server by Locust, judged by its budgets."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest import plan as plans
from loadtest import scenario as scenarios
from loadtest.access import Target
from loadtest.budgets import broken
from loadtest.plan import FIGURES_FILE, Plan
from loadtest.report import plot, read_figures, table
from loadtest.scenario import Scenario, ScenarioError

LOCUSTFILE: Final = Path(__file__).resolve().parent / "locustfile.py"
BUDGET_BROKEN: Final = 1
COULD_NOT_RUN: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and do it; the exit code."""
    options, for_locust = _parser().parse_known_args(arguments)
    try:
        return int(options.perform(options, for_locust))
    except ScenarioError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return COULD_NOT_RUN


def run(options: argparse.Namespace, for_locust: Sequence[str]) -> int:
    """One scenario."""
    plan = _plan(options)
    scenario = plan.scenario()
    plan.results.mkdir(parents=True, exist_ok=True)
    _run_locust(options, for_locust, plan, scenario)
    if "--worker" in for_locust:
        return 0
    return report_on(plan.results, scenario)


def report_on(results: Path, scenario: Scenario) -> int:
    """Print and plot what a run left, and judge it."""
    if not (results / FIGURES_FILE).is_file():
        print(f"loadtest: the run left no figures: see {results / 'locust.log'}", file=sys.stderr)
        return COULD_NOT_RUN
    figures = read_figures(results)
    print(table(figures))
    plot(results)
    print(f"\nCSV and timeline.png in {results}")
    sentences = broken(scenario.budgets, figures)
    for sentence in sentences:
        print(f"BROKEN  {sentence}")
    if not sentences:
        print("Every budget was kept.")
    return BUDGET_BROKEN if sentences else 0


def show_scenarios(_options: argparse.Namespace, _for_locust: Sequence[str]) -> int:
    """A line for each scenario that comes with the load test."""
    for name in scenarios.names():
        scenario = scenarios.load(scenarios.find(name))
        print(f"{name:11} {scenario.description.strip()}")
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    path = scenarios.find(options.scenario)
    if not options.url.startswith(("ws://", "wss://")):
        raise ScenarioError(f"--url {options.url!r}: give the address clients use: ws:// or wss://")
    now = datetime.now(tz=UTC).strftime("%Y%m%d-%H%M%S")
    results = options.results or Path("loadtest-results") / f"{path.stem}-{now}"
    return Plan(
        path,
        Target(options.url.rstrip("/"), options.key, options.secret),
        results,
        options.participants_per_user,
    )


def _run_locust(
    options: argparse.Namespace, for_locust: Sequence[str], plan: Plan, scenario: Scenario
) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]
    command += ["--logfile", str(plan.results / "locust.log")]
    if "--worker" not in for_locust:
        command += ["--users", str(options.users or scenario.users)]
        command += ["--spawn-rate", str(options.spawn_rate or scenario.spawn_rate)]
        command += ["--run-time", f"{options.duration or scenario.duration_s}s"]
        command += ["--csv", str(plan.results / "locust"), "--only-summary"]
        if options.web:
            command += ["--web-host", "127.0.0.1", "--web-port", str(options.web_port)]
            print(
                f"Locust's page: http://127.0.0.1:{options.web_port} (Ctrl-C ends it)", flush=True
            )
        else:
            command += ["--headless"]
    _wait_for(command, plan)


def _wait_for(command: Sequence[str], plan: Plan) -> None:
    """Until Locust ends; Ctrl-C is for Locust, which ends the run and lets us report on it."""
    process = subprocess.Popen([*command], env=plan.environment())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Load a Roomwright, or any LiveKit-compatible server.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    one = commands.add_parser(
        "run",
        help="run a scenario",
        description=run.__doc__,
        epilog="Further flags go to Locust as they are, such as --master --expect-workers 2, or --worker.",
    )
    one.add_argument("scenario", help="a name that `list` shows, or the path of a scenario file")
    environment = os.environ.get
    one.add_argument(
        "--url",
        default=environment(plans.URL, "ws://127.0.0.1:7880"),
        help=f"ws:// or wss:// address that clients use (default: {plans.URL}, or a dev server's)",
    )
    one.add_argument(
        "--key", default=environment(plans.KEY, "devkey"), help=f"API key (default: {plans.KEY})"
    )
    one.add_argument(
        "--secret",
        default=environment(plans.SECRET, "secret"),
        help=f"its secret (better in {plans.SECRET}, where other users cannot read it)",
    )
    one.add_argument("--users", type=_positive_int, help="Locust users, instead of the scenario's")
    one.add_argument(
        "--participants-per-user", type=_positive_int, help="instead of the scenario's"
    )
    one.add_argument("--spawn-rate", type=_positive, help="Locust users a second")
    one.add_argument("--duration", type=_positive_int, metavar="SECONDS", help="of the run")
    one.add_argument("--results", type=Path, help="directory for CSV and plots")
    one.add_argument("--web", action="store_true", help="Locust's page instead of one run")
    one.add_argument("--web-port", type=_positive_int, default=8089)
    one.set_defaults(perform=run)
    commands.add_parser("list", help="show the scenarios").set_defaults(perform=show_scenarios)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("give a number above 0")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("give a number of 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())

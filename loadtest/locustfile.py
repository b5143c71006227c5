"""What Locust loads: the users of a scenario, and the wiring of swarms and record. Started by `python -m loadtest run`.

By hand: `locust -f loadtest/locustfile.py` with the environment variables of `loadtest.plan`.
"""

import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, Final

from locust import events
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest.figures import MediaFigures, total
from loadtest.media_desk import MediaDesk
from loadtest.plan import Plan
from loadtest.recorder import Recorder
from loadtest.scenario import ScenarioError
from loadtest.users import user_classes

ACCIDENT: Final = "loadtest_accident"
REPORT_KEY: Final = "loadtest_media"

try:
    PLAN: Final = Plan.read(os.environ)
    SCENARIO: Final = PLAN.scenario()
except ScenarioError as error:
    sys.exit(f"loadtest: {error}")
globals().update(user_classes(SCENARIO, PLAN.target))  # where Locust looks for users


def wire(
    environment: Environment, runner: LocalRunner | MasterRunner | WorkerRunner, **_: Any
) -> None:
    """Join the swarms of this process with the record, which may be in another."""
    logging.getLogger("locust.stats_logger").setLevel(
        logging.WARNING
    )  # we print a table of our own
    recorder = None if isinstance(runner, WorkerRunner) else Recorder(environment, PLAN.results)
    if not isinstance(runner, MasterRunner) and SCENARIO.media is not None:
        _wire_swarms(environment, runner, recorder)
    if recorder is not None and not isinstance(runner, WorkerRunner):
        _wire_record(environment, runner, recorder)
    time.sleep(
        0.01
    )  # gevent's clock stood still while we were imported; the run's timer must not begin in the past


def _wire_swarms(
    environment: Environment, runner: LocalRunner | WorkerRunner, recorder: Recorder | None
) -> None:
    unsent: list[MediaFigures] = []

    def publish(figures: MediaFigures) -> None:
        if recorder is not None:
            recorder.add_media("here", figures)
        else:
            unsent.append(figures)

    def report(data: dict[str, Any], **_: Any) -> None:
        if unsent:
            level = unsent[-1].participants
            data[REPORT_KEY] = {**asdict(total(unsent)), "participants": level}
            unsent.clear()

    assert SCENARIO.media is not None  # the caller saw
    desk = MediaDesk(
        environment,
        SCENARIO.media,
        SCENARIO.budgets,
        PLAN.target,
        PLAN.results,
        publish=publish,
        on_accident=lambda sentence: runner.send_message(ACCIDENT, {"sentence": sentence}),
    )
    desk.prepare()
    environment.events.test_start.add_listener(lambda **_: desk.begin())
    environment.events.test_stop.add_listener(lambda **_: desk.end())
    environment.events.quitting.add_listener(lambda **_: desk.end())
    if isinstance(runner, WorkerRunner):
        environment.events.report_to_master.add_listener(lambda data, **_: report(data))


def _wire_record(
    environment: Environment, runner: LocalRunner | MasterRunner, recorder: Recorder
) -> None:
    def take(client_id: str, data: dict[str, Any], **_: Any) -> None:
        if (figures := data.get(REPORT_KEY)) is not None:
            recorder.add_media(client_id, MediaFigures.read(figures))

    def stop(msg: Any, **_: Any) -> None:
        sentence = msg.data["sentence"]
        print(sentence, file=sys.stderr, flush=True)
        recorder.add_accident(sentence)
        end = runner.quit if environment.web_ui is None else runner.stop
        # Not here: this is the thread that heard of the death, and ending waits for that thread.
        threading.Thread(target=end, daemon=True).start()

    runner.register_message(ACCIDENT, stop)
    environment.events.test_start.add_listener(lambda **_: recorder.begin())
    environment.events.test_stop.add_listener(lambda **_: recorder.end())
    environment.events.worker_report.add_listener(take)


events.init.add_listener(wire)

"""Between the swarms of one Locust process and Locust: what they tell becomes Locust's statistics."""

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, assert_never

from locust.env import Environment
from locust.stats import StatsError

from loadtest.access import Target
from loadtest.figures import JOIN, MEDIA, RECONNECT, MediaFigures, Tally
from loadtest.scenario import Budgets, Media
from loadtest.swarm_messages import (
    Joined,
    JoinFailed,
    Measured,
    NotBack,
    Ready,
    Reconnected,
    Report,
)
from loadtest.swarms import Swarms
from loadtest.users import MediaUser, tell

SHOW_INTERVAL_S: Final = 1.0
JOIN_NAME: Final = "media"
RECONNECT_NAME: Final = "after a drop"
SHOWN: Final[tuple[tuple[str, Callable[[MediaFigures], float | None], str], ...]] = (
    ("packets received, %", lambda it: it.received_percent, "received_percent"),
    ("packets lost, %", lambda it: it.loss_percent, "loss_percent"),
    ("latency p50, ms", lambda it: it.latency_ms(0.5), "latency_p50_ms"),
    ("latency p99, ms", lambda it: it.latency_ms(0.99), "latency_p99_ms"),
)
"""Name in Locust's table, value of the last second, budget it is held against."""


class MediaDesk:
    """The swarms of one Locust process. `publish` gets each second's figures, `on_accident` a sentence."""

    def __init__(
        self,
        environment: Environment,
        media: Media,
        budgets: Budgets,
        target: Target,
        results: Path,
        *,
        publish: Callable[[MediaFigures], None],
        on_accident: Callable[[str], None],
    ) -> None:
        self._environment = environment
        self._media = media
        self._budgets = budgets
        self._target = target
        self._results = results
        self._publish = publish
        self._on_accident = on_accident
        self._tally = Tally()
        self._swarms: Swarms | None = None
        self._is_over = threading.Event()
        self._is_over.set()

    def prepare(self) -> None:
        """Start a swarm for the next run, so that the run's time is not spent on that."""
        self._results.mkdir(parents=True, exist_ok=True)
        self._swarms = Swarms(
            self._media,
            self._target,
            secrets.token_hex(3),
            self._results,
            on_report=self._take,
            on_death=self._bury,
        )
        self._swarms.start_first()

    def begin(self) -> None:
        """A run begins: its participants get rooms of their own."""
        if self._swarms is None:
            self.prepare()
        self._tally = Tally()
        MediaUser.swarms = self._swarms
        self._is_over = threading.Event()
        threading.Thread(target=self._show, args=(self._is_over,), daemon=True).start()

    def end(self) -> None:
        """The run is over, and so are its swarms."""
        MediaUser.swarms = None
        self._is_over.set()
        if self._swarms is not None:
            self._swarms.close()
            self._swarms = None
            self._publish(MediaFigures())  # nobody is here any more

    def _take(self, swarm: str, report: Report) -> None:
        match report:
            case Joined():
                tell(self._environment, JOIN, JOIN_NAME, report.seconds)
            case JoinFailed():
                tell(self._environment, JOIN, JOIN_NAME, None, report.reason)
            case Reconnected():
                tell(self._environment, RECONNECT, RECONNECT_NAME, report.seconds)
            case NotBack():
                tell(self._environment, RECONNECT, RECONNECT_NAME, None, report.reason)
            case Measured():
                self._tally.add(swarm, report.figures)
            case Ready():
                pass
            case _:
                assert_never(report)

    def _bury(self, swarm: str, sentence: str) -> None:
        self._tally.remove(swarm)
        self._on_accident(sentence)

    def _show(self, is_over: threading.Event) -> None:
        while not is_over.wait(SHOW_INTERVAL_S):
            figures = self._tally.take()
            self._publish(figures)
            for name, read, budget in SHOWN:
                if (value := read(figures)) is not None:
                    self._show_line(name, value, budget)

    def _show_line(self, name: str, value: float, budget: str) -> None:
        """A line of Locust's table, kept out of its totals: it is not a request, and its unit may be percent."""
        stats = self._environment.stats
        entry = stats.get(name, MEDIA)
        entry.log(value, 0)  # type: ignore[arg-type]  # whole milliseconds are what it says, not what it needs
        limit = getattr(self._budgets, budget)
        is_least = budget == "received_percent"
        if limit is None or (value >= limit if is_least else value <= limit):
            return
        failure = f"{'below' if is_least else 'above'} the budget of {limit:g}"
        entry.log_error(failure)
        key = StatsError.create_key(MEDIA, name, failure)
        stats.errors.setdefault(key, StatsError(MEDIA, name, failure)).occurred()

"""What one run is to do, handed to Locust in its environment. Variables that LiveKit's tools know keep their names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from loadtest import scenario as scenarios
from loadtest.access import Target
from loadtest.scenario import Scenario, ScenarioError

URL: Final = "LIVEKIT_URL"
KEY: Final = "LIVEKIT_API_KEY"
SECRET: Final = "LIVEKIT_API_SECRET"
SCENARIO: Final = "LOADTEST_SCENARIO"
RESULTS: Final = "LOADTEST_RESULTS"
PARTICIPANTS_PER_USER: Final = "LOADTEST_PARTICIPANTS_PER_USER"
FIGURES_FILE: Final = "figures.json"
TIMELINE_FILE: Final = "timeline.csv"


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario against a server, with a directory for what comes of it."""

    scenario_path: Path
    target: Target
    results: Path
    participants_per_user: int | None = None
    """Instead of the scenario's."""

    def scenario(self) -> Scenario:
        """As in the file, with what the plan changes; `ScenarioError` when it cannot be."""
        scenario = scenarios.load(self.scenario_path)
        if self.participants_per_user is None:
            return scenario
        if scenario.media is None:
            raise ScenarioError(
                f"{self.scenario_path}: has no media, so no number of participants for a user"
            )
        update = {"participants_per_user": self.participants_per_user}
        return scenario.model_copy(update={"media": scenario.media.model_copy(update=update)})

    def environment(self) -> dict[str, str]:
        """Ours, and the plan."""
        plan = {
            URL: self.target.url,
            KEY: self.target.key,
            SECRET: self.target.secret,
            SCENARIO: str(self.scenario_path.resolve()),
            RESULTS: str(self.results.resolve()),
        }
        if self.participants_per_user is not None:
            plan[PARTICIPANTS_PER_USER] = str(self.participants_per_user)
        return {**os.environ, **plan}

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """From `environment`; `ScenarioError` names the variable that is missing."""
        for name in (URL, KEY, SECRET, SCENARIO, RESULTS):
            if not environment.get(name):
                raise ScenarioError(f"set {name}, or start with: python -m loadtest run")
        each = environment.get(PARTICIPANTS_PER_USER)
        return cls(
            scenarios.find(environment[SCENARIO]),
            Target(environment[URL], environment[KEY], environment[SECRET]),
            Path(environment[RESULTS]),
            int(each) if each else None,
        )

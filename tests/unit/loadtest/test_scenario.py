"""Scenario files: those that come with the load test, and what is said of bad ones."""

from pathlib import Path

import pytest
import yaml

from loadtest import scenario as scenarios
from loadtest.scenario import Scenario, ScenarioError

MEDIA = {"roles": [{"name": "caller", "count": 2, "publishes": ["microphone"]}]}
GOOD = {
    "description": "two who talk",
    "users": 2,
    "spawn_rate": 1,
    "duration_s": 5,
    "media": MEDIA,
    "budgets": {"join_p99_ms": 100},
}


def written(directory: Path, content: object) -> Path:
    path = directory / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", scenarios.names())
def test_the_scenarios_that_come_along_are_valid_and_judge_something(name: str) -> None:
    scenario = scenarios.load(scenarios.find(name))
    assert scenario.budgets.model_dump(exclude_none=True)


def test_the_scenarios_are_those_the_readme_names() -> None:
    readme = (scenarios.SCENARIOS.parent / "README.md").read_text()
    assert [name for name in scenarios.names() if f"| `{name}` |" not in readme] == []


def test_a_small_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    scenario = scenarios.load(written(tmp_path, GOOD))
    assert scenario.media is not None
    assert scenario.media.participants_per_user == 1
    assert scenario.media.room_size == 2
    assert set(scenario.media.tracks) == {"camera", "microphone"}
    assert scenario.media.tracks["camera"].packets_per_second == 120
    assert scenario.publishes
    assert scenario.joins is None


def test_a_role_for_the_rest_makes_one_room() -> None:
    roles = [{"name": "presenter", "count": 1}, {"name": "viewer", "count": "rest"}]
    scenario = Scenario.model_validate({**GOOD, "media": {"roles": roles}})
    assert scenario.media is not None
    assert scenario.media.room_size is None
    assert not scenario.publishes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("users: [", "not YAML"),
        ("just words", "a scenario is a mapping"),
        ({**GOOD, "user": 3}, "user: no such setting"),
        ({key: GOOD[key] for key in GOOD if key != "users"}, "users: is missing"),
        ({**GOOD, "users": 0}, "users: Input should be greater than 0"),
        ({**GOOD, "users": 1.5}, "users: Input should be a valid integer"),
        ({**GOOD, "media": None}, "give at least one of media, joins and api"),
        ({**GOOD, "budgets": {"join_p9_ms": 1}}, "budgets.join_p9_ms: no such setting"),
        (
            {**GOOD, "budgets": {"loss_percent": -1}},
            "budgets.loss_percent: Input should be greater",
        ),
        (
            {**GOOD, "budgets": {"received_percent": 101}},
            "budgets.received_percent: Input should be less than or equal to 100",
        ),
        (
            {**GOOD, "media": {"roles": [{"name": "a", "count": "all"}]}},
            "media.roles.0.count: give how many, 1 or more, or 'rest'",
        ),
        (
            {**GOOD, "media": {"roles": [{"name": "a", "count": True}]}},
            "media.roles.0.count: give how many",
        ),
        (
            {**GOOD, "media": {"roles": [{"name": "a", "count": 1, "publishes": ["screen"]}]}},
            "media: role 'a' publishes 'screen', which is none of the tracks (camera, microphone)",
        ),
        (
            {
                **GOOD,
                "media": {"roles": [{"name": "a", "count": "rest"}, {"name": "b", "count": 1}]},
            },
            "media: only the last role may have the count 'rest'",
        ),
        (
            {**GOOD, "media": {"roles": [{"name": "a", "count": 1}, {"name": "a", "count": 1}]}},
            "media: two roles are called 'a'",
        ),
        (
            {**GOOD, "media": {**MEDIA, "stay_s": {"least": 3, "most": 2}}},
            "media.stay_s: least (3) is more than most (2)",
        ),
        (
            {**GOOD, "joins": {"paths": ["/rtc/v2"]}},
            "joins.paths.0: Input should be '/rtc' or '/rtc/v1'",
        ),
        ({**GOOD, "api": {"calls": {"MakeRoom": 1}}}, "api.calls.MakeRoom"),
    ],
)
def test_a_bad_file_is_told_by_name_place_and_reason(
    tmp_path: Path, content: object, said: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ScenarioError) as caught:
        scenarios.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenarios.load(written(tmp_path, {**GOOD, "users": 0, "spawn_rate": -1, "x": 1}))
    assert len(str(caught.value).splitlines()) == 3


def test_two_tracks_of_a_kind_with_other_rates_are_refused(tmp_path: Path) -> None:
    def track(rate: int) -> dict[str, object]:
        shape = {"kind": "video", "packets_per_frame": 1, "payload_bytes": 500}
        return {**shape, "frames_per_second": rate}

    media = {
        "roles": [{"name": "a", "count": 1, "publishes": ["fast", "slow"]}],
        "tracks": {"fast": track(30), "slow": track(5)},
    }
    with pytest.raises(ScenarioError, match="two video tracks that are published"):
        scenarios.load(written(tmp_path, {**GOOD, "media": media}))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ScenarioError, match="api, churn, classroom, rooms, telehealth, webinar"):
        scenarios.find("clasroom")

"""Settings of placement that cannot work are refused with a sentence."""

import json

import pytest
from pydantic import ValidationError

from placement.core.choose import Policy, Region
from placement.settings import PlacementSettings

EU = {"name": "eu", "lat": 50.1, "lon": 8.7}


def test_defaults_are_the_default_policy() -> None:
    assert PlacementSettings().policy == Policy()


def test_regions_come_from_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACEMENT_REGIONS", json.dumps([EU]))
    monkeypatch.setenv("PLACEMENT_NODE_SELECTOR", "regionaware")
    policy = PlacementSettings().policy
    assert (policy.selector, policy.regions) == ("regionaware", {"eu": Region("eu", 50.1, 8.7)})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"node_selector": "regionaware"}, "regionaware needs regions"),
        ({"regions": [EU, EU]}, "a name is there twice"),
        ({"regions": [{**EU, "lat": 91}]}, "less than or equal to 90"),
        ({"regions": [{"name": "eu"}]}, "lat"),
        ({"node_strategy": "pack", "node_sort_by": "random"}, "sort_by other than random"),
        ({"node_sort_by": "luck"}, "node_sort_by"),
        ({"cpu_load_limit": 1.1}, "cpu_load_limit"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        PlacementSettings(**changes)  # type: ignore[arg-type]

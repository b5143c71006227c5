"""What the chart's checks find in manifests."""

from __future__ import annotations

import re

from tools import chart
from tools.chart_values import CHART, ROOT

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"


def test_right_object_has_no_fault() -> None:
    assert list(chart.faults_of(CONFIG)) == []


def test_unknown_field_is_a_fault() -> None:
    (fault,) = chart.faults_of(CONFIG + "date: {}\n")
    assert fault.startswith("ConfigMap/a")
    assert "date" in fault


def test_name_that_stands_twice_is_a_fault() -> None:
    assert list(chart.faults_of(f"{CONFIG}---\n{CONFIG}")) == ["ConfigMap/a stands twice"]


def test_object_of_another_api_is_left_to_the_server() -> None:
    other = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: a}\nspec: {x: 1}\n"
    assert list(chart.faults_of(other)) == []


def test_every_refusal_says_something_else() -> None:
    said = [refusal.says for refusal in chart.refusals()]
    assert len(said) == len(set(said)) > 0
    assert len(chart.BRANCHES) > 1


def test_query_of_keda_names_metrics_that_exist() -> None:
    text = (CHART / "templates" / "availability.yaml").read_text()
    declared = "".join(path.read_text() for path in (ROOT / "services").glob("*/*/metrics.py"))
    named = set(re.findall(r"roomwright_(?:sfu|placement|signaling)_\w+", text))
    assert named
    assert {name for name in named if f'"{name}"' not in declared} == set()

"""Every query of the dashboard and of the alerts asks for metrics, and by labels, that exist."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from chassis.bus import MemoryBus
from chassis.chassis import watch_bus
from chassis.telemetry import Metrics, watch_process
from placement.metrics import PlacementMetrics
from sfu.metrics import SfuMetrics
from signaling.metrics import SignalingMetrics
from webhook.metrics import WebhookMetrics

CHART = Path(__file__).parents[3] / "charts" / "roomwright"
OF_THE_SCRAPE = frozenset({"namespace", "pod", "job", "instance", "container", "endpoint"})
"""Labels that Prometheus adds: `job` is the service's name (the ServiceMonitor's jobLabel)."""
PARTS = {"histogram": ("_bucket", "_sum", "_count")}
NOT_METRICS = frozenset(
    {"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset"}
)

Declared = Mapping[str, tuple[str, frozenset[str]]]
Selector = tuple[str, frozenset[str]]
"""A metric's name as queried, and the labels it is selected by."""


def declared() -> Declared:
    """Kind and labels of every metric of the services, by the name a query uses."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for service in (SignalingMetrics, PlacementMetrics, SfuMetrics, WebhookMetrics):
        metrics = Metrics({"node_id": "ND_x", "node_type": "SERVER"})
        watch_process(metrics)
        watch_bus(metrics, MemoryBus())
        service(metrics)
        for name, (kind, labels) in metrics.declared.items():
            extra = frozenset({"le"}) if kind == "histogram" else frozenset()
            for part in PARTS.get(kind, ("",)):
                before = found.get(name + part, (kind, frozenset()))[1]
                found[name + part] = (kind, before | labels | extra)
    return found


def selectors(query: str) -> Iterator[Selector]:
    """The metrics a PromQL query selects. Knows no more of PromQL than the queries here use."""
    text = re.sub(r"\[[^]]*\]", "", query)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    text = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", text)
    for name, braces, matchers in re.findall(
        r"([A-Za-z_:][\w:]*)\s*(?:(\{)([^}]*)\}|(?![\w:]|\s*\())", text
    ):
        if name in NOT_METRICS:
            continue
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers) if braces else []
        yield name, frozenset(labels)


def groupings(query: str) -> set[str]:
    """Labels a query groups by."""
    found = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query)
    return {label.strip() for one in found for label in one.split(",") if label.strip()}


def wrong(query: str, known: Declared) -> list[str]:
    """What a query asks for that is not there."""
    errors, labels = [], set(OF_THE_SCRAPE)
    names = list(selectors(query))
    for name, selected in names:
        if name not in known:
            errors.append(f"no metric {name}")
            continue
        labels |= known[name][1]
        errors += [
            f"{name} has no label {label}" for label in selected - known[name][1] - OF_THE_SCRAPE
        ]
    errors += [f"no label {label} to group by" for label in groupings(query) - labels]
    return errors if names else ["selects nothing"]


def dashboard_queries() -> list[tuple[str, str]]:
    dashboard = json.loads((CHART / "dashboards" / "roomwright.json").read_text())
    panels = [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    variables = [
        (variable["name"], re.sub(r"label_values\((.*), (\w+)\)", r"max by (\2) (\1)", query))
        for variable in dashboard["templating"]["list"]
        if isinstance(query := variable.get("definition"), str)
    ]
    return panels + variables


def alert_queries() -> list[tuple[str, str]]:
    text = (CHART / "files" / "alerts.yaml").read_text()
    rules = yaml.safe_load(re.sub(r"\{\{[^}]*\}\}", "x", text))
    return [(rule["alert"], rule["expr"]) for rule in rules]


def test_every_query_asks_for_what_the_services_show() -> None:
    queries = dashboard_queries() + alert_queries()
    assert len(queries) > 50
    known = declared()
    found = {title: errors for title, query in queries if (errors := wrong(query, known))}
    assert found == {}


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = json.loads((CHART / "dashboards" / "roomwright.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


KNOWN: Declared = {
    "a_total": ("counter", frozenset({"kind"})),
    "h_bucket": ("histogram", frozenset({"le", "kind"})),
}


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ('sum by (kind) (rate(a_total{kind="b_total{x}", pod=~".*"}[5m])) > 0', []),
        ("histogram_quantile(0.95, sum by (le) (rate(h_bucket[$__rate_interval]))) / 1000", []),
        ("a_total + on (pod) b_total", ["no metric b_total"]),
        ("rate(h_sum[1m])", ["no metric h_sum"]),
        ('a_total{color="red"}', ["a_total has no label color"]),
        ("sum by (color) (a_total)", ["no label color to group by"]),
        ("1 + 1", ["selects nothing"]),
        ("max(a_totals)", ["no metric a_totals"]),
    ],
)
def test_queries_for_what_is_not_there_are_found(query: str, errors: list[str]) -> None:
    assert wrong(query, KNOWN) == errors

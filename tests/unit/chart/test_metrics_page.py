"""The operators' page names every metric there is, and no other."""

import re
from pathlib import Path

from chassis.bus import MemoryBus
from chassis.chassis import watch_bus
from chassis.telemetry import Metrics, watch_process
from placement.metrics import PlacementMetrics
from sfu.metrics import SfuMetrics
from signaling.metrics import SignalingMetrics
from webhook.metrics import WebhookMetrics

PAGE = Path(__file__).parents[3] / "docs" / "operators" / "observe.md"
ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|(.*)$", re.MULTILINE)


def shown() -> dict[str, frozenset[str]]:
    """Every metric and its labels, without those on all of the field's names."""
    found: dict[str, frozenset[str]] = {}
    for service in (SignalingMetrics, PlacementMetrics, SfuMetrics, WebhookMetrics):
        metrics = Metrics()
        watch_process(metrics)
        watch_bus(metrics, MemoryBus())
        service(metrics)
        found |= {name: labels for name, (_, labels) in metrics.declared.items()}
    return found


def said() -> dict[str, frozenset[str]]:
    """Every metric in a table of the page, and the labels said of it."""
    found = {}
    for names, rest in ROW.findall(PAGE.read_text()):
        for name in re.findall(r"`((?:livekit|roomwright|process)_\w+)`", names):
            found[name] = frozenset(re.findall(r"\w+", rest.partition("|")[0]))
    return found


def test_every_metric_is_said_with_its_labels() -> None:
    assert said() == shown(), "bring docs/operators/observe.md up to date"

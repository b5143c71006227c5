"""Metrics in Prometheus' text format; traces only with an exporter."""

import sys

import pytest

from chassis import telemetry
from chassis.errors import SettingsError
from chassis.telemetry import Metrics


def test_counters_and_gauges_render() -> None:
    metrics = Metrics()
    joins = metrics.counter("joins_total", "Joins.", ["result"])
    rooms = metrics.gauge("rooms", "Rooms now.")
    joins.add(1, "ok")
    joins.add(2, 'q"\\\n')
    rooms.read_by(lambda: 2.5)
    assert metrics.render() == (
        "# HELP joins_total Joins.\n# TYPE joins_total counter\n"
        'joins_total{result="ok"} 1\njoins_total{result="q\\"\\\\\\n"} 2\n'
        "# HELP rooms Rooms now.\n# TYPE rooms gauge\nrooms 2.5\n"
    )


def test_histogram_counts_are_cumulative() -> None:
    metrics = Metrics()
    seconds = metrics.histogram("s", "Seconds.", [0.1, 1])
    for value in (0.1, 0.5, 7):
        seconds.observe(value)
    assert metrics.render().splitlines()[2:] == [
        's_bucket{le="0.1"} 1',
        's_bucket{le="1"} 2',
        's_bucket{le="+Inf"} 3',
        "s_sum 7.6",
        "s_count 3",
    ]


def test_counter_can_be_kept_elsewhere() -> None:
    metrics, totals = Metrics(), {("a",): 1.0}
    drops = metrics.counter("drops_total", "Drops.", ["reason"])
    drops.read_by(lambda: totals)
    totals["a",] = 7.0
    assert drops.value("a") == 7
    assert 'drops_total{reason="a"} 7\n' in metrics.render()


def test_metrics_with_the_names_of_the_field_carry_its_constant_labels() -> None:
    metrics = Metrics({"node_id": "ND_x", "node_type": "SERVER"})
    metrics.gauge("livekit_room_total", "Rooms.").set(2)
    metrics.gauge("roomwright_rooms", "Rooms.").set(2)
    metrics.histogram("livekit_s", "S.", [1], ["kind"]).observe(1, "a")
    lines = metrics.render().splitlines()
    assert 'livekit_room_total{node_id="ND_x",node_type="SERVER"} 2' in lines
    assert "roomwright_rooms 2" in lines
    assert 'livekit_s_bucket{node_id="ND_x",node_type="SERVER",kind="a",le="1"} 1' in lines


def test_gauge_rows_can_be_kept_elsewhere() -> None:
    metrics = Metrics()
    rows: dict[tuple[str, ...], float] = {("a",): 1.0}
    metrics.gauge("g", "G.", ["of"]).read_rows_by(lambda: rows)
    rows["b",] = 2.0
    assert metrics.render().splitlines()[2:] == ['g{of="a"} 1', 'g{of="b"} 2']


def test_process_cost_is_shown() -> None:
    metrics = Metrics()
    telemetry.watch_process(metrics)
    values = dict(line.split() for line in metrics.render().splitlines() if line[0] != "#")
    assert float(values["process_cpu_seconds_total"]) > 0
    assert float(values["process_resident_memory_bytes"]) > 1e6


def test_name_is_declared_once() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "A.")
    with pytest.raises(ValueError, match="declared twice"):
        metrics.gauge("a_total", "A.")


def test_missing_exporter_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it were not installed, also where it is.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(SettingsError, match="install opentelemetry-exporter-otlp-proto-grpc"):
        telemetry.configure(service="x", node_id="ND_x", otlp_endpoint="http://127.0.0.1:4318")

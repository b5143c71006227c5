"""Traces: begun at the edge, carried as text, exported only when asked for and sampled."""

import asyncio
import contextvars
import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from chassis import logs, telemetry
from chassis.errors import NotFound

Exported = Callable[[], list[ReadableSpan]]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """What was exported by now, of a service that exports everything."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(telemetry, "_exporter", lambda _endpoint: exporter)
    finished: list[ReadableSpan] = []

    def flush() -> list[ReadableSpan]:
        if not finished:
            stop()
            finished.extend(exporter.get_finished_spans())
        return finished

    stop = telemetry.configure(service="x", node_id="ND_x", otlp_endpoint="http://x:1")
    yield flush
    telemetry.configure(service="x", node_id="ND_x", otlp_endpoint=None)


def test_every_trace_has_an_id_though_nothing_is_exported() -> None:
    assert telemetry.trace_id() == ""
    with telemetry.trace_from_here("join"):
        one = telemetry.trace_id()
        with telemetry.span("step") as step:
            assert telemetry.trace_id() == one
            assert not step.is_recording()
    with telemetry.trace_from_here("join"):
        assert len(one) == 32
        assert telemetry.trace_id() not in ("", one)
    assert telemetry.trace_id() == ""


def test_a_trace_goes_on_where_its_text_arrives(exported: Exported) -> None:
    with telemetry.trace_from_here("join", room="r"):
        carried = telemetry.traceparent()
    with telemetry.continued(carried), telemetry.span("open"):
        pass
    opened, joined = sorted(exported(), key=lambda it: it.name, reverse=True)
    assert (opened.name, joined.name) == ("open", "join")
    assert opened.parent is not None
    assert joined.context is not None
    assert opened.parent.span_id == joined.context.span_id
    assert joined.attributes == {"room": "r"}


@pytest.mark.parametrize("carried", ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-1-01"])
def test_a_text_that_names_no_trace_begins_none(carried: str, exported: Exported) -> None:
    with telemetry.continued(carried), telemetry.span("open"):
        assert telemetry.trace_id() == ""
    assert exported() == []


def test_what_is_not_sampled_costs_no_span_but_keeps_its_id(exported: Exported) -> None:
    with telemetry.continued("00-" + "a" * 32 + "-" + "b" * 16 + "-00"), telemetry.span("open"):
        assert telemetry.trace_id() == "a" * 32
        assert telemetry.traceparent().endswith("-00")
    assert exported() == []


def test_none_sampled_exports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(telemetry, "_exporter", lambda _endpoint: exporter)

    def joined() -> None:
        stop = telemetry.configure(
            service="x", node_id="ND_x", otlp_endpoint="http://x:1", sample_ratio=0.0
        )
        with telemetry.trace_from_here("join"), telemetry.span("step"):
            assert telemetry.trace_id() != ""
        stop()

    contextvars.copy_context().run(joined)
    assert exporter.get_finished_spans() == ()


def test_a_failed_step_says_its_code_and_never_the_error_text(exported: Exported) -> None:
    with pytest.raises(NotFound), telemetry.trace_from_here("a"):
        raise NotFound("no room of ann")
    with pytest.raises(ValueError, match="secret"), telemetry.trace_from_here("b"):
        raise ValueError("secret")
    told = [(it.name, it.status.status_code, it.status.description) for it in exported()]
    error = trace.StatusCode.ERROR
    assert told == [("a", error, "not_found"), ("b", error, "ValueError")]
    assert [list(it.events) for it in exported()] == [[], []]


async def test_a_task_that_outlives_its_trace_leaves_it() -> None:
    async def outlive() -> str:
        telemetry.leave_trace()
        return telemetry.trace_id()

    with telemetry.trace_from_here("join"):
        assert await asyncio.create_task(outlive()) == ""
        assert telemetry.trace_id() != ""


async def test_services_of_one_process_export_under_their_own_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporters: list[InMemorySpanExporter] = []

    def exporter(_endpoint: str) -> InMemorySpanExporter:
        exporters.append(InMemorySpanExporter())
        return exporters[-1]

    monkeypatch.setattr(telemetry, "_exporter", exporter)

    async def service(name: str) -> None:
        stop = telemetry.configure(service=name, node_id="ND_x", otlp_endpoint="http://x:1")
        await asyncio.sleep(0)
        with telemetry.trace_from_here("join"):
            await asyncio.sleep(0)
        stop()

    await asyncio.gather(service("one"), service("two"))
    spans = [one.get_finished_spans() for one in exporters]
    assert [[it.resource.attributes["service.name"] for it in group] for group in spans] == [
        ["one"],
        ["two"],
    ]


def test_log_lines_name_the_process_and_the_trace() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()

    def write() -> str:
        logs.configure(json=True, level="info", stream=stream)
        logs.bind_process(service="sfu", node_id="ND_x")
        with telemetry.trace_from_here("join"):
            structlog.get_logger("x").info("here", node="ND_other")
            logging.getLogger("x").warning("of a library")
            return telemetry.trace_id()

    try:
        trace_id = contextvars.copy_context().run(write)
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        structlog.reset_defaults()
    for line in stream.getvalue().splitlines():
        event = json.loads(line)
        assert (event["service"], event["node_id"]) == ("sfu", "ND_x")
        assert event["trace_id"] == trace_id
    assert len(stream.getvalue().splitlines()) == 2

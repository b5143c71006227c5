"""Traces and metrics. The only module that imports opentelemetry's SDK.

A trace begins at the edge, with a socket or an API call, and covers steps of the control plane. Its
context travels as W3C `traceparent`, in gRPC metadata, contracts and NATS headers. Every trace has
an id, for log lines; spans are made and leave the process over OTLP only when an endpoint is set and
the trace is sampled. Metrics are counters, gauges and histograms declared once per service in its
`metrics.py` and read in Prometheus' text format on the health port. Never a span or a metric per
media packet.
"""

from __future__ import annotations

import importlib
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context as Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.errors import ServiceError, SettingsError

Attribute = str | int
Span = trace.Span


def configure(
    *, service: str, node_id: str, otlp_endpoint: str | None, sample_ratio: float = 1.0
) -> Callable[[], None]:
    """Export this service's traces when an endpoint is given; returns what flushes them at the end.

    It holds for the caller's context and the tasks made from it, so that several services can run
    in one process. `sample_ratio` is of the traces that begin here; those that come from elsewhere
    keep what was decided there.
    """
    if not otlp_endpoint:
        _tracer.set(None)
        return lambda: None
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        resource=Resource.create({"service.name": service, "service.instance.id": node_id}),
        span_limits=SpanLimits(max_span_attribute_length=MAX_ATTRIBUTE_CHARACTERS),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(_exporter(otlp_endpoint)))
    _tracer.set(provider.get_tracer("roomwright"))
    return provider.shutdown


def inject(headers: MutableMapping[str, str]) -> None:
    """Put the current trace context into headers; nothing when no trace is active."""
    _PROPAGATOR.inject(headers)


def extract(headers: Mapping[str, str]) -> Context:
    """The trace context that headers carry; an empty one when they carry none."""
    return _PROPAGATOR.extract(headers, Context())


def traceparent() -> str:
    """The current trace context as one text, for a contract's field; empty when there is none."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers)
    return headers.get("traceparent", "")


def trace_id() -> str:
    """The id of the current trace, 32 hexadecimal digits; empty when there is none."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def current() -> Context | None:
    """The current trace context, to be taken up by `under` later; None when there is none."""
    span_now = trace.get_current_span()
    if not span_now.get_span_context().is_valid:
        return None
    return trace.set_span_in_context(span_now, Context())


@contextmanager
def under(context: Context | None) -> Iterator[None]:
    """Run a block within a trace context; within none for None."""
    token = contexts.attach(Context() if context is None else context)
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def continued(carried: str) -> Iterator[None]:
    """Run a block within the trace that a `traceparent` text names; within none for a bad one."""
    with under(extract({"traceparent": carried}) if carried else None):
        yield


def enter_trace(context: Context) -> None:
    """From here on, what happens in this task belongs to this trace, until another or `leave_trace`."""
    contexts.attach(context)


def leave_trace() -> None:
    """From here on, what happens in this task belongs to no trace."""
    contexts.attach(Context())


def begin_trace(name: str, **attributes: Attribute) -> trace.Span:
    """Begin a trace, whatever came before; `attributes` never hold tokens or join requests.

    The caller ends its first span by `end()`.
    """
    tracer = _tracer.get()
    if tracer is not None:
        return tracer.start_span(name, Context(), attributes=attributes)
    return NonRecordingSpan(
        SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False)
    )


@contextmanager
def trace_from_here(name: str, **attributes: Attribute) -> Iterator[trace.Span]:
    """Run a block within a trace that begins with it."""
    made = begin_trace(name, **attributes)
    with _within(made, trace.set_span_in_context(made, Context())):
        yield made


@contextmanager
def span(name: str, parent: Context | None = None, **attributes: Attribute) -> Iterator[trace.Span]:
    """One step of the current trace, or of `parent`; nothing outside of a trace.

    `attributes` never hold tokens or join requests.
    """
    context = contexts.get_current() if parent is None else parent
    made = begin_span(name, context, **attributes)
    with _within(made, trace.set_span_in_context(made, context)):
        yield made


def begin_span(name: str, parent: Context | None, **attributes: Attribute) -> trace.Span:
    """A step that the caller ends by `end()`, however long it takes.

    Costs next to nothing, and makes no span, when the trace is not sampled or there is none.
    """
    tracer = _tracer.get()
    above = trace.get_current_span(parent)
    if tracer is None or not above.get_span_context().trace_flags.sampled:
        return NonRecordingSpan(above.get_span_context())
    return tracer.start_span(name, parent, attributes=attributes)


def context_of(made: trace.Span) -> Context:
    """The trace context below a span."""
    return trace.set_span_in_context(made, Context())


def annotate(**attributes: Attribute) -> None:
    """Add to the current step."""
    trace.get_current_span().set_attributes(attributes)


def fail(made: trace.Span, why: str) -> None:
    """Mark a step as failed; `why` is a fixed text, a code or a public message."""
    made.set_status(Status(StatusCode.ERROR, why))


@contextmanager
def _within(made: trace.Span, context: Context) -> Iterator[None]:
    token = contexts.attach(context)
    try:
        yield
    except ServiceError as error:
        fail(made, error.code.value)
        raise
    except Exception as error:
        # The class alone: an error's text may quote what a client sent.
        fail(made, type(error).__name__)
        raise
    finally:
        contexts.detach(token)
        made.end()


def _exporter(endpoint: str) -> Any:
    module = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
    try:
        exporter = importlib.import_module(module)
    except ImportError:
        raise SettingsError(
            "otlp_endpoint is set, but the OTLP exporter is not installed: "
            "install opentelemetry-exporter-otlp-proto-grpc, or unset otlp_endpoint"
        ) from None
    return exporter.OTLPSpanExporter(
        endpoint=endpoint, insecure=not endpoint.startswith("https://")
    )


MAX_ATTRIBUTE_CHARACTERS: Final = 256
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_IDS: Final = RandomIdGenerator()
_tracer: ContextVar[trace.Tracer | None] = ContextVar("tracer", default=None)


Labels = tuple[str, ...]
M = TypeVar("M", "Counter", "Gauge", "Histogram")
FIELD_PREFIX: Final = "livekit_"
"""Metrics under names that the field's dashboards know; they carry the constant labels."""


class Metrics:
    """A service's metrics; `render` gives them in Prometheus' text format.

    `field_labels` stand on every metric whose name begins with `FIELD_PREFIX`.
    """

    def __init__(self, field_labels: Mapping[str, str] | None = None) -> None:
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        self._field_labels = tuple((field_labels or {}).items())

    @property
    def declared(self) -> Mapping[str, tuple[str, frozenset[str]]]:
        """Kind and label names of every metric, by name."""
        return {
            name: (metric.kind, frozenset((*(key for key, _ in metric.constant), *metric.labels)))
            for name, metric in self._metrics.items()
        }

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """A count that only grows; our own names end in `_total`."""
        return self._add(Counter(name, help_text, tuple(labels)))

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        """A value that goes up and down."""
        return self._add(Gauge(name, help_text, tuple(labels)))

    def histogram(
        self, name: str, help_text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """A distribution, in buckets with these inclusive upper bounds."""
        return self._add(Histogram(name, help_text, tuple(labels), buckets))

    def render(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        return "".join(line + "\n" for metric in self._metrics.values() for line in metric.lines())

    def _add(self, metric: M) -> M:
        if metric.name in self._metrics:
            raise ValueError(f"metric {metric.name} is declared twice")
        if metric.name.startswith(FIELD_PREFIX):
            metric.constant = self._field_labels
        self._metrics[metric.name] = metric
        return metric


def watch_process(metrics: Metrics) -> None:
    """The process's own CPU time and memory, under the names Prometheus' client libraries use."""
    cpu = metrics.counter("process_cpu_seconds_total", "User and system CPU time, in seconds.")
    cpu.read_by(lambda: {(): time.process_time()})
    memory = metrics.gauge("process_resident_memory_bytes", "Resident memory.")
    page = os.sysconf("SC_PAGE_SIZE")
    memory.read_by(lambda: float(Path("/proc/self/statm").read_text().split()[1]) * page)


class _Metric:
    """Name, help and label names; values are kept per tuple of label values."""

    kind = "untyped"

    def __init__(self, name: str, help_text: str, labels: Labels) -> None:
        self.name = name
        self.constant: tuple[tuple[str, str], ...] = ()
        """Labels with the same value on every sample."""
        self._help = help_text
        self.labels = labels

    def lines(self) -> Iterator[str]:
        """The metric's lines in the text format."""
        yield f"# HELP {self.name} {self._help}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self._samples()

    def _samples(self) -> Iterator[str]:
        raise NotImplementedError

    def _sample(self, suffix: str, values: Labels, value: float, **more: str) -> str:
        pairs = [*self.constant, *zip(self.labels, values, strict=True), *more.items()]
        text = ",".join(f'{name}="{_escaped(label)}"' for name, label in pairs)
        braces = f"{{{text}}}" if text else ""
        return f"{self.name}{suffix}{braces} {_number(value)}"

    def _check(self, values: Labels) -> Labels:
        if len(values) != len(self.labels):
            raise ValueError(f"metric {self.name} has the labels {self.labels}, not {values}")
        return values


class Counter(_Metric):
    """A count that only grows, kept here or read from where it is kept."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: Labels) -> None:
        super().__init__(name, help_text, labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}
        self._read: Callable[[], Mapping[Labels, float]] | None = None

    def add(self, amount: float = 1.0, *labels: str) -> None:
        """Count `amount` more."""
        key = self._check(labels)
        self._values[key] = self._values.get(key, 0.0) + amount

    def value(self, *labels: str) -> float:
        """The count now."""
        return self._current().get(self._check(labels), 0.0)

    def read_by(self, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Ask `read` at each collection, for totals that somebody else keeps, by label values."""
        self._read = read

    def _current(self) -> Mapping[Labels, float]:
        return self._values if self._read is None else self._read()

    def _samples(self) -> Iterator[str]:
        for labels, value in self._current().items():
            yield self._sample("", self._check(labels), value)


class Gauge(_Metric):
    """A value that goes up and down, set by its owner or read by a function."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, labels: Labels) -> None:
        super().__init__(name, help_text, labels)
        self._values: dict[Labels, float] = {}
        self._read: Callable[[], float] | None = None
        self._read_rows: Callable[[], Mapping[Labels, float]] | None = None

    def set(self, value: float, *labels: str) -> None:
        """The value from now on."""
        self._values[self._check(labels)] = value

    def read_by(self, read: Callable[[], float]) -> None:
        """Ask `read` at each collection; for gauges without labels."""
        self._check(())
        self._read = read

    def read_rows_by(self, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Ask `read` at each collection, for gauges with labels."""
        self._read_rows = read

    def _samples(self) -> Iterator[str]:
        if self._read is not None:
            yield self._sample("", (), self._read())
        rows = self._values if self._read_rows is None else self._read_rows()
        for labels, value in rows.items():
            yield self._sample("", self._check(labels), value)


class Histogram(_Metric):
    """A distribution over fixed buckets."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Labels, buckets: Sequence[float]) -> None:
        super().__init__(name, help_text, labels)
        self._bounds = sorted(buckets)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        key = self._check(labels)
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + value

    def _samples(self) -> Iterator[str]:
        for labels, counts in self._counts.items():
            below = 0
            for bound, count in zip([*self._bounds, float("inf")], counts, strict=True):
                below += count
                bound_text = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield self._sample("_bucket", labels, below, le=bound_text)
            yield self._sample("_sum", labels, self._sums[labels])
            yield self._sample("_count", labels, below)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)

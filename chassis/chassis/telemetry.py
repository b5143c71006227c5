"""Traces and metrics. The only module that imports opentelemetry's SDK.

Traces cover steps of the control plane; their context travels as W3C `traceparent`, in gRPC
metadata and NATS headers, and leaves the process over OTLP only when an endpoint is set. Metrics
are counters, gauges and histograms declared once per service in its `metrics.py` and read in
Prometheus' text format on the health port. Never a span or a metric per packet.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from chassis.errors import SettingsError


def configure(*, service: str, node_id: str, otlp_endpoint: str | None) -> Callable[[], None]:
    """Start exporting traces when an endpoint is given; returns what flushes them at the end."""
    if not otlp_endpoint:
        return lambda: None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.instance.id": node_id})
    )
    provider.add_span_processor(BatchSpanProcessor(_exporter(otlp_endpoint)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def inject(headers: MutableMapping[str, str]) -> None:
    """Put the current trace context into headers; nothing when no trace is active."""
    propagate.inject(headers)


def extract(headers: Mapping[str, str]) -> Context:
    """The trace context that headers carry; an empty one when they carry none."""
    return propagate.extract(headers)


@contextmanager
def span(name: str, parent: Context | None = None, **attributes: str | int) -> Iterator[trace.Span]:
    """One step of the control plane; `attributes` never hold tokens or join requests."""
    with trace.get_tracer("roomwright").start_as_current_span(
        name, context=parent, attributes=attributes
    ) as current:
        yield current


def _exporter(endpoint: str) -> Any:
    module = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    try:
        exporter = importlib.import_module(module)
    except ImportError:
        raise SettingsError(
            "otlp_endpoint is set, but the OTLP exporter is not installed: "
            "install opentelemetry-exporter-otlp-proto-http, or unset otlp_endpoint"
        ) from None
    return exporter.OTLPSpanExporter(endpoint=endpoint)


Labels = tuple[str, ...]
M = TypeVar("M", "Counter", "Gauge", "Histogram")


class Metrics:
    """A service's metrics; `render` gives them in Prometheus' text format."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """A count that only grows; `name` ends in `_total`."""
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
        self._metrics[metric.name] = metric
        return metric


class _Metric:
    """Name, help and label names; values are kept per tuple of label values."""

    kind = "untyped"

    def __init__(self, name: str, help_text: str, labels: Labels) -> None:
        self.name = name
        self._help = help_text
        self._labels = labels

    def lines(self) -> Iterator[str]:
        """The metric's lines in the text format."""
        yield f"# HELP {self.name} {self._help}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self._samples()

    def _samples(self) -> Iterator[str]:
        raise NotImplementedError

    def _sample(self, suffix: str, values: Labels, value: float, **more: str) -> str:
        pairs = [*zip(self._labels, values, strict=True), *more.items()]
        text = ",".join(f'{name}="{_escaped(label)}"' for name, label in pairs)
        braces = f"{{{text}}}" if text else ""
        return f"{self.name}{suffix}{braces} {_number(value)}"

    def _check(self, values: Labels) -> Labels:
        if len(values) != len(self._labels):
            raise ValueError(f"metric {self.name} has the labels {self._labels}, not {values}")
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

    def set(self, value: float, *labels: str) -> None:
        """The value from now on."""
        self._values[self._check(labels)] = value

    def read_by(self, read: Callable[[], float]) -> None:
        """Ask `read` at each collection; for gauges without labels."""
        self._check(())
        self._read = read

    def _samples(self) -> Iterator[str]:
        if self._read is not None:
            yield self._sample("", (), self._read())
        for labels, value in self._values.items():
            yield self._sample("", labels, value)


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

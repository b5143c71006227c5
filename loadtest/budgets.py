"""Whether a run kept its scenario's budgets: figures in, a sentence for each broken one out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loadtest.figures import API, JOIN, RECONNECT, Figures
from loadtest.scenario import Budgets


@dataclass(frozen=True, slots=True)
class Measure:
    """What one budget is about."""

    what: str
    unit: str
    read: Callable[[Figures], float | None]
    """None: not measured in this run."""
    is_least: bool = False
    """The budget is the least that will do, not the most."""
    may_be_absent: bool = False
    """Nothing measured keeps the budget."""


def broken(budgets: Budgets, figures: Figures) -> list[str]:
    """A sentence for each accident and each budget that was not kept."""
    sentences = list(figures.accidents)
    for name, measure in MEASURES.items():
        limit = getattr(budgets, name)
        if limit is not None and (sentence := _judge(name, measure, limit, figures)):
            sentences.append(sentence)
    return sentences


def _judge(name: str, measure: Measure, limit: float, figures: Figures) -> str | None:
    value = measure.read(figures)
    if value is None:
        if measure.may_be_absent:
            return None
        return f"{name}: {measure.what} was not measured: nothing of the kind happened."
    if value >= limit if measure.is_least else value <= limit:
        return None
    bound = "at least" if measure.is_least else "at most"
    unit = measure.unit and f" {measure.unit}"
    return (
        f"{name}: {measure.what} was {_number(value)}{unit}; the budget is {bound} {limit:g}{unit}."
    )


def _number(value: float) -> str:
    """Never rounded to something that hides on which side of a budget it lies, for budgets of four digits."""
    return f"{value:.0f}" if value == round(value) else f"{value:.5g}"


def _time(kind: str, share: float) -> Callable[[Figures], float | None]:
    return lambda figures: figures.operation(kind).percentile_ms(share)


MEASURES: Final[Mapping[str, Measure]] = {
    "join_p50_ms": Measure("the median time to join", "ms", _time(JOIN, 0.5)),
    "join_p99_ms": Measure("the 99th percentile of the times to join", "ms", _time(JOIN, 0.99)),
    "api_p50_ms": Measure("the median time of an API call", "ms", _time(API, 0.5)),
    "api_p99_ms": Measure("the 99th percentile of API calls' times", "ms", _time(API, 0.99)),
    "failures_percent": Measure(
        "the share of joins, API calls and reconnects that failed",
        "%",
        lambda figures: figures.failures_percent,
    ),
    "loss_percent": Measure(
        "the share of media packets lost", "%", lambda figures: figures.media.loss_percent
    ),
    "received_percent": Measure(
        "the share of media packets received",
        "%",
        lambda figures: figures.media.received_percent,
        is_least=True,
    ),
    "latency_p50_ms": Measure(
        "the median latency of media packets", "ms", lambda figures: figures.media.latency_ms(0.5)
    ),
    "latency_p99_ms": Measure(
        "the 99th percentile of media packets' latency",
        "ms",
        lambda figures: figures.media.latency_ms(0.99),
    ),
    "reconnects": Measure(
        "the number of sessions that ended unasked", "", lambda figures: float(figures.media.drops)
    ),
    "reconnect_p99_ms": Measure(
        "the 99th percentile of the times to reconnect",
        "ms",
        _time(RECONNECT, 0.99),
        may_be_absent=True,
    ),
}
"""One for each field of `Budgets`."""

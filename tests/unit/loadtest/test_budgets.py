"""Budgets: a sentence for each that was broken, none for those kept."""

import pytest

from loadtest.budgets import MEASURES, broken
from loadtest.figures import Figures, MediaFigures, OperationFigures
from loadtest.scenario import Budgets

FIGURES = Figures(
    operations={
        "JOIN": OperationFigures(100, 2, {50: 97, 900: 1}),
        "API": OperationFigures(100, 0, {5: 99, 70: 1}),
    },
    media=MediaFigures(9, 1000.0, 960, 20, (0,) * 30 + (100,), drops=3),
    seconds=10,
    most_participants=9,
)
NOTHING = Figures({}, MediaFigures(), 10, 0)
KEPT = {
    "join_p50_ms": 50,
    "join_p99_ms": 900,
    "api_p50_ms": 5,
    "api_p99_ms": 5,
    "failures_percent": 1,
    "loss_percent": 2.05,
    "received_percent": 96,
    "latency_p50_ms": 1.2,
    "latency_p99_ms": 1.3,
    "reconnects": 3,
    "reconnect_p99_ms": 0,
}
BROKEN = {
    "join_p50_ms": (49, "the median time to join was 50 ms; the budget is at most 49 ms."),
    "join_p99_ms": (899.5, "was 900 ms; the budget is at most 899.5 ms."),
    "api_p50_ms": (4, "the median time of an API call was 5 ms"),
    "api_p99_ms": (4, "API calls' times was 5 ms"),
    "failures_percent": (0.9, "that failed was 1 %; the budget is at most 0.9 %."),
    "loss_percent": (2, "lost was 2.0408 %; the budget is at most 2 %."),
    "received_percent": (96.5, "received was 96 %; the budget is at least 96.5 %."),
    "latency_p50_ms": (1, "the median latency of media packets was 1.122 ms"),
    "latency_p99_ms": (1, "latency was 1.256 ms"),
    "reconnects": (2, "sessions that ended unasked was 3; the budget is at most 2."),
}


def test_every_budget_has_a_measure() -> None:
    assert set(MEASURES) == set(Budgets.model_fields) == set(KEPT)


def test_budgets_that_are_just_kept_say_nothing() -> None:
    assert broken(Budgets.model_validate(KEPT), FIGURES) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_budget_is_one_sentence_with_both_numbers(name: str) -> None:
    limit, said = BROKEN[name]
    (sentence,) = broken(Budgets.model_validate({name: limit}), FIGURES)
    assert sentence.startswith(f"{name}: ")
    assert said in sentence


@pytest.mark.parametrize("name", [it for it in BROKEN if it != "reconnects"])
def test_a_budget_that_nothing_was_measured_for_is_broken(name: str) -> None:
    (sentence,) = broken(Budgets.model_validate({name: KEPT[name]}), NOTHING)
    assert "was not measured" in sentence


def test_no_reconnect_keeps_the_time_to_reconnect() -> None:
    assert broken(Budgets(reconnect_p99_ms=100, reconnects=0), NOTHING) == []


def test_an_accident_fails_a_run_that_kept_its_budgets() -> None:
    figures = Figures({}, MediaFigures(), 1, 0, ("A swarm process died.",))
    assert broken(Budgets(), figures) == ["A swarm process died."]

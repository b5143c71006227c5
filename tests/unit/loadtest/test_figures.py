"""Figures add up, over time and over sources, and survive being written."""

import json

from loadtest.figures import Figures, MediaFigures, OperationFigures, Tally, total


def test_media_figures_add_up_with_histograms_of_any_length() -> None:
    sum_ = total(
        [
            MediaFigures(2, 100.0, 90, 5, (1, 2), drops=1),
            MediaFigures(3, 100.0, 100, 0, (0, 1, 4), rejected=2),
        ]
    )
    assert sum_ == MediaFigures(5, 200.0, 190, 5, (1, 3, 4), 1, 2)
    assert sum_.received_percent == 95.0
    assert sum_.loss_percent == 100 * 5 / 195


def test_what_was_not_measured_is_none() -> None:
    assert MediaFigures().received_percent is None
    assert MediaFigures().loss_percent is None
    assert MediaFigures(latency=(0, 0)).latency_ms(0.5) is None
    assert OperationFigures(3, 3).percentile_ms(0.99) is None
    assert Figures({}, MediaFigures(), 1, 0).failures_percent is None


def test_late_packets_are_no_negative_loss() -> None:
    assert MediaFigures(received=10, lost=-2).loss_percent == 0.0


def test_a_tally_sums_counts_and_keeps_the_latest_level_of_each_source() -> None:
    tally = Tally()
    tally.add("a", MediaFigures(10, received=5))
    tally.add("b", MediaFigures(7, received=5))
    tally.add("a", MediaFigures(12, received=5))
    assert tally.take() == MediaFigures(19, received=15)
    assert tally.take() == MediaFigures(19)
    tally.add("b", MediaFigures(7, received=1))
    tally.remove("b")
    assert tally.take() == MediaFigures(12, received=1)


def test_percentiles_are_of_what_went_well() -> None:
    times = OperationFigures(101, 1, {10: 98, 20: 1, 1000: 1})
    assert times.percentile_ms(0.5) == 10
    assert times.percentile_ms(0.99) == 20
    assert times.percentile_ms(1.0) == 1000


def test_operations_since_an_earlier_reading() -> None:
    before = OperationFigures(3, 1, {5: 2})
    now = before + OperationFigures(2, 0, {5: 1, 7: 1})
    assert now.since(before) == OperationFigures(2, 0, {5: 1, 7: 1})
    assert OperationFigures(1, 0, {9: 1}).since(before) == OperationFigures(1, 0, {9: 1})


def test_figures_survive_json() -> None:
    figures = Figures(
        {"JOIN": OperationFigures(2, 1, {30: 1})},
        MediaFigures(4, 10.0, 9, 1, (0, 3)),
        12.5,
        4,
        ("A swarm process died.",),
    )
    assert Figures.read(json.loads(json.dumps(figures.write()))) == figures

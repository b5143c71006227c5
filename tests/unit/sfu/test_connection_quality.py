"""Scores of connections: what makes them worse, and what does not."""

import pytest
from livekit.protocol import models

from sfu.core.connection_quality import EXCELLENT, LOST, Condition, score_of

Quality = models.ConnectionQuality


def test_nothing_sent_or_received_is_excellent() -> None:
    assert score_of([], is_connected=True) == EXCELLENT
    assert EXCELLENT.score == 4.5


def test_without_media_at_all_the_connection_is_lost() -> None:
    assert score_of([Condition(0.0)], is_connected=False) == LOST


@pytest.mark.parametrize(
    ("loss", "quality"),
    [
        (0.0, Quality.EXCELLENT),
        (0.02, Quality.EXCELLENT),
        (0.05, Quality.GOOD),
        (0.15, Quality.GOOD),
        (0.3, Quality.POOR),
        (0.9, Quality.LOST),
    ],
)
def test_quality_falls_with_loss(loss: float, quality: int) -> None:
    assert score_of([Condition(loss)], is_connected=True).quality == quality


def test_worst_track_counts() -> None:
    good, bad = Condition(0.0), Condition(0.3)
    assert score_of([good, bad], is_connected=True) == score_of([bad], is_connected=True)


def test_delay_that_nobody_minds_costs_nothing() -> None:
    assert score_of([Condition(0.0, jitter=0.03, round_trip=0.1)], is_connected=True) == EXCELLENT


def test_long_round_trips_and_jitter_lower_the_score() -> None:
    far = score_of([Condition(0.0, round_trip=0.8)], is_connected=True)
    shaky = score_of([Condition(0.0, jitter=0.2)], is_connected=True)
    assert far.quality == Quality.GOOD
    assert shaky.quality == Quality.GOOD
    assert 1.0 <= far.score < 4.5

"""How good each participant's connection is, from how the packets of its tracks fare.

A simple measure: the E-model's impairments by loss and by delay, without codec; no bandwidth is
judged. What is not sent at all (muted, paused, DTX) is no loss. Who is told when: reports.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from livekit.protocol import models

MAX_SCORE = 4.5
MIN_SCORE = 1.0
BEST_R = 93.2  # ITU-T G.107, no impairment
FREE_DELAY_MS = 177.3  # ITU-T G.107: nobody minds less, one way
DELAY_IMPAIRMENT = 0.134  # ... and the rating lost with each ms beyond
LOSS_IMPAIRMENT = 95.0  # ITU-T G.107: Ie-eff of a codec without concealment
LOSS_ROBUSTNESS = 15.0  # ... and its Bpl: concealment and retransmission soften loss


@dataclass(frozen=True, slots=True)
class Condition:
    """How the packets of one track or sender fared lately: share lost, 0..1, and seconds."""

    fraction_lost: float
    jitter: float = 0.0
    round_trip: float = 0.0

    @property
    def delay_ms(self) -> float:
        """One way: half a round trip, and a jitter buffer that takes in nearly all."""
        return (self.round_trip / 2 + 2 * self.jitter) * 1000


@dataclass(frozen=True, slots=True)
class ConnectionScore:
    """One participant's `ConnectionQualityInfo` without its sid."""

    quality: models.ConnectionQuality
    score: float


EXCELLENT = ConnectionScore(models.ConnectionQuality.EXCELLENT, MAX_SCORE)
LOST = ConnectionScore(models.ConnectionQuality.LOST, MIN_SCORE)


def score_of(conditions: Iterable[Condition], *, is_connected: bool) -> ConnectionScore:
    """The worst of a participant's tracks."""
    if not is_connected:
        return LOST
    rating = min((_rating(condition) for condition in conditions), default=BEST_R)
    if rating >= BEST_R:
        return EXCELLENT
    return ConnectionScore(_quality(rating), round(_mean_opinion(rating), 2))


def _rating(condition: Condition) -> float:
    percent = condition.fraction_lost * 100
    by_loss = LOSS_IMPAIRMENT * percent / (percent + LOSS_ROBUSTNESS)
    by_delay = DELAY_IMPAIRMENT * max(0.0, condition.delay_ms - FREE_DELAY_MS)
    return BEST_R - by_loss - by_delay


def _quality(rating: float) -> models.ConnectionQuality:
    if rating > 80:
        return models.ConnectionQuality.EXCELLENT
    if rating > 40:
        return models.ConnectionQuality.GOOD
    if rating > 20:
        return models.ConnectionQuality.POOR
    return models.ConnectionQuality.LOST


def _mean_opinion(rating: float) -> float:
    """ITU-T G.107 annex B, within 1.0..4.5."""
    if rating <= 0:
        return MIN_SCORE
    score = 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6
    return min(max(score, MIN_SCORE), MAX_SCORE)

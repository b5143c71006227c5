"""How good each participant's connection is, from the loss of its tracks.

A first, simple measure: the E-model's loss impairment alone, without delay and codec; no bandwidth
is judged. Said every few seconds to those concerned when anything changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from livekit.protocol import models

MAX_SCORE = 4.5
MIN_SCORE = 1.0
BEST_R = 93.2  # ITU-T G.107, no impairment
LOSS_IMPAIRMENT = 95.0  # ITU-T G.107: Ie-eff of a codec without concealment
LOSS_ROBUSTNESS = 15.0  # ... and its Bpl: concealment and retransmission soften loss


@dataclass(frozen=True, slots=True)
class ConnectionScore:
    """One participant's `ConnectionQualityInfo` without its sid."""

    quality: models.ConnectionQuality
    score: float


EXCELLENT = ConnectionScore(models.ConnectionQuality.EXCELLENT, MAX_SCORE)
LOST = ConnectionScore(models.ConnectionQuality.LOST, MIN_SCORE)


def score_of(losses: Iterable[float], *, is_connected: bool) -> ConnectionScore:
    """The worst of a participant's tracks; shares of lost packets, 0..1."""
    if not is_connected:
        return LOST
    percent = max(losses, default=0.0) * 100
    if percent <= 0:
        return EXCELLENT
    rating = BEST_R - LOSS_IMPAIRMENT * percent / (percent + LOSS_ROBUSTNESS)
    return ConnectionScore(_quality(rating), round(_mean_opinion(rating), 2))


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

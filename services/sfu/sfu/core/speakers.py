"""Who is speaking: smoothed, quantized audio levels, and only their changes.

Fed with one row a microphone track and window by the engine (RFC 6464 levels). Not a mixer and
not a dominant-speaker choice: every active participant is listed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ACTIVE_SHARE = 0.4  # of the window
SMOOTHING = 2 / 3  # 2 / (smooth_intervals + 1), with 2 intervals
THRESHOLD = 10 ** (-35 / 20)  # linear level of 35 -dBov
STALE_AFTER = 0.8  # seconds
STEPS = 8


@dataclass(frozen=True, slots=True)
class Speaker:
    """One entry of `speakers_changed`."""

    sid: str
    level: float  # 0..1 in steps of 1/8
    is_active: bool


@dataclass(slots=True)
class _Loudness:
    smoothed: float = 0.0
    observed_at: float = 0.0


class Speakers:
    """Levels of one room's local speakers."""

    def __init__(self) -> None:
        self._loudness: dict[str, _Loudness] = {}
        self._shown: dict[str, float] = {}
        self._silenced_at: dict[str, float] = {}

    def observe(self, rows: Iterable[tuple[str, int, float]], now: float) -> list[Speaker]:
        """Take one window of (participant sid, loudest -dBov, active share); give the changes."""
        loudest: dict[str, float] = {}
        for sid, level, share in rows:
            loudest[sid] = max(loudest.get(sid, 0.0), _linear(level, share))
        for sid, level_now in loudest.items():
            loudness = self._loudness.setdefault(sid, _Loudness())
            loudness.smoothed += (level_now - loudness.smoothed) * SMOOTHING
            loudness.observed_at = now
        return self._changes(now)

    def expire(self, now: float) -> list[Speaker]:
        """Changes by time alone: speakers of whom nothing was heard."""
        return self._changes(now)

    def forget(self, sid: str) -> Speaker | None:
        """The speaker left or has no microphone track; what to tell when it was shown active."""
        self._loudness.pop(sid, None)
        self._silenced_at.pop(sid, None)
        return Speaker(sid, 0.0, is_active=False) if self._shown.pop(sid, None) else None

    def current(self, sid: str) -> Speaker | None:
        """What was last told of a speaker, if active."""
        level = self._shown.get(sid)
        return None if level is None else Speaker(sid, level, is_active=True)

    def all_current(self) -> list[Speaker]:
        """Everybody who is shown as active."""
        return [Speaker(sid, level, is_active=True) for sid, level in self._shown.items()]

    def since(self, then: float) -> list[Speaker]:
        """All that somebody needs who heard nothing since: who speaks, and who stopped."""
        silent = [sid for sid, at in self._silenced_at.items() if at >= then]
        return [*self.all_current(), *(Speaker(sid, 0.0, is_active=False) for sid in silent)]

    def next_timeout(self) -> float | None:
        """When `expire` may have something to say."""
        return min(
            (self._loudness[sid].observed_at + STALE_AFTER for sid in self._shown), default=None
        )

    def _changes(self, now: float) -> list[Speaker]:
        changes: list[Speaker] = []
        for sid, loudness in list(self._loudness.items()):
            is_stale = now >= loudness.observed_at + STALE_AFTER
            if is_stale or loudness.smoothed < THRESHOLD:
                if self._shown.pop(sid, None) is not None:
                    self._silenced_at[sid] = now
                    changes.append(Speaker(sid, 0.0, is_active=False))
                if is_stale:
                    del self._loudness[sid]
                continue
            level = math.ceil(min(loudness.smoothed, 1.0) * STEPS) / STEPS
            if self._shown.get(sid) != level:
                self._shown[sid] = level
                self._silenced_at.pop(sid, None)
                changes.append(Speaker(sid, level, is_active=True))
        return changes


def _linear(level: int, share: float) -> float:
    """Linear loudness, weighed down by the silent part of the window; 0 when mostly silent."""
    if share < ACTIVE_SHARE:
        return 0.0
    return float(10 ** (-(level - 20 * math.log10(min(share, 1.0))) / 20))

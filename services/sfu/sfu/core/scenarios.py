"""What is left to be played of simulated faults (LiveKit SimulateScenario) in one session.

A scenario that is over at once is in requests.py; here is what it leaves for later: an end in time, or
resumes to be spoiled.
"""

from __future__ import annotations

from sfu.core import responses
from sfu.core.effects import Step
from sfu.core.session import SignalSession
from sfu.core.speakers import Speaker

RESUME_WINDOW_S = 5.0
"""How long a scenario waits for the resume that it spoils."""
SILENT_CLOSES = 3
SIMULATED_LEVEL = 0.9


class Scenarios:
    """What one session still has to play."""

    def __init__(self, session: SignalSession) -> None:
        self._session = session
        self._speaks_until: float | None = None
        self._drop_until = 0.0
        self._silent_until = 0.0
        self._silent_closes = 0

    def speak(self, seconds: int, step: Step) -> None:
        """The client hears that it speaks, for a time."""
        self._speaks_until = step.now + max(seconds, 0)
        self._tell_speaking(SIMULATED_LEVEL, step)
        self._session.touch(step)

    def spoil_resume(self, step: Step) -> None:
        """The next resume succeeds, then its socket is closed."""
        self._drop_until = step.now + RESUME_WINDOW_S

    def spoil_resumes_silently(self, step: Step) -> None:
        """Sockets of resumes are closed before a word, a few times."""
        self._silent_until = step.now + RESUME_WINDOW_S
        self._silent_closes = SILENT_CLOSES

    def closes_silently(self, now: float) -> bool:
        """Is this resume to meet a closed door? Counts it."""
        if not self._silent_closes or now > self._silent_until:
            return False
        self._silent_closes -= 1
        return True

    def drops_resumed(self, now: float) -> bool:
        """Is the socket to be dropped now that the resume is complete? Counts it."""
        is_due = now <= self._drop_until
        self._drop_until = 0.0
        return is_due

    def tick(self, step: Step) -> None:
        """End what is over."""
        if self._speaks_until is not None and step.now >= self._speaks_until:
            self._speaks_until = None
            self._tell_speaking(0.0, step)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        return self._speaks_until

    def _tell_speaking(self, level: float, step: Step) -> None:
        speaker = Speaker(self._session.sid, level, is_active=level > 0)
        self._session.send(responses.speakers_changed((speaker,)), step)

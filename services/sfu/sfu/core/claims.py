"""What a session's client may do and is called, as the Room has it now, and the tokens that say so.

A token is pushed at the start and after each resume, every few minutes, and once for each change; a
client reconnects with the latest. What follows from changed permissions is the caller's.
"""

from __future__ import annotations

from livekit.protocol import models

from sfu.core.effects import Step
from sfu.core.session import SignalSession, State


class Claims:
    """The changing half of what a token says of one session."""

    def __init__(self, session: SignalSession) -> None:
        self._session = session
        self._push_at: float | None = None

    def push(self, step: Step) -> None:
        """A token for later reconnects, now and again in time."""
        if self._session.state < State.JOINED:
            return
        self._session.respond(step, refresh_token=self.signed(step))

    def signed(self, step: Step) -> str:
        """A token to be said now; the next is pushed in time."""
        session = self._session
        self._push_at = step.now + session.settings.token_interval
        session.touch(step)
        return session.settings.sign_token(
            session.grants.refresh_claims(
                session.identity, session.name, session.metadata, session.attributes, step.wall_ms
            ),
            session.grants.project,
        )

    def take(
        self,
        step: Step,
        info: models.ParticipantInfo | None = None,
        permission: models.ParticipantPermission | None = None,
    ) -> None:
        """Name, metadata, attributes and permissions as they are now; one token says all that is new."""
        session = self._session
        is_new = False
        if permission is not None and permission != session.grants.permission:
            session.grants = session.grants.permitting(permission)
            is_new = True
        if info is not None:
            before = (session.name, session.metadata, session.attributes)
            after = (info.name, info.metadata, dict(info.attributes))
            session.name, session.metadata, session.attributes = after
            is_new |= before != after
        if is_new:
            self.push(step)

    def tick(self, step: Step) -> None:
        """Push what is due by time."""
        if self._push_at is not None and step.now >= self._push_at:
            self.push(step)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        return self._push_at

"""Who is told what of others' speaking and of connections' quality, and when.

Speakers: everybody hears of those it is subscribed to and of itself, only changes, and the present
state with the first subscription to somebody. Quality: every few seconds when anything changed, to
everybody about itself and those it is subscribed to. What is measured, and how, is in speakers.py and
connection_quality.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from livekit.protocol import models

from sfu.core import responses
from sfu.core.connection_quality import ConnectionScore, score_of
from sfu.core.data import LOSSY_LABEL
from sfu.core.effects import RateConnections, Step
from sfu.core.guests import Guests
from sfu.core.media_commands import SendData
from sfu.core.participant import Participant
from sfu.core.session import State
from sfu.core.sessions import Sessions
from sfu.core.speakers import Speaker, Speakers

SPEAKER_DATA_PROTOCOL = 2  # a data packet with all who speak; later clients have `speakers_changed`
SPEAKERS_CHANGED_PROTOCOL = 3
QUALITY_PROTOCOL = 5
LOST_PROTOCOL = 11  # older clients do not know the quality LOST


class Reports:
    """The reports of one stage. `quality_interval` is in seconds."""

    def __init__(self, sessions: Sessions, guests: Guests, quality_interval: float) -> None:
        self._sessions = sessions
        self._guests = guests
        self._speakers = Speakers()
        self._scores: dict[str, ConnectionScore] = {}
        self._scored_at: float | None = None
        self._quality_interval = quality_interval

    # ----------------------------------------------------------------------------- speakers

    def take_levels(self, levels: Iterable[tuple[int, int, float]], step: Step) -> None:
        """One window of (engine track, loudest -dBov, active share)."""
        rows = [
            (sid, level, share)
            for track, level, share in levels
            if (sid := self._speaker(track)) is not None
        ]
        self._tell_speakers(self._speakers.observe(rows, step.now), step)

    def _speaker(self, engine_track: int) -> str | None:
        owner = self._sessions.owner(engine_track)
        return self._guests.speaker(engine_track) if owner is None else owner.sid

    def _tell_speakers(self, changes: list[Speaker], step: Step) -> None:
        """Equal news is serialized once."""
        if not changes:
            return
        news: dict[tuple[Speaker, ...], list[Participant]] = defaultdict(list)
        for participant in self._sessions:
            own = tuple(_heard(participant, changes))
            if own and participant.client.protocol < SPEAKERS_CHANGED_PROTOCOL:
                self._tell_old_client(participant, step)
            elif own:
                news[own].append(participant)
        for speakers, receivers in news.items():
            self._sessions.tell(receivers, responses.speakers_changed(speakers), step)

    def _tell_old_client(self, participant: Participant, step: Step) -> None:
        """All who speak, as a data packet: before `speakers_changed`."""
        if participant.client.protocol < SPEAKER_DATA_PROTOCOL:
            return
        speaking = _heard(participant, self._speakers.all_current())
        update = models.ActiveSpeakerUpdate(
            speakers=[
                models.SpeakerInfo(sid=speaker.sid, level=speaker.level, active=True)
                for speaker in speaking
            ]
        )
        packet = models.DataPacket(kind=models.DataPacket.LOSSY, speaker=update)
        if participant.state is State.ACTIVE:
            pcs = (participant.connections.primary.id,)
            step.emit(SendData(pcs, LOSSY_LABEL, packet.SerializeToString()))

    # ------------------------------------------------------------------------------ quality

    def want_scores(self, now: float) -> None:
        """Something happened by which connections may be better or worse soon."""
        if self._scored_at is None:
            self._scored_at = now + self._quality_interval if self._sessions else None

    def _tell_scores(self, step: Step) -> None:
        scores = {
            participant.sid: score_of(
                participant.conditions.values(), is_connected=participant.connections.is_up
            )
            for participant in self._sessions
            if participant.state is State.ACTIVE
        }
        is_news = any(
            sid not in self._scores or self._scores[sid].quality != score.quality
            for sid, score in scores.items()
        )
        self._scores = scores
        if scores:
            step.emit(RateConnections(tuple(scores.values())))
        if not is_news:
            return
        for participant in self._sessions:
            if participant.sid in scores:
                self._tell_quality(participant, _concerning(participant), step)

    def _tell_quality(self, participant: Participant, sids: Iterable[str], step: Step) -> None:
        known = [(sid, self._scores[sid]) for sid in sids if sid in self._scores]
        if not known or participant.client.protocol < QUALITY_PROTOCOL:
            return
        message = responses.connection_quality(
            known, knows_lost=participant.client.protocol >= LOST_PROTOCOL
        )
        participant.send(message, step)

    # ------------------------------------------------------------------- who hears of whom

    def subscribed(self, subscriber: Participant, publisher_sid: str, step: Step) -> None:
        """A first subscription to somebody: how that one is now."""
        current = self._speakers.current(publisher_sid)
        if current is not None and subscriber.client.protocol >= SPEAKERS_CHANGED_PROTOCOL:
            subscriber.send(responses.speakers_changed((current,)), step)
        self._tell_quality(subscriber, [publisher_sid], step)

    def unsubscribed(self, subscriber: Participant, publisher_sid: str, step: Step) -> None:
        """The last subscription to somebody ended: nothing more is heard of that one."""
        is_shown = self._speakers.current(publisher_sid) is not None
        if is_shown and subscriber.client.protocol >= SPEAKERS_CHANGED_PROTOCOL:
            silent = Speaker(publisher_sid, 0.0, is_active=False)
            subscriber.send(responses.speakers_changed((silent,)), step)

    def resumed(self, participant_sid: str, since: float, step: Step) -> None:
        """A client is back that may have missed all that was said since."""
        participant = self._sessions.get(participant_sid)
        if participant is None:
            return
        missed = _heard(participant, self._speakers.since(since))
        if missed and participant.client.protocol >= SPEAKERS_CHANGED_PROTOCOL:
            participant.send(responses.speakers_changed(missed), step)
        self._tell_quality(participant, _concerning(participant), step)

    def forget(self, participant_sid: str) -> None:
        """A session is over."""
        self._speakers.forget(participant_sid)
        self._scores.pop(participant_sid, None)

    # --------------------------------------------------------------------------------- time

    def tick(self, step: Step) -> None:
        """What is due by time alone."""
        self._tell_speakers(self._speakers.expire(step.now), step)
        if self._scored_at is not None and step.now >= self._scored_at:
            has_media = any(participant.conditions for participant in self._sessions)
            self._scored_at = step.now + self._quality_interval if has_media else None
            self._tell_scores(step)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        times = [self._speakers.next_timeout(), self._scored_at]
        return min((time for time in times if time is not None), default=None)


def _heard(participant: Participant, speakers: Iterable[Speaker]) -> list[Speaker]:
    heard = participant.subscribing.subscriptions.publishers()
    return [
        speaker for speaker in speakers if speaker.sid in heard or speaker.sid == participant.sid
    ]


def _concerning(participant: Participant) -> list[str]:
    return [participant.sid, *sorted(participant.subscribing.subscriptions.publishers())]

"""Dynacast: publishers are told which qualities of their video somebody wants.

What each subscriber wants is counted per track (quality.py); here is which of it to tell whom and
when. Only tracks published on this node are counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from sfu.core.effects import Step
from sfu.core.participant import Participant
from sfu.core.publication import PublishedTrack
from sfu.core.quality import QualityAggregate, subscribed_quality_update
from sfu.core.sessions import Sessions
from sfu.core.subscription import Directory


class Dynacast:
    """The wanted qualities of the videos of one stage."""

    def __init__(self, sessions: Sessions, directory: Directory) -> None:
        self._sessions = sessions
        self._directory = directory

    def count(self, subscriber_sid: str, track_sid: str) -> None:
        """A subscriber gets a track, or wants other layers of it than before."""
        subscriber = self._sessions.get(subscriber_sid)
        wanted = None if subscriber is None else subscriber.subscribing.wanted_layers(track_sid)
        published = self._sessions.published(track_sid)
        if wanted is not None and published is not None and published[1].quality is not None:
            published[1].quality.want(subscriber_sid, wanted.quality)

    def forget(self, subscriber_sid: str, track_sid: str) -> None:
        """A subscriber no longer gets a track."""
        published = self._sessions.published(track_sid)
        if published is not None and published[1].quality is not None:
            published[1].quality.forget(subscriber_sid)

    def poll(self, step: Step) -> None:
        """Tell what changed and is due."""
        for publisher, track, quality in self._videos():
            maximum = None if track.info.muted else quality.poll(step.now)
            if maximum is not None:
                _tell(publisher, track, maximum, step)

    def next_timeout(self) -> float | None:
        """When `poll` may have something to tell."""
        times = (quality.next_timeout() for _, _, quality in self._videos())
        return min((time for time in times if time is not None), default=None)

    def repeat(self, publisher_sid: str, step: Step) -> None:
        """Tell again what was told of a publisher's tracks (unmute, resume)."""
        publisher = self._sessions.get(publisher_sid)
        if publisher is None:
            return
        for track in publisher.publishing.publications:
            maximum = None if track.quality is None else track.quality.announced()
            if maximum is not None and not track.info.muted:
                _tell(publisher, track, maximum, step)

    def _videos(self) -> Iterator[tuple[Participant, PublishedTrack, QualityAggregate]]:
        for track_sid in self._directory.engine_ids:
            found = self._sessions.published(track_sid)
            if found is not None and found[1].quality is not None:
                yield found[0], found[1], found[1].quality


def _tell(publisher: Participant, track: PublishedTrack, maximum: int, step: Step) -> None:
    update = subscribed_quality_update(track.info, maximum)
    publisher.respond(step, subscribed_quality_update=update)

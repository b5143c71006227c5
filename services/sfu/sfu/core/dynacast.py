"""Dynacast: publishers are told which codecs and qualities of their tracks somebody wants.

What each subscriber wants is counted per track (quality.py); here is which of it to tell whom and
when, and which codec gives way to another. Only tracks published on this node are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from livekit.protocol import models

from sfu.core.effects import Step
from sfu.core.participant import Participant
from sfu.core.publication import PublishedTrack
from sfu.core.quality import (
    QualityAggregate,
    subscribed_audio_codec_update,
    subscribed_quality_update,
)
from sfu.core.sessions import Sessions
from sfu.core.subscription import Directory

Policy = models.BackupCodecPolicy


class Dynacast:
    """The wanted codecs and qualities of the tracks of one stage."""

    def __init__(self, sessions: Sessions, directory: Directory) -> None:
        self._sessions = sessions
        self._directory = directory

    def count(self, subscriber_sid: str, track_sid: str) -> None:
        """A subscriber gets or waits for a track, or wants another codec or layers than before."""
        subscriber = self._sessions.get(subscriber_sid)
        wanted = None if subscriber is None else subscriber.subscribing.wanted(track_sid)
        published = self._sessions.published(track_sid)
        if wanted is not None and published is not None and published[1].quality is not None:
            codec, layers = wanted
            published[1].quality.want(subscriber_sid, codec, layers.quality)

    def forget(self, subscriber_sid: str, track_sid: str) -> None:
        """A subscriber no longer gets a track."""
        published = self._sessions.published(track_sid)
        if published is not None and published[1].quality is not None:
            published[1].quality.forget(subscriber_sid)

    def regress(self, track_sid: str, participants: int) -> None:
        """Have a primary codec give way once a backup codec flows, and come back when it ends.

        PREFER_REGRESSION does so in small rooms only; what was decided stays.
        """
        local = self._directory.local.get(track_sid)
        published = self._sessions.published(track_sid)
        if local is None or published is None:
            return
        track = published[1]
        is_small = participants < published[0].settings.codec_regression_threshold
        policy = track.info.backup_codec_policy
        is_wanted = policy == Policy.REGRESSION or (policy == Policy.PREFER_REGRESSION and is_small)
        is_suspended = bool(track.flowing_backups) and (is_wanted or bool(local.suspended))
        suspended = frozenset({track.mime_of(0)}) if is_suspended else frozenset()
        if suspended != local.suspended:
            local.suspended = suspended
            if track.quality is not None:
                track.quality.hurry()

    def poll(self, step: Step) -> None:
        """Tell what changed and is due. A muted track's publisher is told after the unmute."""
        for publisher, track, quality in self._tracks():
            wanted = quality.poll(step.now)
            if wanted is not None:
                _tell(publisher, track, wanted, step)

    def next_timeout(self) -> float | None:
        """When `poll` may have something to tell."""
        times = (quality.next_timeout() for _, _, quality in self._tracks())
        return min((time for time in times if time is not None), default=None)

    def repeat(self, publisher_sid: str, step: Step) -> None:
        """Tell again what was told of a publisher's tracks (unmute, resume)."""
        publisher = self._sessions.get(publisher_sid)
        if publisher is None:
            return
        for track in publisher.publishing.publications:
            wanted = None if track.quality is None else track.quality.announced()
            if wanted is not None and not track.info.muted:
                _tell(publisher, track, wanted, step)

    def _tracks(self) -> Iterator[tuple[Participant, PublishedTrack, QualityAggregate]]:
        for track_sid in self._directory.local:
            found = self._sessions.published(track_sid)
            if found is not None and found[1].quality is not None and not found[1].info.muted:
                yield found[0], found[1], found[1].quality


def _tell(
    publisher: Participant, track: PublishedTrack, wanted: Mapping[str, int], step: Step
) -> None:
    if track.kind == "video":
        publisher.respond(
            step, subscribed_quality_update=subscribed_quality_update(track.info, wanted)
        )
    else:
        publisher.respond(
            step, subscribed_audio_codec_update=subscribed_audio_codec_update(track.info, wanted)
        )

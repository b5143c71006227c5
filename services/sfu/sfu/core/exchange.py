"""Who sends which description when: the exchange of offers and answers of one session.

A description's outcome is applied in the order its plan demands (plans.py): transport, what ends,
what begins. What a description says is decided in answering.py and offering.py.
"""

from __future__ import annotations

from livekit.protocol import rtc

from sfu.core.connections import Connections
from sfu.core.effects import Step
from sfu.core.negotiation import BadDescription
from sfu.core.plans import Answered, NegotiationFailed
from sfu.core.publishing import Publishing
from sfu.core.session import SignalSession
from sfu.core.subscribing import Subscribing


class Exchange:
    """One session's exchange. A returned NegotiationFailed means that the session must end."""

    def __init__(
        self,
        session: SignalSession,
        connections: Connections,
        publishing: Publishing,
        subscribing: Subscribing,
    ) -> None:
        self._session = session
        self._connections = connections
        self._publishing = publishing
        self._subscribing = subscribing

    def take_offer(self, offer: rtc.SessionDescription, step: Step) -> NegotiationFailed | None:
        """The client offers: answer it, and command the engine accordingly."""
        connections, subscriptions = self._connections, self._subscribing.subscriptions
        if connections.answers is None or not self._session.is_told:
            return None
        try:
            answered = connections.answers.answer(
                offer.sdp,
                self._publishing.publications.announced(),
                subscriptions.down_tracks() if self._session.is_single else (),
                fresh_credentials=self._session.ids.ice_credentials(),
                candidates=connections.candidates,
            )
        except BadDescription as error:
            return NegotiationFailed(str(error))
        pc = connections.publisher
        pc.create(step)
        if answered.ice_restarted:
            pc.restart(answered.local, step)
        if not connections.has_answered:
            connections.has_answered = True
            connections.has_no_channels = not answered.has_application
        self._change_receivers(answered, step)
        self._session.respond(
            step,
            answer=rtc.SessionDescription(
                type="answer",
                sdp=answered.sdp,
                id=offer.id,
                mid_to_track_id=dict(answered.mid_to_track_id),
            ),
        )
        pc.set_remote(answered.remote, step)
        self._subscribing.take_senders(answered, step)
        if not answered.required.is_empty:
            self._require_sections(answered.required.num_audios, answered.required.num_videos, step)
        elif answered.unplaced:
            # Their sections were freed by this very answer: the next offer can use them.
            connections.want_negotiation(step)
        self._publishing.publish_matched(step)
        return None

    def take_answer(self, answer: rtc.SessionDescription, step: Step) -> NegotiationFailed | None:
        """The client answers our offer (dual mode)."""
        connections = self._connections
        if connections.offers is None or connections.subscriber is None:
            return None
        try:
            applied = connections.offers.apply_answer(answer.sdp, step.now, answer.id)
        except BadDescription as error:
            return NegotiationFailed(str(error))
        if applied is None:
            return None
        connections.subscriber.set_remote(applied.remote, step)
        self._subscribing.take_senders(applied, step)
        return self.poll(step)

    def poll(self, step: Step) -> NegotiationFailed | None:
        """Send the offer, or the wish for one, that is due."""
        connections = self._connections
        self._session.touch(step)
        if self._session.is_single:
            self._poll_sections(step)
            return None
        if (
            connections.offers is None
            or connections.subscriber is None
            or not self._session.is_told
        ):
            return None
        offer = connections.offers.poll(step.now, connections.candidates)
        if offer is None or isinstance(offer, NegotiationFailed):
            return offer
        connections.subscriber.create(step)
        if offer.ice_restart:
            connections.subscriber.restart(offer.local, step)
        self._session.respond(
            step,
            offer=rtc.SessionDescription(
                type="offer",
                sdp=offer.sdp,
                id=offer.offer_id,
                mid_to_track_id=dict(offer.mid_to_track_id),
            ),
        )
        return None

    def restart_subscriber(self, step: Step) -> NegotiationFailed | None:
        """Offer new ICE credentials where we offer; the other connection restarts by the client."""
        connections = self._connections
        if (
            connections.offers is None
            or connections.subscriber is None
            or not connections.subscriber.is_created
        ):
            return None
        connections.offers.restart_ice(step.now, *self._session.ids.ice_credentials())
        return self.poll(step)

    def _change_receivers(self, answered: Answered, step: Step) -> None:
        self._publishing.end_receivers(answered.receivers_ended, step)
        self._subscribing.remove_senders(answered.senders_removed, step)
        self._publishing.take_receivers(answered.receivers_added, answered.receivers_changed, step)

    def _poll_sections(self, step: Step) -> None:
        connections = self._connections
        if connections.answers is None or not connections.has_answered:
            return
        if connections.sections_wanted.take(step.now):
            down_tracks = self._subscribing.subscriptions.down_tracks()
            required = connections.answers.require(down_tracks)
            self._require_sections(required.num_audios, required.num_videos, step)

    def _require_sections(self, num_audios: int, num_videos: int, step: Step) -> None:
        self._session.respond(
            step,
            media_sections_requirement=rtc.MediaSectionsRequirement(
                num_audios=num_audios, num_videos=num_videos
            ),
        )

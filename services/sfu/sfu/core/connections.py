"""A session's peer connections, one or two, each with its negotiation.

Dual mode: the client offers on the publisher connection, we offer on the subscriber connection.
Single mode: the client offers on the only one; we can but ask it to. Here is what stands between
the halves of a session and those differences; who sends which description when is in exchange.py.
"""

from __future__ import annotations

from dataclasses import replace

from sfu.core.answering import PublisherNegotiation
from sfu.core.codecs import ClientTraits, CodecPolicy
from sfu.core.data import DATA_TRACK_LABEL, LOSSY_LABEL, RELIABLE_LABEL
from sfu.core.effects import Step
from sfu.core.fallback import Preference
from sfu.core.negotiation import Debounce, NegotiationConfig
from sfu.core.offering import SubscriberNegotiation
from sfu.core.peer_connection import PeerConnection, is_udp
from sfu.core.plans import DownTrack, LocalTransport
from sfu.core.session import Opening, SignalSession

SERVER_CHANNELS = ((RELIABLE_LABEL, True), (LOSSY_LABEL, False), (DATA_TRACK_LABEL, False))
SUBSCRIBER_PRIMARY_PROTOCOL = 3


class Connections:
    """The peer connections of one session; `answers` and `offers` are there once it is admitted.

    `sections_wanted` takes the place of `offers` in single mode: the wish that the client offers.
    """

    def __init__(self, session: SignalSession, opening: Opening, preference: Preference) -> None:
        self._session = session
        self._traits = ClientTraits.of(opening.client)
        self._ice_lite = (
            session.settings.ice_lite
            and self._traits.ice_lite
            and not opening.request.connection_settings.disable_ice_lite
        )
        self.is_subscriber_primary = (
            not opening.is_single
            and opening.client.protocol >= SUBSCRIBER_PRIMARY_PROTOCOL
            and opening.grants.permission.can_subscribe
        )
        self.publisher = self._make(is_offered_here=False)
        self.subscriber = None if opening.is_single else self._make(is_offered_here=True)
        self.answers: PublisherNegotiation | None = None
        self.offers: SubscriberNegotiation | None = None
        self.preference = preference
        self.prefer(preference)
        self.sections_wanted = Debounce()
        self.has_answered = False
        self.has_no_channels = False
        self.has_synced_streams = False
        self._has_playout_delay = False

    def _make(self, *, is_offered_here: bool) -> PeerConnection:
        session = self._session
        ufrag, pwd = session.ids.ice_credentials()
        return PeerConnection(
            session.own(),
            LocalTransport(ufrag, pwd, session.settings.fingerprint, self._ice_lite),
            # The side that offers first controls, when both are full agents (RFC 8445 6.1.1).
            is_controlling=is_offered_here and not self._ice_lite,
        )

    # ---------------------------------------------------------------------------- transport

    @property
    def primary(self) -> PeerConnection:
        """The connection by which the participant counts as active, and that carries our data."""
        if self.is_subscriber_primary and self.subscriber is not None:
            return self.subscriber
        return self.publisher

    @property
    def sending(self) -> PeerConnection:
        """The connection that subscriptions go out on."""
        return self.publisher if self.subscriber is None else self.subscriber

    @property
    def all(self) -> tuple[PeerConnection, ...]:
        """Both, or the only one."""
        return (self.publisher,) if self.subscriber is None else (self.publisher, self.subscriber)

    def by_id(self, pc_id: int) -> PeerConnection | None:
        """The connection of an engine id."""
        return next((pc for pc in self.all if pc.id == pc_id), None)

    @property
    def was_connected(self) -> bool:
        """Media was up on either, ever."""
        return any(pc.was_connected for pc in self.all)

    @property
    def is_receiving(self) -> bool:
        """The client can be sent subscriptions now."""
        return self.sending.is_connected or self.primary.is_connected

    @property
    def is_up(self) -> bool:
        """All that carries media does: no connection that was up is silent."""
        return self.is_receiving and not any(pc.is_broken for pc in self.all)

    @property
    def is_established(self) -> bool:
        """Data can be sent: the channels are open, or the client wants none."""
        has_channels = {RELIABLE_LABEL, LOSSY_LABEL} <= self.primary.channels
        return self.primary.was_connected and (has_channels or self.has_no_channels)

    def start_subscriber(self, step: Step) -> None:
        """Where it is primary, the subscriber connection begins at once, with our channels."""
        if self.subscriber is not None and self.is_subscriber_primary:
            self.subscriber.create(step)
            has_tracks = self._session.settings.has_data_tracks
            channels = SERVER_CHANNELS if has_tracks else SERVER_CHANNELS[:2]
            self.subscriber.open_channels(step, channels)

    def prefer(self, preference: Preference) -> None:
        """Candidates are filtered from now on; those in use are until the next ICE restart."""
        self.preference = preference
        for pc in self.all:
            pc.takes_udp = preference.allows_udp

    @property
    def candidates(self) -> tuple[str, ...]:
        """Ours, for the next description."""
        candidates = self._session.settings.candidates
        if self.preference.allows_udp:
            return candidates
        return tuple(line for line in candidates if not is_udp(line))

    def close(self, step: Step) -> None:
        """Silently."""
        for pc in self.all:
            pc.close(step)
        self.disown()

    def disown(self) -> None:
        """Give the engine ids back."""
        for pc in self.all:
            self._session.disown(pc.id)

    # -------------------------------------------------------------------------- negotiation

    def begin(
        self, codecs: CodecPolicy, *, sync_streams: bool = False, has_playout_delay: bool = False
    ) -> None:
        """The session was admitted, and the room's codecs are known.

        `sync_streams`: the room wants tracks of one stream played in step.
        """
        self._has_playout_delay = has_playout_delay
        if sync_streams and self._traits.syncs_streams:
            self.has_synced_streams = True
            # Clients find tracks by stream and section then: another track needs another section.
            self._traits = replace(self._traits, reuses_sections=False)
        self.answers = PublisherNegotiation(self._config(codecs), self.publisher.local)
        if self.subscriber is not None:
            self.offers = SubscriberNegotiation(
                self._config(codecs),
                self.subscriber.local,
                first_offer_id=self._session.ids.number(1, 256),
                data_channels=self.is_subscriber_primary,
            )

    def _config(self, codecs: CodecPolicy) -> NegotiationConfig:
        return NegotiationConfig(
            session_id=self._session.ids.number(1, 2**63 - 1),
            codecs=codecs,
            client=self._traits,
            single=self._session.is_single,
            has_playout_delay=self._has_playout_delay,
        )

    def want_first_offer(self, step: Step) -> None:
        """Where it is primary, the subscriber connection is offered at once, tracks or none."""
        if self.offers is not None and self.is_subscriber_primary:
            self.offers.request(step.now, force=True)

    def want_negotiation(self, step: Step) -> None:
        """What is sent changed: soon an offer of ours, or the wish for one of the client's."""
        if self._session.is_single:
            if self.has_answered:
                self.sections_wanted.request(step.now)
        elif self.offers is not None:
            self.offers.request(step.now)
        self._session.touch(step)

    def place(self, track: DownTrack) -> None:
        """Give a track a section of our next offer; the client's next offer finds it by itself."""
        if self.offers is not None:
            self.offers.add(track)

    def displace(self, track_sid: str) -> None:
        """Take a track out of our next offer."""
        if self.offers is not None:
            self.offers.remove(track_sid)

    def next_timeout(self) -> float | None:
        """When a negotiation is due."""
        times = [self.sections_wanted.next_timeout()]
        if self.offers is not None:
            times.append(self.offers.next_timeout())
        return min((time for time in times if time is not None), default=None)

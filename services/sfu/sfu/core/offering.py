"""The machine that makes our offers: one a subscriber peer connection (dual mode)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from mediacore.sdp import MediaSection, SdpCache, SessionDescription
from sfu.core import codecs, extensions
from sfu.core.negotiation import (
    DTLS_SETUP,
    BadDescription,
    Changes,
    Debounce,
    NegotiationConfig,
    application_section,
    parse,
    receives,
    remote_of,
    sender_plan,
    ssrc_groups,
    ssrcs,
    wants_nack,
)
from sfu.core.plans import (
    Applied,
    DownTrack,
    Kind,
    LocalTransport,
    NegotiationFailed,
    Offer,
    SenderPlan,
)

ANSWER_TIMEOUT_S = 15.0
"""How long a client may take to answer an offer."""


class SubscriberNegotiation:
    """Makes our offers for one subscriber peer connection; at most one is outstanding.

    Changes are recorded by `add` and `remove`, asked for by `request`, and become an offer when
    `poll` is called at `next_timeout` or later. Sections keep their place and mid for the life of
    the connection.
    """

    def __init__(
        self,
        config: NegotiationConfig,
        local: LocalTransport,
        *,
        first_offer_id: int,
        data_channels: bool = True,
    ) -> None:
        """`first_offer_id`: 1..256, random. `data_channels`: section 0 is for data."""
        self._config = config
        self._local = local
        self._data_channels = data_channels
        self._next_offer_id = first_offer_id
        self._session_version = 0
        self._cache = SdpCache()
        self._slots: list[_Slot] = []
        self._debounce = Debounce()
        self._retry = False
        self._restarting = False
        self._outstanding: _Outstanding | None = None
        self._senders: dict[str, SenderPlan] = {}
        self._reuses = config.client.reuses_sections

    def add(self, track: DownTrack) -> str:
        """Give the track a section (a free one of its kind, or a new one); its mid.

        Call `request` after. A track that is already there is replaced by what is given.
        """
        for slot in self._slots:
            if slot.track is not None and slot.track.track_sid == track.track_sid:
                slot.track = track
                return slot.mid
        for slot in self._slots:
            if self._reuses and slot.is_free and slot.kind == track.kind:
                slot.is_free = False
                slot.track = track
                return slot.mid
        mid = str(len(self._slots) + self._data_channels)
        self._slots.append(_Slot(mid, track.kind, track))
        return mid

    def remove(self, track_sid: str) -> None:
        """Deactivate the section of a track with the next offer. Unknown tracks are ignored."""
        for slot in self._slots:
            if slot.track is not None and slot.track.track_sid == track_sid:
                slot.track = None
                self._senders.pop(slot.mid, None)

    def request(self, now: float, *, force: bool = False) -> None:
        """Want an offer: at once for the first one or when forced, else after the debounce delay.

        While an offer is outstanding the wish is kept until the answer.
        """
        if self._outstanding is not None:
            self._retry = True
        else:
            self._debounce.request(now, force=force)

    def restart_ice(self, now: float, ice_ufrag: str, ice_pwd: str) -> None:
        """Want an offer with new credentials at once; an outstanding offer is given up."""
        self._local = replace(self._local, ice_ufrag=ice_ufrag, ice_pwd=ice_pwd)
        self._outstanding = None
        self._retry = False
        self._restarting = True
        self._debounce.request(now, force=True)

    def poll(self, now: float, candidates: Sequence[str] = ()) -> Offer | NegotiationFailed | None:
        """The offer which is due, the failure of the outstanding one, or nothing.

        After a failure the machine rests until `restart_ice`. `candidates` stay empty when they are
        trickled.
        """
        if self._outstanding is not None:
            if self._outstanding.failed or now < self._outstanding.deadline:
                return None
            self._outstanding = replace(self._outstanding, failed=True)
            return NegotiationFailed(
                f"offer {self._outstanding.offer_id} not answered within {ANSWER_TIMEOUT_S:.0f} s"
            )
        if not self._debounce.take(now):
            return None
        return self._offer(now, tuple(candidates))

    def _offer(self, now: float, candidates: tuple[str, ...]) -> Offer:
        sections = []
        if self._data_channels:
            sections.append(application_section("0", self._local, candidates))
            candidates = ()
        for slot in self._slots:
            sections.append(slot.offer(self._config, self._local, candidates))
            candidates = ()
        self._session_version += 1
        description = SessionDescription(
            self._config.session_id,
            self._session_version,
            sections,
            ice_lite=self._local.ice_lite,
            fingerprint=self._local.fingerprint,
        )
        offer = Offer(
            offer_id=self._next_offer_id,
            sdp=description.render(),
            local=self._local,
            ice_restart=self._restarting,
            mid_to_track_id=MappingProxyType(self.mid_to_track_id),
        )
        self._outstanding = _Outstanding(offer.offer_id, tuple(sections), now + ANSWER_TIMEOUT_S)
        self._next_offer_id += 1
        self._restarting = False
        return offer

    def next_timeout(self) -> float | None:
        """When `poll` may have something to say."""
        if self._outstanding is None:
            return self._debounce.next_timeout()
        return None if self._outstanding.failed else self._outstanding.deadline

    def apply_answer(self, answer_sdp: str, now: float, answer_id: int = 0) -> Applied | None:
        """Take the client's answer.

        None when it belongs to an offer given up, or no offer is outstanding. `answer_id` 0 means
        the client does not echo ids. Raises BadDescription; the offer stays outstanding then.
        """
        outstanding = self._outstanding
        if outstanding is None or answer_id not in (0, outstanding.offer_id):
            return None
        answer = parse(self._cache, answer_sdp)
        sections = answer.sections
        _check_answer(outstanding.sections, sections)
        remote = remote_of(answer)

        senders: dict[str, SenderPlan] = {}
        refused: list[str] = []
        for slot, section in zip(self._slots, sections[self._data_channels :], strict=False):
            plan = slot.answered(section)
            if plan is None and slot.offered is not None and slot.track == slot.offered:
                refused.append(slot.offered.track_sid)
                slot.track = None
            elif plan is not None and slot.track == slot.offered:
                senders[slot.mid] = plan
        changes = Changes.of(self._senders, senders)
        self._senders = senders
        self._outstanding = None
        if self._retry or refused:
            self._retry = False
            self._debounce.request(now)
        return Applied(
            remote=remote,
            senders_added=tuple(senders[mid] for mid in changes.added),
            senders_changed=tuple(senders[mid] for mid in changes.changed),
            codec_unsupported=tuple(refused),
        )

    @property
    def mid_to_track_id(self) -> dict[str, str]:
        """Every section we send on, as the next offer says."""
        return {slot.mid: slot.track.track_sid for slot in self._slots if slot.track}


@dataclass(frozen=True, slots=True)
class _Outstanding:
    offer_id: int
    sections: tuple[MediaSection, ...]
    deadline: float
    failed: bool = False


class _Slot:
    """One media section of our offers, for the life of the connection.

    It carries a track, or is deactivated; a deactivated one is free again when the client has
    answered that: clients notice a track by the change of direction.
    """

    def __init__(self, mid: str, kind: Kind, track: DownTrack | None) -> None:
        self.mid = mid
        self.kind = kind
        self.track = track
        self.offered: DownTrack | None = None
        self.is_free = False
        self._rejected = False
        self._rendered: tuple[tuple[object, ...], MediaSection] | None = None

    def offer(
        self, config: NegotiationConfig, local: LocalTransport, candidates: tuple[str, ...]
    ) -> MediaSection:
        """The section as it is now; unchanged ones are not made again."""
        self.offered = self.track
        self.is_free = False
        inputs = (self.track, local, candidates, self._rejected)
        if self._rendered is None or self._rendered[0] != inputs:
            self._rendered = inputs, self._make(config, local, candidates)
        return self._rendered[1]

    def _make(
        self, config: NegotiationConfig, local: LocalTransport, candidates: tuple[str, ...]
    ) -> MediaSection:
        if self._rejected:
            return MediaSection(self.kind, self.mid, rejected=True)
        down = self.track
        offered = codecs.offered_codecs(
            self.kind,
            config.codecs.subscribe,
            opus_nack=down is None or wants_nack(down, config.client),
            stereo=down is not None and down.stereo,
        )
        return MediaSection(
            self.kind,
            self.mid,
            "sendonly" if down else "inactive",
            codecs=offered,
            extensions=extensions.offered(self.kind, has_playout_delay=config.has_playout_delay),
            msid=(down.stream, down.track_sid) if down else None,
            ssrcs=ssrcs(down, offered) if down else (),
            ssrc_groups=ssrc_groups(down, offered) if down else (),
            candidates=candidates,
            end_of_candidates=bool(candidates),
            ice_ufrag=local.ice_ufrag,
            ice_pwd=local.ice_pwd,
            setup=DTLS_SETUP,
        )

    def answered(self, section: MediaSection) -> SenderPlan | None:
        """What the client takes of the offered track; None is nothing."""
        if section.rejected:
            self._rejected = True
            return None
        down = self.offered
        if down is None:
            self.is_free = True
            return None
        if not receives(section) or self._rendered is None:
            return None
        ours = {codec.payload_type: codec for codec in self._rendered[1].codecs}
        common = [
            codec
            for codec in section.codecs
            if codec.payload_type in ours
            and ours[codec.payload_type].name.lower() == codec.name.lower()
        ]
        mimes = {codecs.mime_of(self.kind, codec) for codec in common}
        if not codecs.sendable(down.mimes, mimes, encrypted=down.encrypted):
            return None
        return sender_plan(section, down, common)


def _check_answer(offered: Sequence[MediaSection], answered: Sequence[MediaSection]) -> None:
    """An answer has the offer's sections, in its order (RFC 9429 section 5.3.1)."""
    if len(offered) != len(answered):
        raise BadDescription(f"the answer has {len(answered)} sections, the offer {len(offered)}")
    for place, (ours, theirs) in enumerate(zip(offered, answered, strict=True)):
        same_mid = ours.mid == theirs.mid or (theirs.rejected and not theirs.mid)
        if ours.kind != theirs.kind or not same_mid:
            raise BadDescription(
                f"section {place} was offered as {ours.kind} {ours.mid!r} "
                f"and answered as {theirs.kind} {theirs.mid!r}"
            )

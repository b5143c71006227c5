"""The machine that answers a client's offers: one a publisher, or only, peer connection."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mediacore.sdp import MediaSection, SdpCache, SdpCodec, SdpRid, SessionDescription
from sfu.core import codecs, extensions
from sfu.core.codecs import ClientTraits
from sfu.core.matching import Match, match_sections
from sfu.core.media_commands import Encoding
from sfu.core.negotiation import (
    DTLS_SETUP,
    BadDescription,
    Changes,
    NegotiationConfig,
    application_section,
    cid_of,
    parse,
    receives,
    remote_of,
    sender_plan,
    sends,
    sent_codecs,
    ssrc_groups,
    ssrcs,
)
from sfu.core.plans import (
    AnnouncedTrack,
    Answered,
    DownTrack,
    Kind,
    LocalTransport,
    ReceiverPlan,
    RemoteParameters,
    SectionsRequirement,
    SenderPlan,
    UnmatchedSection,
)


class PublisherNegotiation:
    """Answers a client's offers, in order; remembers which section is which track.

    A bad offer raises BadDescription and leaves the machine as it was.
    """

    def __init__(self, config: NegotiationConfig, local: LocalTransport) -> None:
        self._config = config
        self._local = local
        self._cache = SdpCache()
        self._session_version = 0
        self._remote: RemoteParameters | None = None
        self._layout: tuple[MediaSection, ...] = ()
        self._matches: Mapping[str, Match] = {}
        self._retired: Mapping[str, str] = {}
        self._answered: Mapping[str, _AnsweredSection] = {}
        self._used: frozenset[str] = frozenset()
        self._asked = SectionsRequirement()

    def answer(
        self,
        offer_sdp: str,
        tracks: Sequence[AnnouncedTrack],
        down_tracks: Sequence[DownTrack] = (),
        *,
        fresh_credentials: tuple[str, str],
        candidates: Sequence[str] = (),
    ) -> Answered:
        """Answer an offer.

        `tracks`: every announced track of this participant, published ones too, in order of
        announcement. `down_tracks`: everything to be sent on this connection (single mode), in
        order of subscription; a track left out is removed from its section. `fresh_credentials`
        (ufrag, password) are used only when the offer restarts ICE. `candidates` stay empty when
        they are trickled.
        """
        offer = parse(self._cache, offer_sdp)
        sections = tuple(offer.sections)
        self._check_layout(sections)
        remote = remote_of(offer)
        restarted = self._remote is not None and _credentials(remote) != _credentials(self._remote)
        local = self._local
        if restarted:
            local = replace(local, ice_ufrag=fresh_credentials[0], ice_pwd=fresh_credentials[1])

        matches, retired = match_sections(
            sections, tracks, self._matches, self._retired, self._config.codecs.publish
        )
        placed, unplaced, unsupported = self._place(sections, down_tracks)
        by_sid = {track.track_sid: track for track in tracks}
        answered: dict[str, _AnsweredSection] = {}
        rendered: list[MediaSection] = []
        pending_candidates = tuple(candidates)
        for section in sections:
            if section.rejected:
                rendered.append(MediaSection(section.kind, section.mid, rejected=True))
                continue
            match = matches.get(section.mid)
            inputs = _Inputs(
                section=section,
                announced=by_sid[match.track_sid] if match else None,
                match=match,
                down=placed.get(section.mid),
                local=local,
                candidates=pending_candidates,
            )
            pending_candidates = ()
            result = self._answered.get(section.mid)
            if result is None or result.inputs != inputs:
                result = _answer_section(inputs, self._config)
            answered[section.mid] = result
            rendered.append(result.section)

        # Everything that can fail is behind us.
        outcome = self._outcome(offer, rendered, answered, local, remote, restarted)
        self._session_version += 1
        self._local = local
        self._remote = remote
        self._layout = sections
        self._matches = matches
        self._retired = retired
        self._answered = answered
        self._used |= {mid for mid, result in answered.items() if result.sender is not None}
        self._asked = SectionsRequirement()
        return replace(
            outcome,
            codec_unsupported=unsupported,
            unplaced=tuple(track.track_sid for track in unplaced),
            required=self.require(unplaced),
        )

    def match_pending(self, tracks: Sequence[AnnouncedTrack]) -> tuple[ReceiverPlan, ...]:
        """Match held sections after an AddTrackRequest or the end of a track; the newly matched."""
        matches, self._retired = match_sections(
            self._layout, tracks, self._matches, self._retired, self._config.codecs.publish
        )
        new = []
        for mid, match in matches.items():
            held = self._answered.get(mid)
            if held is None or self._matches.get(mid) == match:
                continue
            receiver = _receiver(held.inputs.section, held.section, match)
            self._answered = {**self._answered, mid: replace(held, receiver=receiver)}
            if receiver is not None:
                new.append(receiver)
        self._matches = matches
        return tuple(new)

    def require(self, down_tracks: Sequence[DownTrack]) -> SectionsRequirement:
        """Sections the client must add for these tracks, beyond free ones and those asked for.

        Single mode: send it as `media_sections_requirement` also when it is empty and a
        renegotiation is wanted. Counted as asked for until the next offer arrives.
        """
        sent = {result.sender.track_sid for result in self._answered.values() if result.sender}
        wanted = {track.track_sid: track for track in down_tracks}
        leaving = {
            mid
            for mid, result in self._answered.items()
            if result.sender and result.sender.track_sid not in wanted
        }

        def missing(kind: Kind, asked: int) -> int:
            need = sum(1 for sid, track in wanted.items() if track.kind == kind and sid not in sent)
            free = sum(1 for section in self._layout if self._is_free(section, kind, leaving))
            return max(0, need - free - asked)

        more = SectionsRequirement(
            missing("audio", self._asked.num_audios), missing("video", self._asked.num_videos)
        )
        self._asked = SectionsRequirement(
            self._asked.num_audios + more.num_audios, self._asked.num_videos + more.num_videos
        )
        return more

    def _is_free(self, section: MediaSection, kind: Kind, leaving: Iterable[str]) -> bool:
        result = self._answered.get(section.mid)
        return (
            self._can_carry(section, kind)
            and result is not None
            and (result.sender is None)
            and section.mid not in leaving
        )

    def _can_carry(self, section: MediaSection, kind: Kind) -> bool:
        return (
            section.kind == kind
            and not section.rejected
            and section.direction == "recvonly"
            and (self._config.client.reuses_sections or section.mid not in self._used)
        )

    def _place(
        self, sections: Sequence[MediaSection], down_tracks: Sequence[DownTrack]
    ) -> tuple[dict[str, DownTrack], list[DownTrack], tuple[str, ...]]:
        """Sections for tracks: those they have, else free ones; the rest waits for more sections."""
        by_mid = {section.mid: section for section in sections}
        wanted = {track.track_sid: track for track in down_tracks}
        placed: dict[str, DownTrack] = {}
        occupied: set[str] = set()
        for mid, result in self._answered.items():
            if result.sender is None:
                continue
            # A section must be seen inactive before it carries another track: clients notice a
            # track by the change of direction.
            occupied.add(mid)
            track = wanted.get(result.sender.track_sid)
            section = by_mid.get(mid)
            if track and section and not section.rejected and receives(section):
                placed[mid] = wanted.pop(track.track_sid)
        unplaced: list[DownTrack] = []
        unsupported: list[str] = []
        for track in wanted.values():
            free = [
                section
                for section in sections
                if section.mid not in occupied and self._can_carry(section, track.kind)
            ]
            usable = (section for section in free if self._accepts(section, track))
            section = next(usable, None)
            if section is not None:
                placed[section.mid] = track
                occupied.add(section.mid)
            elif free:
                unsupported.append(track.track_sid)
            else:
                unplaced.append(track)
        return placed, unplaced, tuple(unsupported)

    def _accepts(self, section: MediaSection, track: DownTrack) -> bool:
        kept = codecs.negotiate(track.kind, section.codecs, self._config.codecs.subscribe, ())
        mimes = {codecs.mime_of(track.kind, codec) for codec in kept}
        return codecs.sendable(track.mimes, mimes, encrypted=track.encrypted)

    def _check_layout(self, sections: Sequence[MediaSection]) -> None:
        """Sections stay in place for the life of a connection (RFC 9429 section 5.2.2)."""
        if not sections:
            raise BadDescription("the offer has no section")
        if len(sections) < len(self._layout):
            raise BadDescription(
                f"the offer has {len(sections)} sections, the one before {len(self._layout)}"
            )
        for place, (old, new) in enumerate(zip(self._layout, sections, strict=False)):
            moved = old.mid != new.mid or old.kind != new.kind
            if moved and not old.rejected:
                raise BadDescription(
                    f"section {place} was {old.kind} {old.mid!r} and is now {new.kind} {new.mid!r}"
                )

    def _outcome(
        self,
        offer: SessionDescription,
        rendered: Sequence[MediaSection],
        answered: Mapping[str, "_AnsweredSection"],
        local: LocalTransport,
        remote: RemoteParameters,
        restarted: bool,
    ) -> Answered:
        description = SessionDescription(
            self._config.session_id,
            self._session_version + 1,
            rendered,
            ice_lite=local.ice_lite,
            fingerprint=local.fingerprint,
            extmap_allow_mixed=offer.extmap_allow_mixed,
        )
        receivers = {mid: r.receiver for mid, r in answered.items() if r.receiver}
        senders = {mid: result.sender for mid, result in answered.items() if result.sender}
        before = self._answered
        receivers_before = {mid: r.receiver for mid, r in before.items() if r.receiver}
        senders_before = {mid: result.sender for mid, result in before.items() if result.sender}
        in_, out = Changes.of(receivers_before, receivers), Changes.of(senders_before, senders)
        return Answered(
            sdp=description.render(),
            local=local,
            remote=remote,
            ice_restarted=restarted,
            has_application=any(
                section.kind == "application" and not section.rejected for section in rendered
            ),
            receivers=tuple(receivers.values()),
            receivers_added=tuple(receivers[mid] for mid in in_.added),
            receivers_changed=tuple(receivers[mid] for mid in in_.changed),
            receivers_ended=tuple(receivers_before[mid] for mid in in_.ended),
            unmatched=tuple(
                UnmatchedSection(mid, result.inputs.section.kind, cid_of(result.inputs.section))
                for mid, result in answered.items()
                if result.is_held and result.inputs.section.kind != "application"
            ),
            senders=tuple(senders.values()),
            senders_added=tuple(senders[mid] for mid in out.added),
            senders_changed=tuple(senders[mid] for mid in out.changed),
            senders_removed=tuple(senders_before[mid] for mid in out.ended),
            mid_to_track_id=MappingProxyType(
                {mid: sender.track_sid for mid, sender in senders.items()}
            ),
        )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Everything the answer to one section depends on; equal inputs need no second answer."""

    section: MediaSection
    announced: AnnouncedTrack | None
    match: Match | None
    down: DownTrack | None
    local: LocalTransport
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _AnsweredSection:
    inputs: _Inputs
    section: MediaSection
    receiver: ReceiverPlan | None = None
    sender: SenderPlan | None = None

    @property
    def is_held(self) -> bool:
        """The client sends here, and nobody knows yet what."""
        return self.receiver is None and self.section.direction in ("recvonly", "sendrecv")


def _answer_section(inputs: _Inputs, config: NegotiationConfig) -> _AnsweredSection:
    section, local = inputs.section, inputs.local
    if section.kind == "application":
        return _AnsweredSection(inputs, application_section(section.mid, local, inputs.candidates))
    kind = section.kind
    receiving = sends(section)
    if receiving or not config.single:
        feedback = codecs.AUDIO_FEEDBACK if kind == "audio" else codecs.VIDEO_FEEDBACK_IN
        kept = codecs.negotiate(
            kind, section.codecs, config.codecs.publish, feedback, is_received=receiving
        )
        wanted = extensions.RECEIVED[kind]
    else:
        feedback = codecs.AUDIO_FEEDBACK if kind == "audio" else codecs.VIDEO_FEEDBACK_OUT
        kept = codecs.negotiate(kind, section.codecs, config.codecs.subscribe, feedback)
        # libwebrtc leaves out of all later offers what was refused here once, also from sections it
        # publishes on: without mid and rid there is no simulcast, without levels no speaker.
        sent = extensions.sent(kind, has_playout_delay=config.has_playout_delay)
        wanted = sent | extensions.RECEIVED[kind]
    if not kept:
        return _AnsweredSection(inputs, MediaSection(kind, section.mid, rejected=True))
    if receiving and inputs.announced is not None and inputs.match is not None:
        kept = _published_codecs(kept, inputs.announced, inputs.match, config.client)
    down = inputs.down
    if down is not None:
        kept = sent_codecs(kept, down, config.client)
    direction: Literal["sendrecv", "sendonly", "recvonly", "inactive"] = "inactive"
    if receiving:
        direction = "sendrecv" if down else "recvonly"
    elif down:
        direction = "sendonly"
    negotiated = extensions.negotiate(section.extensions, wanted)
    answer = MediaSection(
        kind,
        section.mid,
        direction,
        codecs=kept,
        extensions=negotiated,
        rids=[SdpRid(rid.id, "recv") for rid in section.rids if rid.direction == "send"]
        if receiving
        else (),
        simulcast_recv=section.simulcast_send if receiving else (),
        msid=(down.stream, down.track_sid) if down else None,
        ssrcs=ssrcs(down, kept) if down else (),
        ssrc_groups=ssrc_groups(down, kept) if down else (),
        candidates=inputs.candidates,
        end_of_candidates=bool(inputs.candidates),
        ice_ufrag=local.ice_ufrag,
        ice_pwd=local.ice_pwd,
        setup=DTLS_SETUP,
    )
    receiver = _receiver(section, answer, inputs.match) if inputs.match else None
    return _AnsweredSection(
        inputs, answer, receiver, sender_plan(answer, down, kept) if down else None
    )


def _published_codecs(
    kept: Sequence[SdpCodec], track: AnnouncedTrack, match: Match, client: ClientTraits
) -> list[SdpCodec]:
    """The order and parameters that make the client send the track as it was announced."""
    chosen = track.codecs[match.codec_index].mime
    if track.kind == "video":
        return codecs.prefer("video", kept, chosen, only=client.keeps_only_chosen_codec)
    mime = chosen or ("audio/red" if track.red else "audio/opus")
    return codecs.with_opus_parameters(
        codecs.prefer("audio", kept, mime), stereo=track.stereo, dtx=track.dtx
    )


def _receiver(section: MediaSection, answer: MediaSection, match: Match) -> ReceiverPlan | None:
    """The engine's view of a section a client sends on; None when the answer refused it."""
    if answer.rejected or section.kind == "application":
        return None
    return ReceiverPlan(
        mid=section.mid,
        kind=section.kind,
        track_sid=match.track_sid,
        sdp_cid=match.sdp_cid,
        codec_index=match.codec_index,
        codecs=codecs.engine_codecs(section.kind, answer.codecs),
        encodings=_encodings(section),
        extensions=extensions.engine_ids(answer.extensions),
    )


_RID_ORDER = {"q": 0, "h": 1, "f": 2, "2": 0, "1": 1, "0": 2}
"""Low to high: the name of a rid tells its layer, never its place."""


def _encodings(section: MediaSection) -> tuple[Encoding, ...]:
    if section.simulcast_send:
        places = {rid: place for place, rid in enumerate(section.simulcast_send)}
        ordered = sorted(
            places, key=lambda rid: (_RID_ORDER.get(rid, len(_RID_ORDER)), places[rid])
        )
        return tuple(Encoding(layer, rid=rid) for layer, rid in enumerate(ordered))
    rtx = {
        group.ssrcs[0]: group.ssrcs[1]
        for group in section.ssrc_groups
        if group.semantics == "FID" and len(group.ssrcs) == 2
    }
    simulcast = next((g.ssrcs for g in section.ssrc_groups if g.semantics == "SIM"), None)
    if simulcast is None:
        simulcast = [ssrc for ssrc, _ in section.ssrcs if ssrc not in rtx.values()][:1]
    return tuple(
        Encoding(layer, ssrc=ssrc, rtx_ssrc=rtx.get(ssrc)) for layer, ssrc in enumerate(simulcast)
    )


def _credentials(remote: RemoteParameters) -> tuple[str, str]:
    return remote.ice_ufrag, remote.ice_pwd

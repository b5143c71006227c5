"""Offer and answer policy of the LiveKit signal protocol, one machine per peer connection.

`PublisherNegotiation` answers a client's offers (the publisher connection of the dual mode, and the
only connection of the single mode); `SubscriberNegotiation` makes our offers (dual mode). Both are
told what to negotiate as values and hand back values (see `plans`): nothing here sends, waits, or
draws a random number. Not a WebRTC stack: descriptions are decided here, transports live in the
media core.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mediacore import (
    MediaSection,
    SdpCache,
    SdpCodec,
    SdpError,
    SdpRid,
    SdpSsrcGroup,
    SessionDescription,
)

from sfu.core import codecs, extensions
from sfu.core.codecs import ClientTraits, CodecPolicy
from sfu.core.media_commands import Encoding
from sfu.core.plans import (
    AnnouncedTrack,
    Answered,
    Applied,
    DownTrack,
    Kind,
    LocalTransport,
    NegotiationFailed,
    Offer,
    ReceiverPlan,
    RemoteParameters,
    SectionsRequirement,
    SenderPlan,
    UnmatchedSection,
)

DEBOUNCE_QUIET_S = 0.010
"""Delay of a negotiation when the last one is older than `DEBOUNCE_BUSY_S`."""
DEBOUNCE_BUSY_S = 0.150
"""Delay of a negotiation which follows another one closely."""
ANSWER_TIMEOUT_S = 15.0
"""How long a client may take to answer an offer."""
SCTP_PORT = 5000
"""The port every WebRTC endpoint uses (RFC 8841)."""
DTLS_SETUP = "active"
"""We send the ClientHello, in offers too (RFC 8842): a session could not move to another node else.
"""
MAX_MESSAGE_SIZE = 65_535
"""Octets of one data channel message, as we advertise them."""


class BadDescription(ValueError):
    """A client's description cannot be used.

    Nothing was changed; the text says line or section and reason.
    """


@dataclass(frozen=True, slots=True)
class NegotiationConfig:
    """What stays the same for the life of one peer connection.

    `session_id` (RFC 8866, 63 random bits) and every other number is drawn by the caller. `single`:
    one peer connection carries both directions.
    """

    session_id: int
    codecs: CodecPolicy
    client: ClientTraits
    single: bool = False


# ---------------------------------------------------------------------------------- client offers


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
        self._matches: Mapping[str, _Match] = {}
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
        offer = _parse(self._cache, offer_sdp)
        sections = tuple(offer.sections)
        self._check_layout(sections)
        remote = _remote_of(offer)
        restarted = self._remote is not None and _credentials(remote) != _credentials(self._remote)
        local = self._local
        if restarted:
            local = replace(local, ice_ufrag=fresh_credentials[0], ice_pwd=fresh_credentials[1])

        matches, retired = _match(
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
        matches, self._retired = _match(
            self._layout, tracks, self._matches, self._retired, self._config.codecs.publish
        )
        new = []
        for mid, match in matches.items():
            held = self._answered.get(mid)
            if held is None or mid in self._matches:
                continue
            receiver = _receiver(held.inputs.section, held.section, match)
            self._answered = {**self._answered, mid: replace(held, receiver=receiver)}
            if receiver is not None:
                new.append(receiver)
        self._matches = matches
        return tuple(new)

    @property
    def unmatched(self) -> tuple[UnmatchedSection, ...]:
        """Sections whose track the client has not announced yet."""
        return tuple(
            UnmatchedSection(section.mid, section.kind, _cid(section))
            for section in self._layout
            if section.kind != "application"
            and not section.rejected
            and _sends(section)
            and section.mid not in self._matches
            and self._retired.get(section.mid) != _cid(section)
        )

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
            if track and section and not section.rejected and _receives(section):
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
        in_, out = _Changes.of(receivers_before, receivers), _Changes.of(senders_before, senders)
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
                UnmatchedSection(mid, result.inputs.section.kind, _cid(result.inputs.section))
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
class _Match:
    """A section's track: which codec of it, and the id the description calls it by."""

    track_sid: str
    codec_index: int
    sdp_cid: str


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Everything the answer to one section depends on; equal inputs need no second answer."""

    section: MediaSection
    announced: AnnouncedTrack | None
    match: _Match | None
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


@dataclass(frozen=True, slots=True)
class _Changes:
    """Mids of plans that are new, differ, or are gone; another track on a mid is gone and new."""

    added: list[str]
    changed: list[str]
    ended: list[str]

    @classmethod
    def of(
        cls,
        before: Mapping[str, ReceiverPlan] | Mapping[str, SenderPlan],
        after: Mapping[str, ReceiverPlan] | Mapping[str, SenderPlan],
    ) -> "_Changes":
        def same(mid: str) -> bool:
            return mid in before and mid in after and before[mid].track_sid == after[mid].track_sid

        return cls(
            added=[mid for mid in after if not same(mid)],
            changed=[mid for mid in after if same(mid) and before[mid] != after[mid]],
            ended=[mid for mid in before if not same(mid)],
        )


def _match(
    sections: Sequence[MediaSection],
    tracks: Sequence[AnnouncedTrack],
    before: Mapping[str, _Match],
    retired: Mapping[str, str],
    allowed: frozenset[str],
) -> tuple[dict[str, _Match], dict[str, str]]:
    """Which section carries which announced track, and the ids of sections whose track has ended.

    First what was known, then equal ids, then backup codecs by their mime, then the first track of
    the kind that nothing else points to: browsers may change ids. A section whose track has ended
    is never taken for another track by guess.
    """
    matching = _Matching(sections, tracks)
    matching.keep(before, retired)
    matching.by_id()
    matching.by_guess(allowed)
    return matching.result()


class _Matching:
    """One run of `_match`, step by step."""

    def __init__(self, sections: Sequence[MediaSection], tracks: Sequence[AnnouncedTrack]) -> None:
        self._tracks = {track.track_sid: track for track in tracks}
        self._sections = [
            section
            for section in sections
            if section.kind != "application" and not section.rejected and _sends(section)
        ]
        self._ids = {_bare(_cid(section)) for section in self._sections}
        self._exact = {
            _bare(cid): _Match(track.track_sid, index, cid)
            for track in tracks
            for cid, index in _cids_of(track)
        }
        self._matches: dict[str, _Match] = {}
        self._taken: set[tuple[str, int]] = set()
        self._ended: dict[str, str] = {}

    def keep(self, before: Mapping[str, _Match], retired: Mapping[str, str]) -> None:
        """What was known stays, unless its track ended or another one was put in its place."""
        for section in self._sections:
            known = before.get(section.mid)
            cid = _cid(section)
            if known is None:
                if retired.get(section.mid) == cid:
                    self._ended[section.mid] = cid
            elif known.track_sid not in self._tracks:
                self._ended[section.mid] = known.sdp_cid
            elif known.sdp_cid == cid or _bare(cid) not in self._exact:
                self._matches[section.mid] = known
                self._taken.add((known.track_sid, known.codec_index))

    def by_id(self) -> None:
        """The msid's track id is the announced one."""
        for section in self._open():
            found = self._exact.get(_bare(_cid(section)))
            if found is not None and self._tracks[found.track_sid].kind == section.kind:
                self._take(section, found.track_sid, found.codec_index)

    def by_guess(self, allowed: frozenset[str]) -> None:
        """Backup codecs by their mime, then any track of the kind."""
        for section in self._open():
            if section.mid not in self._ended:
                guess = self._backup_codec(section, allowed) or self._first_of_kind(section)
                if guess is not None:
                    self._take(section, *guess)

    def result(self) -> tuple[dict[str, _Match], dict[str, str]]:
        order = (section.mid for section in self._sections)
        return {mid: self._matches[mid] for mid in order if mid in self._matches}, self._ended

    def _open(self) -> list[MediaSection]:
        return [section for section in self._sections if section.mid not in self._matches]

    def _take(self, section: MediaSection, track_sid: str, index: int) -> None:
        if (track_sid, index) in self._taken:
            return
        self._taken.add((track_sid, index))
        self._matches[section.mid] = _Match(track_sid, index, _cid(section))
        self._ended.pop(section.mid, None)

    def _backup_codec(
        self, section: MediaSection, allowed: frozenset[str]
    ) -> tuple[str, int] | None:
        if section.kind == "application":
            return None
        kept = codecs.negotiate(section.kind, section.codecs, allowed, ())
        mime = codecs.mime_of(section.kind, kept[0]) if kept else ""
        for sid, track in self._tracks.items():
            if track.kind != section.kind or (sid, 0) not in self._taken:
                continue
            for index, codec in enumerate(track.codecs):
                if index and codec.mime == mime and (sid, index) not in self._taken:
                    return sid, index
        return None

    def _first_of_kind(self, section: MediaSection) -> tuple[str, int] | None:
        matched = {sid for sid, _ in self._taken}
        for sid, track in self._tracks.items():
            expected = any(_bare(cid) in self._ids for cid, _ in _cids_of(track))
            if track.kind == section.kind and sid not in matched and not expected:
                return sid, 0
        return None


def _cids_of(track: AnnouncedTrack) -> Iterable[tuple[str, int]]:
    known = {codec.cid: index for index, codec in enumerate(track.codecs) if codec.cid}
    if track.cid:
        yield track.cid, known.get(track.cid, 0)
    yield from ((cid, index) for cid, index in known.items() if cid != track.cid)


def _bare(cid: str) -> str:
    """Firefox writes track ids in braces in some places and without in others."""
    return cid.removeprefix("{").removesuffix("}")


def _cid(section: MediaSection) -> str:
    return section.msid[1] if section.msid else ""


def _sends(section: MediaSection) -> bool:
    return section.direction in ("sendrecv", "sendonly")


def _receives(section: MediaSection) -> bool:
    return section.direction in ("sendrecv", "recvonly")


def _answer_section(inputs: _Inputs, config: NegotiationConfig) -> _AnsweredSection:
    section, local = inputs.section, inputs.local
    if section.kind == "application":
        return _AnsweredSection(inputs, _application(section.mid, local, inputs.candidates))
    kind = section.kind
    receiving = _sends(section)
    if receiving or not config.single:
        feedback = codecs.AUDIO_FEEDBACK if kind == "audio" else codecs.VIDEO_FEEDBACK_IN
        kept = codecs.negotiate(kind, section.codecs, config.codecs.publish, feedback)
        wanted = extensions.RECEIVED[kind]
    else:
        feedback = codecs.AUDIO_FEEDBACK if kind == "audio" else codecs.VIDEO_FEEDBACK_OUT
        kept = codecs.negotiate(kind, section.codecs, config.codecs.subscribe, feedback)
        # libwebrtc leaves out of all later offers what was refused here once, also from sections it
        # publishes on: without mid and rid there is no simulcast, without levels no speaker.
        wanted = extensions.SENT[kind] | extensions.RECEIVED[kind]
    if not kept:
        return _AnsweredSection(inputs, MediaSection(kind, section.mid, rejected=True))
    if receiving and inputs.announced is not None and inputs.match is not None:
        kept = _published_codecs(kept, inputs.announced, inputs.match, config.client)
    down = inputs.down
    if down is not None:
        kept = _sent_codecs(kept, down, config.client)
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
        ssrcs=_ssrcs(down, kept) if down else (),
        ssrc_groups=_ssrc_groups(down, kept) if down else (),
        candidates=inputs.candidates,
        end_of_candidates=bool(inputs.candidates),
        ice_ufrag=local.ice_ufrag,
        ice_pwd=local.ice_pwd,
        setup=DTLS_SETUP,
    )
    receiver = _receiver(section, answer, inputs.match) if inputs.match else None
    return _AnsweredSection(inputs, answer, receiver, _sender(answer, down, kept) if down else None)


def _application(mid: str, local: LocalTransport, candidates: Sequence[str]) -> MediaSection:
    return MediaSection(
        "application",
        mid,
        "sendrecv",
        sctp_port=SCTP_PORT,
        max_message_size=MAX_MESSAGE_SIZE,
        candidates=candidates,
        end_of_candidates=bool(candidates),
        ice_ufrag=local.ice_ufrag,
        ice_pwd=local.ice_pwd,
        setup=DTLS_SETUP,
    )


def _published_codecs(
    kept: Sequence[SdpCodec], track: AnnouncedTrack, match: _Match, client: ClientTraits
) -> list[SdpCodec]:
    """The order and parameters that make the client send the track as it was announced."""
    chosen = track.codecs[match.codec_index].mime
    if track.kind == "video":
        return codecs.prefer("video", kept, chosen, only=client.keeps_only_chosen_codec)
    mime = chosen or ("audio/red" if track.red else "audio/opus")
    return codecs.with_opus_parameters(
        codecs.prefer("audio", kept, mime), stereo=track.stereo, dtx=track.dtx
    )


def _sent_codecs(kept: Sequence[SdpCodec], down: DownTrack, client: ClientTraits) -> list[SdpCodec]:
    if down.kind == "audio" and not _wants_nack(down, client):
        kept = codecs.without_opus_nack(kept)
    return codecs.with_sprop_stereo(kept) if down.stereo else list(kept)


def _wants_nack(down: DownTrack, client: ClientTraits) -> bool:
    """Lost Opus is sent again unless the track goes out as RED."""
    return not (client.takes_red and down.mimes[:1] == ("audio/red",))


def _ssrcs(down: DownTrack, kept: Sequence[SdpCodec]) -> list[tuple[int, str]]:
    rtx = _rtx_ssrc(down, kept)
    return [(ssrc, down.stream) for ssrc in (down.ssrc, rtx) if ssrc is not None]


def _ssrc_groups(down: DownTrack, kept: Sequence[SdpCodec]) -> list[SdpSsrcGroup]:
    rtx = _rtx_ssrc(down, kept)
    return [] if rtx is None else [SdpSsrcGroup("FID", [down.ssrc, rtx])]


def _rtx_ssrc(down: DownTrack, kept: Sequence[SdpCodec]) -> int | None:
    return down.rtx_ssrc if any(codec.name.lower() == "rtx" for codec in kept) else None


def _sender(answer: MediaSection, down: DownTrack, kept: Sequence[SdpCodec]) -> SenderPlan:
    return SenderPlan(
        mid=answer.mid,
        kind=down.kind,
        track_sid=down.track_sid,
        ssrc=down.ssrc,
        rtx_ssrc=_rtx_ssrc(down, kept),
        cname=down.stream,
        codecs=codecs.engine_codecs(down.kind, kept),
        extensions=extensions.engine_ids(
            extensions.negotiate(answer.extensions, extensions.SENT[down.kind], one_byte=True)
        ),
    )


def _receiver(section: MediaSection, answer: MediaSection, match: _Match) -> ReceiverPlan | None:
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


# ------------------------------------------------------------------------------------- our offers


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
            sections.append(_application("0", self._local, candidates))
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
        answer = _parse(self._cache, answer_sdp)
        sections = answer.sections
        _check_answer(outstanding.sections, sections)
        remote = _remote_of(answer)

        senders: dict[str, SenderPlan] = {}
        refused: list[str] = []
        for slot, section in zip(self._slots, sections[self._data_channels :], strict=False):
            plan = slot.answered(section)
            if plan is None and slot.offered is not None and slot.track == slot.offered:
                refused.append(slot.offered.track_sid)
                slot.track = None
            elif plan is not None and slot.track == slot.offered:
                senders[slot.mid] = plan
        changes = _Changes.of(self._senders, senders)
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

    @property
    def is_waiting(self) -> bool:
        """An offer is outstanding."""
        return self._outstanding is not None


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
            opus_nack=down is None or _wants_nack(down, config.client),
            stereo=down is not None and down.stereo,
        )
        return MediaSection(
            self.kind,
            self.mid,
            "sendonly" if down else "inactive",
            codecs=offered,
            extensions=extensions.OFFERED[self.kind],
            msid=(down.stream, down.track_sid) if down else None,
            ssrcs=_ssrcs(down, offered) if down else (),
            ssrc_groups=_ssrc_groups(down, offered) if down else (),
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
        if not _receives(section) or self._rendered is None:
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
        return _sender(section, down, common)


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


class Debounce:
    """When a wished negotiation is due: soon after a quiet time, later after a busy one.

    Used for the server's offers, and in single mode for `media_sections_requirement`.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._due: float | None = None

    def request(self, now: float, *, force: bool = False) -> None:
        """Wish a negotiation; an earlier due time stays."""
        if force or self._last is None:
            due = now
        elif now - self._last > DEBOUNCE_BUSY_S:
            due = now + DEBOUNCE_QUIET_S
        else:
            due = now + DEBOUNCE_BUSY_S
        self._due = due if self._due is None else min(self._due, due)

    def take(self, now: float) -> bool:
        """Whether one is due; it counts as done then."""
        if self._due is None or now < self._due:
            return False
        self._due = None
        self._last = now
        return True

    def next_timeout(self) -> float | None:
        """When `take` becomes true."""
        return self._due


# ---------------------------------------------------------------------------------- descriptions


def _parse(cache: SdpCache, text: str) -> SessionDescription:
    try:
        return cache.parse(text)
    except SdpError as error:
        raise BadDescription(str(error)) from error


def _remote_of(
    description: SessionDescription,
) -> RemoteParameters:
    """Transport parameters; a client that wants to be the DTLS client cannot be served."""
    ufrag, pwd = description.ice_ufrag, description.ice_pwd
    if ufrag is None or pwd is None:
        raise BadDescription("the description has no ice-ufrag or no ice-pwd")
    if description.fingerprint is None:
        raise BadDescription("the description has no fingerprint")
    if description.setup == DTLS_SETUP:
        raise BadDescription("setup:active cannot be answered: this side sends the ClientHello")
    return RemoteParameters(ufrag, pwd, description.fingerprint)


def _credentials(remote: RemoteParameters) -> tuple[str, str]:
    return remote.ice_ufrag, remote.ice_pwd

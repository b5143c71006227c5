"""Which section of a client's offer carries which announced track.

Clients announce a track by a cid and later offer a section with an msid; the two should agree, and
often do not. Only ids and kinds are compared here: what a section is answered is in answering.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mediacore.sdp import MediaSection
from sfu.core import codecs
from sfu.core.negotiation import cid_of, sends
from sfu.core.plans import AnnouncedTrack


@dataclass(frozen=True, slots=True)
class Match:
    """A section's track: which codec of it, and the id the description calls it by."""

    track_sid: str
    codec_index: int
    sdp_cid: str


def match_sections(
    sections: Sequence[MediaSection],
    tracks: Sequence[AnnouncedTrack],
    before: Mapping[str, Match],
    retired: Mapping[str, str],
    allowed: frozenset[str],
) -> tuple[dict[str, Match], dict[str, str]]:
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
    """One run of `match_sections`, step by step."""

    def __init__(self, sections: Sequence[MediaSection], tracks: Sequence[AnnouncedTrack]) -> None:
        self._tracks = {track.track_sid: track for track in tracks}
        self._sections = [
            section
            for section in sections
            if section.kind != "application" and not section.rejected and sends(section)
        ]
        self._ids = {_bare(cid_of(section)) for section in self._sections}
        self._exact = {
            _bare(cid): Match(track.track_sid, index, cid)
            for track in tracks
            for cid, index in _cids_of(track)
        }
        self._matches: dict[str, Match] = {}
        self._taken: set[tuple[str, int]] = set()
        self._ended: dict[str, str] = {}

    def keep(self, before: Mapping[str, Match], retired: Mapping[str, str]) -> None:
        """What was known stays, unless its track ended or another one was put in its place."""
        for section in self._sections:
            known = before.get(section.mid)
            cid = cid_of(section)
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
            found = self._exact.get(_bare(cid_of(section)))
            if found is not None and self._tracks[found.track_sid].kind == section.kind:
                self._take(section, found.track_sid, found.codec_index)

    def by_guess(self, allowed: frozenset[str]) -> None:
        """Backup codecs by their mime, then any track of the kind."""
        for section in self._open():
            if section.mid not in self._ended:
                guess = self._backup_codec(section, allowed) or self._first_of_kind(section)
                if guess is not None:
                    self._take(section, *guess)

    def result(self) -> tuple[dict[str, Match], dict[str, str]]:
        order = (section.mid for section in self._sections)
        return {mid: self._matches[mid] for mid in order if mid in self._matches}, self._ended

    def _open(self) -> list[MediaSection]:
        return [section for section in self._sections if section.mid not in self._matches]

    def _take(self, section: MediaSection, track_sid: str, index: int) -> None:
        if (track_sid, index) in self._taken:
            return
        self._taken.add((track_sid, index))
        self._matches[section.mid] = Match(track_sid, index, cid_of(section))
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

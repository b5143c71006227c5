"""Offer and answer policy of the LiveKit signal protocol, one machine per peer connection.

`PublisherNegotiation` answers a client's offers (the publisher connection of the dual mode, and the
only connection of the single mode); `SubscriberNegotiation` makes our offers (dual mode). Both are
told what to negotiate as values and hand back values (see `plans`): nothing here sends, waits, or
draws a random number. Not a WebRTC stack: descriptions are decided here, transports live in the
media core.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sfu.core.codecs import ClientTraits, CodecPolicy
from sfu.core.plans import (
    AnnouncedTrack,
    Answered,
    Applied,
    DownTrack,
    LocalTransport,
    NegotiationFailed,
    Offer,
    ReceiverPlan,
    SectionsRequirement,
    UnmatchedSection,
)

DEBOUNCE_QUIET_S = 0.010
"""Delay of a negotiation when the last one is older than `DEBOUNCE_BUSY_S`."""
DEBOUNCE_BUSY_S = 0.150
"""Delay of a negotiation which follows another one closely."""
ANSWER_TIMEOUT_S = 15.0
"""How long a client may take to answer an offer."""
MAX_MESSAGE_SIZE = 65_535
"""Octets of one data channel message, as we advertise them."""


class BadDescription(ValueError):
    """A client's description cannot be used. Nothing was changed; the text says line or section and
    reason.
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


class PublisherNegotiation:
    """Answers a client's offers, in order; remembers which section is which track.

    A bad offer raises BadDescription and leaves the machine as it was.
    """

    def __init__(self, config: NegotiationConfig, local: LocalTransport) -> None:
        raise NotImplementedError

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
        raise NotImplementedError

    def match_pending(self, tracks: Sequence[AnnouncedTrack]) -> tuple[ReceiverPlan, ...]:
        """Match held sections after an AddTrackRequest or the end of a track; the newly matched
        ones.
        """
        raise NotImplementedError

    @property
    def unmatched(self) -> tuple[UnmatchedSection, ...]:
        """Sections whose track the client has not announced yet."""
        raise NotImplementedError

    def require(self, down_tracks: Sequence[DownTrack]) -> SectionsRequirement:
        """Sections the client must add for these tracks, beyond the free ones and those already
        asked for.

        Single mode: send it as `media_sections_requirement` also when it is empty and a
        renegotiation is wanted. Counted as asked for until the next offer arrives.
        """
        raise NotImplementedError


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
        raise NotImplementedError

    def add(self, track: DownTrack) -> str:
        """Give the track a section (a free one of its kind, or a new one); its mid. Call `request`
        after.
        """
        raise NotImplementedError

    def remove(self, track_sid: str) -> None:
        """Deactivate the section of a track with the next offer. Unknown tracks are ignored."""
        raise NotImplementedError

    def request(self, now: float, *, force: bool = False) -> None:
        """Want an offer: at once for the first one or when forced, else after the debounce delay.

        While an offer is outstanding the wish is kept until the answer.
        """
        raise NotImplementedError

    def restart_ice(self, now: float, ice_ufrag: str, ice_pwd: str) -> None:
        """Want an offer with new credentials at once; an outstanding offer is given up."""
        raise NotImplementedError

    def poll(self, now: float) -> Offer | NegotiationFailed | None:
        """The offer which is due, the failure of the outstanding one, or nothing."""
        raise NotImplementedError

    def next_timeout(self) -> float | None:
        """When `poll` may have something to say."""
        raise NotImplementedError

    def apply_answer(self, answer_sdp: str, now: float, answer_id: int = 0) -> Applied | None:
        """Take the client's answer; None when it belongs to an offer given up (or no offer is
        outstanding).

        `answer_id` 0 means the client does not echo ids. Raises BadDescription.
        """
        raise NotImplementedError

    @property
    def mid_to_track_id(self) -> dict[str, str]:
        """Every section we send on, as the last offer says."""
        raise NotImplementedError


class Debounce:
    """When a wished negotiation is due: soon after a quiet time, later after a busy one.

    The machine of the server's offers; single mode uses it for `media_sections_requirement`.
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

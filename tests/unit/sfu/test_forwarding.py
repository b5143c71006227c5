"""A participant of one scripted room is shown in another."""

from __future__ import annotations

import pytest
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from contracts.room.v1 import room_pb2
from sfu.core import stage
from sfu.core.forwarding import (
    GuestAdmitted,
    GuestAnnounced,
    GuestChanged,
    GuestEnded,
    GuestLeft,
    GuestRefused,
    Image,
    WishArrived,
    WishesEnded,
    WishTold,
)
from sfu.core.media_commands import AddSender, RemoveSender
from sfu.core.media_events import AudioLevels
from sfu.core.room_events import AnswerApi, ApiCalled
from tests.support.scripted_room import Client, World

GUEST = "PA_guest"
pytestmark = pytest.mark.usefixtures("world")  # which makes negotiation fake


def publish(client: Client) -> str:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="mic", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    )
    client.offer({"mid": "0", "kind": "audio", "cid": "mic"})
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def two_rooms() -> tuple[World, World]:
    there = World()
    for _ in range(1000):
        there.ids.sid("X")  # ids of their own
        there.ids.engine_id()
    return World(), there


def announce(there: World, identity: str) -> None:
    joining = room_pb2.JoinRequested(
        identity=identity,
        kind_details=[models.ParticipantInfo.FORWARDED],
        permission=models.ParticipantPermission(can_publish=True).SerializeToString(),
        forwarded_from="room1",
    )
    there.feed(GuestAnnounced(GUEST, joining))


def follow(here: World, client: Client, there: World) -> None:
    """What the runner does after each turn."""
    member = here.room.find(client.identity)
    assert member is not None
    media = here.stage.media_of(list(member.tracks))
    there.feed(GuestChanged(GUEST, Image(member.bytes(), None, media)))


def forward(here: World, client: Client, there: World) -> None:
    announce(there, client.identity)
    assert there.forwards.pop() == GuestAdmitted(GUEST)
    follow(here, client, there)


def test_guest_is_shown_with_its_tracks_and_heard_from_its_own_engine_track() -> None:
    here, there = two_rooms()
    bob = there.join("bob", connect=True)
    alice = here.join("alice", connect=True)
    track_sid = publish(alice)
    forward(here, alice, there)
    bob.answer()
    info = there.room.info_now(there.room.members[GUEST])
    assert info.kind_details == [models.ParticipantInfo.FORWARDED]
    assert info.state == models.ParticipantInfo.ACTIVE
    assert [track.sid for track in info.tracks] == [track_sid]
    assert there.room.room_now().num_participants == 1
    sender = there.told(AddSender)[-1]
    assert sender.config.track in here.stage.media_of([track_sid])[track_sid].ids.values()


def test_mute_profile_and_end_of_a_track_are_followed() -> None:
    here, there = two_rooms()
    bob = there.join("bob", connect=True)
    alice = here.join("alice", connect=True)
    track_sid = publish(alice)
    forward(here, alice, there)
    bob.answer()
    alice.send(mute=rtc.MuteTrackRequest(sid=track_sid, muted=True))
    alice.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="new", name="Alice"))
    follow(here, alice, there)
    shown = bob.last("update")
    assert isinstance(shown, rtc.ParticipantUpdate)
    (guest,) = shown.participants
    assert (guest.name, guest.metadata, guest.tracks[0].muted) == ("Alice", "new", True)
    there.feed(GuestLeft(GUEST, models.DisconnectReason.CLIENT_INITIATED))
    assert GUEST not in there.room.members
    assert len(there.told(RemoveSender)) == 1
    assert there.stage.media_of([track_sid]) == {}


def test_who_is_here_already_is_not_forwarded_here() -> None:
    here, there = two_rooms()
    there.join("alice", connect=True)
    alice = here.join("alice", connect=True)
    announce(there, alice.identity)
    refused = there.forwards.pop()
    assert isinstance(refused, GuestRefused)
    assert refused.code == "already_exists"
    assert GUEST not in there.room.members


def test_removed_guest_ends_and_who_joins_as_it_takes_its_place() -> None:
    here, there = two_rooms()
    alice = here.join("alice", connect=True)
    forward(here, alice, there)
    there.join("alice", connect=True)
    assert there.forwards == [GuestEnded(GUEST)]
    assert GUEST not in there.room.members
    assert [m.identity for m in there.room.members.values()] == ["alice"]


def test_guest_keeps_no_room_open_and_closing_ends_it() -> None:
    here, there = two_rooms()
    alice = here.join("alice", connect=True)
    forward(here, alice, there)
    there.advance(301.0)
    assert there.room.is_closed
    assert GuestEnded(GUEST) in there.forwards
    assert there.stage.is_empty


def test_guest_cannot_be_changed_in_the_room_it_is_shown_in() -> None:
    here, there = two_rooms()
    alice = here.join("alice", connect=True)
    forward(here, alice, there)
    request = api.UpdateParticipantRequest(identity="alice", name="x").SerializeToString()
    call = ApiCalled(1, "UpdateParticipant", request)
    (answer,) = there.room.handle(call, there.now, there.wall_ms)
    assert isinstance(answer, AnswerApi)
    assert answer.error_code == "failed_precondition"
    assert "room1" in answer.error_message


def test_levels_of_a_guests_track_make_it_a_speaker() -> None:
    here, there = two_rooms()
    bob = there.join("bob", connect=True)
    alice = here.join("alice", connect=True)
    track_sid = publish(alice)
    forward(here, alice, there)
    bob.answer()
    (engine_track,) = here.stage.media_of([track_sid])[track_sid].ids.values()
    there.feed(stage.MediaArrived(AudioLevels(((engine_track, 10, 1.0),))))
    changed = bob.last("speakers_changed")
    assert isinstance(changed, rtc.SpeakersChanged)
    assert [speaker.sid for speaker in changed.speakers] == [GUEST]


def test_wishes_of_subscribers_there_count_for_the_publisher_here() -> None:
    here, there = two_rooms()
    bob = there.join("bob", connect=True)
    alice = here.join("alice", connect=True)
    track_sid = publish(alice)
    forward(here, alice, there)
    bob.answer()
    told = [it.wish for it in there.forwards if isinstance(it, WishTold)]
    assert (told[-1].guest_sid, told[-1].track_sid) == (GUEST, track_sid)
    assert told[-1].codec
    here.feed(told[-1])
    assert "track_subscribed" in alice.cases()
    here.feed(WishArrived(GUEST, track_sid, bob.sid, "", 0))
    here.feed(WishesEnded(GUEST, "alice"))

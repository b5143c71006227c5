"""The Room: admission, what others see and when, the track directory, API calls, events, life."""

from collections.abc import Callable

import pytest
from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from contracts.events.v1 import events_pb2
from contracts.room.v1 import checkpoint_pb2, room_pb2
from sfu.core.profile import ProfileLimits
from sfu.core.room_events import (
    FROZEN,
    AnswerApi,
    ApiCalled,
    Checkpoint,
    Closed,
    Closing,
    Effect,
    Frozen,
    GiveOrder,
    Inherited,
    NodeLost,
    Publish,
    RoomSettings,
    Thawed,
    Ticked,
)
from tests.support.room_scene import A, B, Scene

# ------------------------------------------------------------ admission


def test_a_join_is_admitted_as_joining_with_the_others_who_are_visible() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("ghost", hidden=True)
    scene.join("b")
    (order,) = scene.orders("admit")
    own = lk.ParticipantInfo.FromString(order.admit.participant)
    assert (own.sid, own.state, own.version) == ("PA_b", lk.ParticipantInfo.JOINING, 1)
    others = [lk.ParticipantInfo.FromString(p).identity for p in order.admit.others]
    assert others == ["a"]
    assert order.admit.sif_trailer == b"sif"
    assert lk.Room.FromString(order.admit.room).num_participants == 2


def test_the_same_join_again_changes_nothing() -> None:
    scene = Scene()
    scene.join("a")
    assert scene.join("a") == []


def test_a_duplicate_identity_evicts_the_old_session() -> None:
    scene = Scene()
    scene.join("old-client", protocol=11)
    scene.join("new-client")
    scene.join("twin", "PA_1")
    scene.settle()
    scene.join("twin", "PA_2")
    (end,) = scene.orders("end")
    assert (end.participant_sid, end.end.reason) == ("PA_1", lk.DUPLICATE_IDENTITY)
    departed, joined = scene.orders("show_participants")
    gone = lk.ParticipantInfo.FromString(departed.show_participants.participants[0])
    assert (gone.sid, gone.state) == ("PA_1", lk.ParticipantInfo.DISCONNECTED)
    assert list(departed.show_participants.to) == ["PA_old-client"]
    assert not joined.show_participants.to
    assert scene.shown()[-1].sid == "PA_2"
    assert scene.info("twin").sid == "PA_2"


def test_max_participants_is_exact_and_counts_no_dependents() -> None:
    scene = Scene(configuration=api.RoomConfiguration(max_participants=2))
    scene.join("a")
    scene.join("recorder", recorder=True)
    scene.join("agent", kind=lk.ParticipantInfo.AGENT)
    scene.join("b")
    assert scene.orders("admit")
    scene.join("c")
    (refusal,) = scene.orders("refuse")
    assert refusal.refuse.code == "unavailable"
    scene.join("agent-2", agent=True)
    assert scene.orders("admit")
    scene.join("b", "PA_b2")
    assert scene.orders("admit")
    assert not scene.orders("refuse")


def test_a_refused_join_evicts_nobody_and_is_never_shown() -> None:
    scene = Scene(configuration=api.RoomConfiguration(max_participants=1))
    scene.join("agent", "PA_1", agent=True)
    scene.join("a")
    scene.settle()
    scene.join("agent", "PA_2")
    assert not scene.orders("end")
    scene.settle()
    assert "PA_2" not in [p.sid for p in scene.shown()]


def test_a_nodes_first_session_brings_it_the_track_directory() -> None:
    scene = Scene()
    scene.join("a")
    scene.publish("PA_a", "TR_1")
    scene.join("b", node=B)
    (listing,) = scene.orders("list_track", B)
    assert (listing.list_track.publisher_sid, listing.list_track.media_node_id) == ("PA_a", A)
    scene.join("c", node=B)
    assert not scene.orders("list_track")


# ------------------------------------------------------------ what others see, and when


def test_states_only_go_up_and_versions_grow() -> None:
    scene = Scene()
    scene.join("a")
    scene.settle()
    (joined,) = scene.shown()
    scene.fact("PA_a", activated=room_pb2.Activated())
    scene.settle()
    (active,) = scene.shown()
    assert (joined.state, active.state) == (lk.ParticipantInfo.JOINED, lk.ParticipantInfo.ACTIVE)
    assert active.version > joined.version
    assert scene.fact("PA_a", activated=room_pb2.Activated()) == []


@pytest.mark.parametrize(("members", "window"), [(1, 0.02), (500, 0.1), (3000, 0.5)])
def test_updates_are_gathered_for_a_window_that_grows_with_the_room(
    members: int, window: float
) -> None:
    scene = Scene()
    for number in range(members - 1):
        scene.join(str(number))
    scene.settle()
    scene.settle()
    scene.join("last")
    assert not scene.orders("show_participants")
    due = scene.room.next_timeout()
    assert due == pytest.approx(scene.now + window)
    scene.now = due or 0.0
    scene.do(Ticked())
    assert [p.identity for p in scene.shown()] == ["last"]


def test_a_peer_that_comes_and_goes_within_the_window_is_never_shown() -> None:
    scene = Scene()
    scene.join("a")
    scene.settle()
    scene.join("b")
    scene.fact("PA_b", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    assert scene.names() == ["participant_connection_aborted"]
    scene.settle()
    assert scene.shown() == []


def test_a_publishers_changes_go_out_at_once() -> None:
    scene = Scene()
    scene.join("a")
    scene.settle()
    scene.publish("PA_a", "TR_1")
    (info,) = scene.shown()
    assert info.is_publisher
    assert [t.sid for t in info.tracks] == ["TR_1"]
    scene.publish("PA_a", "TR_1", muted=True)
    assert scene.shown()[0].tracks[0].muted
    assert scene.publish("PA_a", "TR_1", muted=True) == []
    scene.fact("PA_a", track_ended=room_pb2.TrackEnded(track_sid="TR_1"))
    assert not scene.shown()[0].tracks
    assert scene.orders("delist_track")
    assert scene.names() == ["track_unpublished"]


def test_a_departure_carries_identity_reason_and_a_higher_version() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b")
    scene.settle()
    before = scene.info("b").version
    scene.fact("PA_b", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    scene.settle()
    (gone,) = scene.shown()
    assert (gone.identity, gone.state) == ("b", lk.ParticipantInfo.DISCONNECTED)
    assert gone.disconnect_reason == lk.CLIENT_INITIATED
    assert gone.version > before


def test_a_rejoin_never_precedes_the_departure_of_the_older_session() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b", "PA_1")
    scene.settle()
    scene.fact("PA_1", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    scene.join("b", "PA_2")
    shown = scene.shown()
    scene.settle()
    shown += scene.shown()
    assert [(p.sid, p.state) for p in shown] == [
        ("PA_1", lk.ParticipantInfo.DISCONNECTED),
        ("PA_2", lk.ParticipantInfo.JOINED),
    ]


def test_a_hidden_participant_is_shown_to_itself_only() -> None:
    scene = Scene()
    scene.join("a", node=B)
    scene.settle()
    scene.join("ghost", hidden=True)
    scene.settle()
    (order,) = scene.orders("show_participants")
    assert list(order.show_participants.to) == ["PA_ghost"]
    assert not scene.orders("show_participants", B)
    scene.fact("PA_ghost", left=room_pb2.Left())
    scene.settle()
    assert scene.shown() == []


def test_a_hidden_participant_is_not_counted_until_it_is_visible() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("ghost", hidden=True)
    scene.publish("PA_ghost", "TR_1")

    def counted() -> tuple[int, int]:
        answer = scene.call("ListRooms", api.ListRoomsRequest())
        (room,) = api.ListRoomsResponse.FromString(answer.response).rooms
        return room.num_participants, room.num_publishers

    def hide(hidden: bool) -> None:
        permission = lk.ParticipantPermission(can_publish=True, hidden=hidden)
        scene.call(
            "UpdateParticipant",
            api.UpdateParticipantRequest(room="r", identity="ghost", permission=permission),
        )

    assert counted() == (1, 0)
    hide(False)
    assert counted() == (2, 1)
    hide(True)
    assert counted() == (1, 0)
    scene.fact("PA_ghost", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    assert counted() == (1, 0)
    scene.fact("PA_a", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    assert counted() == (0, 0)


def test_a_recorder_shows_at_once_and_a_change_of_the_flag_too() -> None:
    scene = Scene()
    scene.join("a")
    scene.settle()
    scene.join("rec", recorder=True)
    (shown,) = scene.orders("show_room")
    room = lk.Room.FromString(shown.show_room.room)
    assert room.active_recording
    assert room.num_participants == 1
    permission = lk.ParticipantPermission(can_subscribe=True)
    scene.call(
        "UpdateParticipant",
        api.UpdateParticipantRequest(room="r", identity="rec", permission=permission),
    )
    (shown,) = scene.orders("show_room")
    assert not lk.Room.FromString(shown.show_room.room).active_recording


def test_one_window_brings_one_update_however_many_come_and_change() -> None:
    scene = Scene()
    for number in range(20):
        scene.join(f"p{number}")
        scene.fact(f"PA_p{number}", activated=room_pb2.Activated())
        assert not scene.orders("show_participants")
    scene.settle()
    (order,) = scene.orders("show_participants")
    infos = [lk.ParticipantInfo.FromString(p) for p in order.show_participants.participants]
    assert len({info.sid for info in infos}) == len(infos) == 20
    assert {info.state for info in infos} == {lk.ParticipantInfo.ACTIVE}


def test_what_a_client_says_of_itself_is_mirrored_to_all() -> None:
    scene = Scene()
    request = room_pb2.JoinRequested(
        identity="a",
        kind=lk.ParticipantInfo.AGENT,
        kind_details=[lk.ParticipantInfo.CLOUD_AGENT],
        client_protocol=1,
        capabilities=[lk.ClientInfo.CAP_PACKET_TRAILER],
        protocol_version=17,
    )
    scene.fact("PA_a", join_requested=request)
    info = scene.info("a")
    assert (info.kind, list(info.kind_details)) == (
        lk.ParticipantInfo.AGENT,
        [lk.ParticipantInfo.CLOUD_AGENT],
    )
    assert (info.client_protocol, list(info.capabilities)) == (
        1,
        [lk.ClientInfo.CAP_PACKET_TRAILER],
    )


def test_counters_follow_within_five_seconds_and_recording_at_once() -> None:
    scene = Scene()
    scene.join("a")
    assert not scene.orders("show_room")
    scene.settle()
    (order,) = scene.orders("show_room")
    assert lk.Room.FromString(order.show_room.room).num_participants == 1
    scene.join("recorder", kind=lk.ParticipantInfo.EGRESS)
    (order,) = scene.orders("show_room")
    shown = lk.Room.FromString(order.show_room.room)
    assert (shown.active_recording, shown.num_participants) == (True, 1)


def test_a_resume_brings_everybody_visible_and_those_who_left_meanwhile() -> None:
    scene = Scene()
    for identity in ("a", "b", "c"):
        scene.join(identity)
    scene.settle()
    scene.fact("PA_b", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    since = scene.wall_ms
    scene.now += 1.0
    scene.fact("PA_c", left=room_pb2.Left(reason=lk.CLIENT_INITIATED))
    scene.now += 1.0
    resume = room_pb2.ResumeRequested(tombstones_since_ms=since + 1)
    scene.fact("PA_a", resume_requested=resume)
    (order,) = scene.orders("resumed")
    present = [lk.ParticipantInfo.FromString(p).identity for p in order.resumed.participants]
    departed = [lk.ParticipantInfo.FromString(p).identity for p in order.resumed.departed]
    assert (present, departed) == (["a"], ["c"])
    scene.now += 61.0
    scene.fact("PA_a", resume_requested=room_pb2.ResumeRequested())
    assert not scene.orders("resumed")[0].resumed.departed


# ------------------------------------------------------------ permissions


def test_subscription_permissions_restrict_the_listings_of_their_publisher() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b")
    scene.join("c")
    scene.publish("PA_a", "TR_1")
    scene.publish("PA_a", "TR_2")
    permission = rtc.SubscriptionPermission(
        track_permissions=[
            rtc.TrackPermission(participant_sid="PA_b", all_tracks=True),
            rtc.TrackPermission(participant_identity="c", track_sids=["TR_2"]),
        ]
    )
    changed = room_pb2.SubscriptionPermissionChanged(permission=permission.SerializeToString())
    scene.fact("PA_a", subscription_permission_changed=changed)
    listings = [order.list_track for order in scene.orders("list_track")]
    allowed = {lk.TrackInfo.FromString(x.track).sid: list(x.allowed_identities) for x in listings}
    assert allowed == {"TR_1": ["b"], "TR_2": ["b", "c"]}
    assert all(x.restricted for x in listings)
    open_to_all = rtc.SubscriptionPermission(all_participants=True)
    changed = room_pb2.SubscriptionPermissionChanged(permission=open_to_all.SerializeToString())
    scene.fact("PA_a", subscription_permission_changed=changed)
    assert not any(order.list_track.restricted for order in scene.orders("list_track"))


def test_a_subscription_permission_that_names_nobody_is_void() -> None:
    scene = Scene()
    scene.join("a")
    scene.publish("PA_a", "TR_1")
    permission = rtc.SubscriptionPermission(track_permissions=[rtc.TrackPermission()])
    changed = room_pb2.SubscriptionPermissionChanged(permission=permission.SerializeToString())
    assert scene.fact("PA_a", subscription_permission_changed=changed) == []


def test_a_profile_change_is_shown_before_it_is_answered() -> None:
    scene = Scene()
    scene.join("a")
    scene.settle()
    change = room_pb2.ProfileChangeRequested(
        request_id=3, metadata="m", attributes={"k": "v", "gone": ""}
    )
    scene.fact("PA_a", profile_change_requested=change)
    kinds = [e.order.WhichOneof("order") for e in scene.effects if isinstance(e, GiveOrder)]
    assert kinds == ["show_participants", "answer_profile_change"]
    assert (scene.shown()[0].metadata, dict(scene.shown()[0].attributes)) == ("m", {"k": "v"})
    (answer,) = scene.orders("answer_profile_change")
    assert answer.answer_profile_change.reason == rtc.RequestResponse.OK


@pytest.mark.parametrize(
    ("can_update", "metadata", "reason"),
    [
        (False, "m", rtc.RequestResponse.NOT_ALLOWED),
        (True, "x" * 11, rtc.RequestResponse.LIMIT_EXCEEDED),
    ],
)
def test_a_profile_change_may_be_refused(can_update: bool, metadata: str, reason: int) -> None:
    scene = Scene(RoomSettings(profile_limits=ProfileLimits(max_metadata_bytes=10)))
    scene.join("a", can_update_metadata=can_update)
    change = room_pb2.ProfileChangeRequested(metadata=metadata)
    scene.fact("PA_a", profile_change_requested=change)
    (answer,) = scene.orders("answer_profile_change")
    assert answer.answer_profile_change.reason == reason
    assert not scene.shown()


# ------------------------------------------------------------ API calls


def test_create_room_makes_the_room_and_then_changes_what_is_given() -> None:
    scene = Scene()
    request = api.CreateRoomRequest(name="r", metadata="m", empty_timeout=9, max_participants=3)
    answer = scene.call("CreateRoom", request)
    made = lk.Room.FromString(answer.response)
    assert (made.metadata, made.empty_timeout, made.max_participants) == ("m", 9, 3)
    assert made.departure_timeout == 20
    assert scene.names() == ["room_started"]
    assert lk.Room.FromString(scene.events()[0].room).metadata == "m"
    scene.join("a")
    again = scene.call("CreateRoom", api.CreateRoomRequest(name="r", metadata="other"))
    same = lk.Room.FromString(again.response)
    assert (same.metadata, same.empty_timeout, same.max_participants) == ("other", 9, 3)
    assert same.sid == made.sid
    assert scene.names() == []
    (shown,) = scene.orders("show_room")
    assert lk.Room.FromString(shown.show_room.room).metadata == "other"
    scene.call("CreateRoom", api.CreateRoomRequest(name="r", metadata="other"))
    assert not scene.orders("show_room")


def test_create_room_over_the_limit_leaves_no_room() -> None:
    scene = Scene(RoomSettings(profile_limits=ProfileLimits(max_metadata_bytes=1)))
    answer = scene.call("CreateRoom", api.CreateRoomRequest(name="r", metadata="mm"))
    assert answer.error_code == "invalid_argument"
    assert scene.room.is_closed
    assert scene.names() == []


def test_the_first_joins_configuration_makes_the_room() -> None:
    scene = Scene()
    scene.join("a", configuration=api.RoomConfiguration(metadata="m").SerializeToString())
    assert scene.names() == ["room_started"]
    assert lk.Room.FromString(scene.events()[0].room).metadata == "m"


def test_list_and_get_participants_include_the_hidden() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("ghost", hidden=True)
    answer = scene.call("ListParticipants", api.ListParticipantsRequest(room="r"))
    listed = api.ListParticipantsResponse.FromString(answer.response)
    assert [p.identity for p in listed.participants] == ["a", "ghost"]
    missing = scene.call("GetParticipant", api.RoomParticipantIdentity(identity="x"))
    assert (missing.error_code, missing.error_message) == (
        "not_found",
        "participant does not exist",
    )


def test_remove_participant_ends_the_session_and_tells_the_others() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b")
    scene.settle()
    scene.call("RemoveParticipant", api.RoomParticipantIdentity(identity="b"))
    (end,) = scene.orders("end")
    assert (end.participant_sid, end.end.reason) == ("PA_b", lk.PARTICIPANT_REMOVED)
    assert scene.fact("PA_b", left=room_pb2.Left()) == []
    scene.settle()
    assert scene.shown()[0].disconnect_reason == lk.PARTICIPANT_REMOVED


def test_muting_a_track_orders_its_session_and_unmuting_needs_a_setting() -> None:
    scene = Scene()
    scene.join("a")
    scene.publish("PA_a", "TR_1")
    request = api.MuteRoomTrackRequest(identity="a", track_sid="TR_1", muted=True)
    answer = scene.call("MutePublishedTrack", request)
    assert api.MuteRoomTrackResponse.FromString(answer.response).track.muted
    (order,) = scene.orders("mute_track")
    assert (order.mute_track.track_sid, order.mute_track.muted) == ("TR_1", True)
    unknown = scene.call("MutePublishedTrack", api.MuteRoomTrackRequest(identity="a", muted=True))
    assert not api.MuteRoomTrackResponse.FromString(unknown.response).HasField("track")
    unmute = api.MuteRoomTrackRequest(identity="a", track_sid="TR_1")
    assert scene.call("MutePublishedTrack", unmute).error_code == "failed_precondition"
    allowed = Scene(RoomSettings(is_remote_unmute_enabled=True))
    allowed.join("a")
    allowed.publish("PA_a", "TR_1", muted=True)
    assert allowed.call("MutePublishedTrack", unmute).error_code == ""


def test_update_participant_replaces_permissions_and_merges_attributes() -> None:
    scene = Scene()
    scene.join("a")
    scene.settle()
    first = api.UpdateParticipantRequest(identity="a", name="n", attributes={"k": "v", "l": "w"})
    scene.call("UpdateParticipant", first)
    request = api.UpdateParticipantRequest(
        identity="a",
        attributes={"k": ""},
        permission=lk.ParticipantPermission(can_subscribe=True),
    )
    answer = scene.call("UpdateParticipant", request)
    info = lk.ParticipantInfo.FromString(answer.response)
    assert (info.name, dict(info.attributes)) == ("n", {"l": "w"})
    assert info.permission == request.permission
    (order,) = scene.orders("set_permission")
    assert order.set_permission.participant == answer.response
    assert [p.SerializeToString() for p in scene.shown()] == [answer.response]


def test_becoming_hidden_is_a_departure_for_the_others_and_back_again() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b")
    scene.settle()
    hide = api.UpdateParticipantRequest(
        identity="b", permission=lk.ParticipantPermission(hidden=True)
    )
    scene.call("UpdateParticipant", hide)
    departed, own = scene.orders("show_participants")
    assert getattr(departed.show_participants, "except") == ["PA_b"]
    gone = lk.ParticipantInfo.FromString(departed.show_participants.participants[0])
    assert gone.state == lk.ParticipantInfo.DISCONNECTED
    assert list(own.show_participants.to) == ["PA_b"]
    show = api.UpdateParticipantRequest(identity="b", permission=lk.ParticipantPermission())
    scene.call("UpdateParticipant", show)
    (order,) = scene.orders("show_participants")
    assert not order.show_participants.to


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (api.UpdateParticipantRequest(identity="a", name="x" * 9), "name is 9 bytes"),
        (api.UpdateParticipantRequest(identity="a", metadata="x" * 9), "metadata is 9 bytes"),
        (
            api.UpdateParticipantRequest(identity="a", attributes={"abcd": "efghi"}),
            "attributes are 9 bytes",
        ),
    ],
)
def test_update_participant_over_a_limit_changes_nothing(
    request_: api.UpdateParticipantRequest, message: str
) -> None:
    limits = RoomSettings(
        profile_limits=ProfileLimits(max_name_bytes=8, max_metadata_bytes=8, max_attributes_bytes=8)
    )
    scene = Scene(limits)
    scene.join("a")
    before = scene.info("a")
    answer = scene.call("UpdateParticipant", request_)
    assert answer.error_code == "invalid_argument"
    assert answer.error_message.startswith(message)
    assert scene.info("a") == before


def test_update_subscriptions_is_an_order_to_that_session() -> None:
    scene = Scene()
    scene.join("a")
    request = api.UpdateSubscriptionsRequest(identity="a", track_sids=["TR_1"], subscribe=True)
    assert scene.call("UpdateSubscriptions", request).error_code == ""
    (order,) = scene.orders("change_subscriptions")
    assert order.participant_sid == "PA_a"
    update = rtc.UpdateSubscription.FromString(order.change_subscriptions.update)
    assert (list(update.track_sids), update.subscribe) == (["TR_1"], True)


def test_data_of_one_nonce_is_delivered_once() -> None:
    scene = Scene()
    scene.join("a")
    request = api.SendDataRequest(data=b"d", topic="t", nonce=b"n" * 16)
    scene.call("SendData", request)
    (order,) = scene.orders("deliver_data")
    packet = lk.DataPacket.FromString(order.deliver_data.packet)
    assert (packet.user.payload, packet.user.topic) == (b"d", "t")
    assert (packet.participant_identity, order.deliver_data.reliable) == ("", True)
    assert scene.call("SendData", request).error_code == ""
    assert not scene.orders("deliver_data")
    bad = api.SendDataRequest(data=b"d", nonce=b"short")
    assert scene.call("SendData", bad).error_code == "invalid_argument"


def test_data_goes_to_the_named_only() -> None:
    scene = Scene()
    scene.join("a")
    request = api.SendDataRequest(
        destination_sids=["PA_a"], destination_identities=["b"], kind=lk.DataPacket.LOSSY
    )
    scene.call("SendData", request)
    (order,) = scene.orders("deliver_data")
    assert list(order.deliver_data.destination_identities) == ["b", "a"]
    assert not order.deliver_data.reliable
    scene.call("SendData", api.SendDataRequest(destination_sids=["PA_unknown"]))
    assert not scene.orders("deliver_data")


def test_room_metadata_is_shown_at_once() -> None:
    scene = Scene()
    scene.join("a")
    answer = scene.call("UpdateRoomMetadata", api.UpdateRoomMetadataRequest(metadata="m"))
    (order,) = scene.orders("show_room")
    assert lk.Room.FromString(order.show_room.room).metadata == "m"
    assert lk.Room.FromString(answer.response).metadata == "m"


def test_delete_room_ends_everybody_and_answers() -> None:
    scene = Scene()
    scene.join("a")
    scene.publish("PA_a", "TR_1")
    scene.fact("PA_a", activated=room_pb2.Activated())
    assert scene.call("DeleteRoom", api.DeleteRoomRequest(room="r")).error_code == ""
    assert [o.end.reason for o in scene.orders("end")] == [lk.ROOM_DELETED]
    assert scene.names() == ["track_unpublished", "participant_left", "room_finished"]
    assert Closed() in scene.effects
    gone = scene.call("ListRooms", api.ListRoomsRequest())
    assert gone.error_code == "not_found"


def test_undecodable_and_unknown_calls_are_refused_precisely() -> None:
    scene = Scene()
    scene.do(ApiCalled(5, "GetParticipant", b"\xff\xff"))
    (answer,) = [e for e in scene.effects if isinstance(e, AnswerApi)]
    assert (answer.call_id, answer.error_code) == (5, "malformed")
    assert scene.call("Unheard", api.MoveParticipantRequest()).error_code == "unimplemented"


# ------------------------------------------------------------ events and life


def test_events_of_a_room_are_numbered_and_in_order() -> None:
    scene = Scene()
    seen: list[events_pb2.RoomEvent] = []
    steps: list[Callable[[], list[Effect]]] = [
        lambda: scene.join("a"),
        lambda: scene.fact("PA_a", activated=room_pb2.Activated()),
        lambda: scene.publish("PA_a", "TR_1"),
        lambda: scene.fact("PA_a", left=room_pb2.Left(reason=lk.CLIENT_INITIATED)),
    ]
    for step in steps:
        step()
        seen += scene.events()
    assert [(e.sequence, e.name) for e in seen] == [
        (1, "room_started"),
        (2, "participant_joined"),
        (3, "track_published"),
        (4, "track_unpublished"),
        (5, "participant_left"),
    ]
    assert {(e.room_name, e.room_sid, e.epoch) for e in seen} == {("r", "RM_1", 7)}
    assert len({e.id for e in seen}) == 5
    left = lk.ParticipantInfo.FromString(seen[-1].participant)
    assert left.state == lk.ParticipantInfo.DISCONNECTED
    assert lk.ParticipantInfo.FromString(seen[1].participant).state == lk.ParticipantInfo.ACTIVE


def test_a_room_nobody_joined_ends_after_its_empty_timeout() -> None:
    scene = Scene()
    scene.call("CreateRoom", api.CreateRoomRequest(name="r", empty_timeout=30))
    assert scene.room.next_timeout() == scene.now + 30
    scene.now += 29.9
    scene.do(Ticked())
    assert not scene.room.is_closed
    scene.now += 0.1
    scene.do(Ticked())
    assert scene.names() == ["room_finished"]


def lasting(seconds: str) -> api.RoomConfiguration:
    return api.RoomConfiguration(tags={"roomwright.max_duration": seconds})


def test_a_room_ends_when_its_time_is_over_whoever_is_in_it() -> None:
    scene = Scene(configuration=lasting("60"))
    scene.join("a")
    scene.now += 59.9
    scene.do(Ticked())
    assert not scene.room.is_closed
    assert scene.room.next_timeout() == pytest.approx(scene.now + 0.1)
    scene.now += 0.2
    scene.do(Ticked())
    assert scene.room.is_closed
    assert [o.end.reason for o in scene.orders("end")] == [lk.ROOM_CLOSED]
    finished = [e.event for e in scene.effects if isinstance(e, Publish)][-1]
    assert (finished.name, finished.room_end_reason) == ("room_finished", lk.ROOM_END_UNKNOWN)


def test_the_server_says_how_long_a_room_lasts_unless_the_room_does() -> None:
    scene = Scene(RoomSettings(max_duration=30))
    scene.join("a")
    scene.call(
        "CreateRoom", api.CreateRoomRequest(name="r", tags={"roomwright.max_duration": "90"})
    )
    scene.now += 60
    scene.do(Ticked())
    assert not scene.room.is_closed
    scene.now += 31
    scene.do(Ticked())
    assert scene.room.is_closed


def test_the_time_of_a_room_goes_on_in_its_next_home() -> None:
    scene = Scene(configuration=lasting("60"))
    scene.join("a")
    scene.now += 50
    record = checkpoint_pb2.RoomCheckpoint.FromString(scene.room.checkpoint("") or b"")
    heir = Scene(now=scene.now)
    heir.do(Inherited(record, ()))
    heir.join("a")
    heir.now += 10
    heir.do(Ticked())
    assert heir.room.is_closed


def test_a_persistent_room_stays_when_nobody_is_in_it_and_goes_when_it_is_deleted() -> None:
    scene = Scene(RoomSettings(max_duration=30))
    tags = {"roomwright.persistent": "true"}
    scene.call("CreateRoom", api.CreateRoomRequest(name="r", metadata="m", tags=tags))
    scene.join("a")
    scene.fact("PA_a", left=room_pb2.Left())
    scene.now += 1_000_000
    scene.do(Ticked())
    assert not scene.room.is_closed
    scene.join("b")
    assert scene.room.info.metadata == "m"
    scene.call("DeleteRoom", api.DeleteRoomRequest(room="r"))
    assert scene.room.is_closed
    assert scene.names()[-1] == "room_finished"


def test_a_persistent_room_outlives_its_server_with_all_that_was_said_of_it() -> None:
    scene = Scene()
    tags = {"roomwright.persistent": "true"}
    scene.call("CreateRoom", api.CreateRoomRequest(name="r", metadata="m", tags=tags))
    scene.do(Closing(lk.SERVER_SHUTDOWN))
    assert "room_finished" not in scene.names()
    assert scene.effects[-1] == Closed(keeps_lease=True)
    record = checkpoint_pb2.RoomCheckpoint.FromString(scene.room.checkpoint("") or b"")
    heir = Scene(now=scene.now)
    heir.do(Inherited(record, ()))
    heir.now += 1_000_000
    heir.do(Ticked())
    assert not heir.room.is_closed
    assert heir.room.info.metadata == "m"


def test_a_room_that_is_persistent_no_more_ends_as_others_do() -> None:
    scene = Scene()
    for value in ("true", "false"):
        tags = {"roomwright.persistent": value}
        scene.call("CreateRoom", api.CreateRoomRequest(name="r", tags=tags))
    scene.now += 301
    scene.do(Ticked())
    assert scene.room.is_closed


@pytest.mark.parametrize(
    "tags",
    [
        {"roomwright.max_duration": value}
        for value in ("", "0", "-1", "1.5", "soon", "9" * 30, "\u0665")
    ]
    + [
        {"roomwright.color": "red"},
        {"roomwright.persistent": "yes"},
        {"roomwright.persistent": "true", "roomwright.max_duration": "60"},
    ],
)
def test_a_wrong_option_is_refused_and_no_room_begins(tags: dict[str, str]) -> None:
    scene = Scene()
    refused = scene.call("CreateRoom", api.CreateRoomRequest(name="r", tags=tags))
    assert refused.error_code == "invalid_argument"
    assert not scene.room.is_started


def test_dependents_keep_no_room_open() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("agent", agent=True)
    scene.fact("PA_a", left=room_pb2.Left())
    scene.now += 20.0
    scene.do(Ticked())
    (end,) = scene.orders("end")
    assert (end.participant_sid, end.end.reason) == ("PA_agent", lk.ROOM_CLOSED)
    assert scene.room.is_closed


def test_a_join_within_the_departure_timeout_keeps_the_room() -> None:
    scene = Scene()
    scene.join("a")
    scene.fact("PA_a", left=room_pb2.Left())
    scene.now += 19.0
    scene.do(Ticked())
    scene.join("b")
    scene.now += 1000.0
    scene.do(Ticked())
    assert not scene.room.is_closed


def test_shutdown_tells_everybody_and_a_late_join_is_refused() -> None:
    scene = Scene()
    scene.join("a")
    scene.do(Closing(lk.SERVER_SHUTDOWN))
    assert [o.end.reason for o in scene.orders("end")] == [lk.SERVER_SHUTDOWN]
    scene.join("b")
    (refusal,) = scene.orders("refuse")
    assert refusal.refuse.code == "unavailable"


def test_a_lost_node_takes_its_participants_with_it() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b", node=B)
    scene.publish("PA_b", "TR_1", node=B)
    scene.settle()
    scene.do(NodeLost(B))
    assert [p.identity for p in scene.shown()] == ["b"]
    assert scene.orders("delist_track", A)
    assert not scene.orders("delist_track", B)
    scene.join("b", "PA_b2", node=B)
    assert scene.orders("admit", B)


def test_a_fact_from_a_node_that_does_not_have_the_session_is_void() -> None:
    scene = Scene()
    scene.join("a", node=A)
    assert scene.fact("PA_a", B, left=room_pb2.Left()) == []


# -------------------------------------------------------------------------------------- leases


def test_a_frozen_room_refuses_joins_until_it_thaws() -> None:
    scene = Scene()
    scene.join("a")
    scene.do(Frozen())
    scene.join("b")
    (order,) = scene.orders("refuse")
    assert (order.refuse.code, order.refuse.message) == ("unavailable", FROZEN)
    assert scene.room.participant_count == 1
    scene.do(Thawed())
    scene.join("b")
    assert scene.orders("admit")


def test_a_member_of_a_frozen_room_may_begin_anew() -> None:
    scene = Scene()
    scene.join("a")
    scene.do(Frozen())
    scene.join("a", sid="PA_again")
    assert scene.orders("admit")
    assert scene.room.participant_count == 1


def test_a_frozen_room_is_read_but_not_changed_by_calls() -> None:
    scene = Scene()
    scene.join("a")
    scene.do(Frozen())
    who = api.RoomParticipantIdentity(room="r", identity="a")
    for method, request in (
        ("CreateRoom", api.CreateRoomRequest(name="r")),
        ("DeleteRoom", api.DeleteRoomRequest(room="r")),
        ("UpdateRoomMetadata", api.UpdateRoomMetadataRequest(room="r", metadata="m")),
        ("UpdateParticipant", api.UpdateParticipantRequest(room="r", identity="a", name="n")),
        ("RemoveParticipant", who),
    ):
        answer = scene.call(method, request)
        assert (answer.error_code, answer.error_message) == ("unavailable", FROZEN), method
    for method, question in (
        ("ListRooms", api.ListRoomsRequest()),
        ("ListParticipants", api.ListParticipantsRequest(room="r")),
        ("GetParticipant", who),
    ):
        assert scene.call(method, question).error_code == "", method
    scene.do(Thawed())
    update = api.UpdateRoomMetadataRequest(room="r", metadata="m")
    assert scene.call("UpdateRoomMetadata", update).error_code == ""


def test_in_a_frozen_room_tracks_mutes_resumes_and_leaves_go_on() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("b")
    scene.do(Frozen())
    scene.publish("PA_a", "TR_1")
    assert scene.orders("list_track")
    scene.publish("PA_a", "TR_1", muted=True)
    assert scene.shown()[0].tracks[0].muted
    scene.fact("PA_b", resume_requested=room_pb2.ResumeRequested())
    assert scene.orders("resumed")
    scene.fact("PA_b", left=room_pb2.Left())
    assert scene.room.participant_count == 1


def test_an_empty_room_does_not_end_while_frozen() -> None:
    scene = Scene()
    scene.join("a")
    scene.fact("PA_a", left=room_pb2.Left())
    scene.settle()
    scene.do(Frozen())
    scene.now += 1000
    assert scene.room.next_timeout() is None
    scene.do(Ticked())
    assert not scene.room.is_closed
    scene.do(Thawed())
    assert scene.room.next_timeout() is not None
    scene.do(Ticked())
    assert scene.room.is_closed


def test_a_superseded_room_sends_its_members_away_and_tells_no_facts() -> None:
    scene = Scene()
    scene.join("a")
    scene.fact("PA_a", activated=room_pb2.Activated())
    scene.do(Closing(lk.STATE_MISMATCH))
    (order,) = scene.orders("end")
    assert order.end.action == rtc.LeaveRequest.RECONNECT
    assert scene.events() == []
    assert scene.effects[-1] == Closed(keeps_lease=True)


def test_a_room_that_lives_on_elsewhere_sends_its_members_there_and_keeps_what_is_stored() -> None:
    scene = Scene()
    scene.join("a")
    scene.fact("PA_a", activated=room_pb2.Activated())
    stored = scene.room.checkpoint(""), scene.room.checkpoint("PA_a")
    scene.do(Closing(lk.SERVER_SHUTDOWN, lives_on=True))
    (order,) = scene.orders("end")
    assert (order.end.reason, order.end.action) == (
        lk.SERVER_SHUTDOWN,
        rtc.LeaveRequest.RECONNECT,
    )
    assert scene.events() == []
    assert scene.effects[-1] == Closed(keeps_lease=True)
    scene.fact("PA_a", left=room_pb2.Left())
    assert (scene.room.checkpoint(""), scene.room.checkpoint("PA_a")) == stored
    assert None not in stored


# -------------------------------------------------------------------------------- checkpoints


def checkpoints_of(scene: Scene) -> Inherited:
    """What a next home would read now."""
    members = [scene.room.checkpoint(sid) for sid in scene.room.members]
    record = scene.room.checkpoint("")
    assert record is not None
    return Inherited(
        checkpoint_pb2.RoomCheckpoint.FromString(record),
        tuple(checkpoint_pb2.ParticipantCheckpoint.FromString(m) for m in members if m is not None),
    )


def touched(scene: Scene) -> set[str]:
    effects = [e for e in scene.effects if isinstance(e, Checkpoint)]
    return {sid for effect in effects for sid in effect.participant_sids}


def test_each_change_names_the_records_that_changed() -> None:
    scene = Scene()
    scene.join("a")
    assert touched(scene) == {"", "PA_a"}
    scene.join("b")
    assert touched(scene) == {"PA_b"}
    scene.publish("PA_a", "TR_1")
    assert touched(scene) == {"PA_a"}
    scene.call("UpdateRoomMetadata", api.UpdateRoomMetadataRequest(room="r", metadata="m"))
    assert touched(scene) == {""}
    scene.fact("PA_b", left=room_pb2.Left())
    assert touched(scene) == {"PA_b"}
    assert scene.room.checkpoint("PA_b") is None
    scene.settle()
    assert touched(scene) == set()
    scene.do(Closing(lk.ROOM_CLOSED))
    assert touched(scene) == {"", "PA_a"}
    assert scene.room.checkpoint("") is None


def test_a_room_goes_on_with_what_its_last_home_left() -> None:
    old = Scene(configuration=api.RoomConfiguration(max_participants=3, departure_timeout=40))
    old.join("a")
    old.call("UpdateRoomMetadata", api.UpdateRoomMetadataRequest(room="r", metadata="kept"))
    answer = old.call("ListRooms", api.ListRoomsRequest())
    before = api.ListRoomsResponse.FromString(answer.response).rooms[0]
    left = checkpoints_of(old)

    new = Scene(now=500.0)
    new.do(left)
    assert new.room.sid == "RM_1"
    new.join("a", sid="PA_anew")
    admitted = new.orders("admit")[0].admit
    room = lk.Room.FromString(admitted.room)
    assert room == before
    assert (room.metadata, room.max_participants, room.departure_timeout) == ("kept", 3, 40)
    assert admitted.sif_trailer == b"sif"
    assert "room_started" not in new.names()


def test_the_members_of_the_last_home_leave_in_the_events() -> None:
    old = Scene()
    old.join("a")
    old.join("joining")
    old.fact("PA_a", activated=room_pb2.Activated())
    old.publish("PA_a", "TR_1")
    new = Scene()
    new.do(checkpoints_of(old))
    told = [
        (
            e.name,
            lk.ParticipantInfo.FromString(e.participant).sid,
            lk.TrackInfo.FromString(e.track).sid,
        )
        for e in new.events()
    ]
    assert told == [
        ("track_unpublished", "PA_a", "TR_1"),
        ("participant_left", "PA_a", ""),
        ("participant_connection_aborted", "PA_joining", ""),
    ]
    last = lk.ParticipantInfo.FromString(new.events()[1].participant)
    assert last.state == lk.ParticipantInfo.DISCONNECTED
    assert new.room.participant_count == 0
    assert touched(new) == {"", "PA_a", "PA_joining"}
    assert new.room.checkpoint("PA_a") is None


def test_a_room_that_nobody_comes_back_to_ends_a_departure_timeout_after_the_restore() -> None:
    old = Scene()
    old.join("a")
    left = checkpoints_of(old)
    new = Scene(now=1000.0)
    new.do(left)
    assert new.room.next_timeout() == 1000.0 + new.settings.departure_timeout
    new.now += new.settings.departure_timeout
    new.do(Ticked())
    assert new.names() == ["room_finished"]

"""What a new room is to be like, from calls, tokens and presets."""

import pytest
from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol.agent_dispatch import RoomAgentDispatch
from livekit.protocol.egress import (
    EncodedFileOutput,
    RoomCompositeEgressRequest,
    S3Upload,
)

from contracts.room.v1 import checkpoint_pb2, room_pb2
from sfu.core.configuration import RoomWish, settle
from sfu.core.profile import DEFAULT_LIMITS
from sfu.core.room_events import ApiError, Closed, Inherited, RoomSettings
from tests.support.room_scene import Scene

PRESETS = {
    "webinar": api.RoomConfiguration(
        max_participants=500,
        departure_timeout=60,
        agents=[RoomAgentDispatch(agent_name="scribe")],
        sync_streams=True,
    )
}


def recorded(s3: S3Upload) -> api.RoomEgress:
    file = EncodedFileOutput(filepath="a.mp4", s3=s3)
    return api.RoomEgress(room=RoomCompositeEgressRequest(file=file))


def test_what_is_asked_for_lies_on_top_of_the_preset() -> None:
    asked = api.RoomConfiguration(max_participants=3, agents=[RoomAgentDispatch(agent_name="x")])
    settled = settle(RoomWish(asked, "webinar"), PRESETS, DEFAULT_LIMITS)
    assert (settled.max_participants, settled.departure_timeout) == (3, 60)
    assert settled.sync_streams
    assert [agent.agent_name for agent in settled.agents] == ["x"]
    assert PRESETS["webinar"].max_participants == 500


@pytest.mark.parametrize(
    ("wish", "code", "text"),
    [
        (RoomWish(preset="party"), "invalid_argument", "the presets are webinar"),
        (
            RoomWish(api.RoomConfiguration(egress=recorded(S3Upload(bucket="b")))),
            "failed_precondition",
            "egress is not connected",
        ),
        (
            RoomWish(
                api.RoomConfiguration(egress=recorded(S3Upload(secret="s"))), is_from_token=True
            ),
            "invalid_argument",
            "must not hold storage secrets",
        ),
        (
            RoomWish(api.RoomConfiguration(min_playout_delay=50_000)),
            "invalid_argument",
            "the limit is 40950",
        ),
        (
            RoomWish(api.RoomConfiguration(min_playout_delay=200, max_playout_delay=100)),
            "invalid_argument",
            "above max_playout_delay",
        ),
        (
            RoomWish(
                api.RoomConfiguration(agents=[RoomAgentDispatch(metadata="m" * (512 * 1024 + 1))])
            ),
            "invalid_argument",
            "metadata is",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_reason(wish: RoomWish, code: str, text: str) -> None:
    with pytest.raises(ApiError) as refused:
        settle(wish, PRESETS, DEFAULT_LIMITS)
    assert refused.value.code == code
    assert text in refused.value.message


def test_a_rooms_playout_delay_and_stream_sync_reach_the_stage() -> None:
    scene = Scene()
    request = api.CreateRoomRequest(
        name="r", min_playout_delay=100, max_playout_delay=2000, sync_streams=True
    )
    scene.call("CreateRoom", request)
    scene.join("a")
    (order,) = scene.orders("admit")
    admit = order.admit
    assert (admit.min_playout_delay_ms, admit.max_playout_delay_ms) == (100, 2000)
    assert admit.sync_streams


def test_a_join_that_asks_for_an_unknown_preset_is_refused_and_makes_no_room() -> None:
    scene = Scene(RoomSettings(presets=PRESETS))
    request = room_pb2.JoinRequested(identity="a", room_preset="party")
    scene.fact("PA_a", join_requested=request)
    (order,) = scene.orders("refuse")
    assert order.refuse.code == "invalid_argument"
    assert any(isinstance(effect, Closed) for effect in scene.effects)
    assert scene.names() == []


def test_a_tokens_configuration_counts_only_for_the_join_that_makes_the_room() -> None:
    scene = Scene(RoomSettings(presets=PRESETS))
    scene.fact("PA_a", join_requested=room_pb2.JoinRequested(identity="a", room_preset="webinar"))
    later = api.RoomConfiguration(max_participants=1, metadata="late")
    scene.join("b", configuration=later.SerializeToString())
    room = lk.Room.FromString(
        scene.call("UpdateRoomMetadata", api.UpdateRoomMetadataRequest()).response
    )
    assert room.max_participants == 500
    assert room.num_participants == 2


def test_the_configuration_outlives_the_home() -> None:
    scene = Scene()
    scene.call(
        "CreateRoom",
        api.CreateRoomRequest(
            name="r", sync_streams=True, agents=[RoomAgentDispatch(agent_name="scribe")]
        ),
    )
    record = scene.room.checkpoint("")
    assert record is not None
    left = checkpoint_pb2.RoomCheckpoint.FromString(record)
    configuration = api.RoomConfiguration.FromString(left.configuration)
    assert [agent.agent_name for agent in configuration.agents] == ["scribe"]
    heir = Scene()
    heir.do(Inherited(left, ()))
    heir.join("a")
    (order,) = heir.orders("admit")
    assert order.admit.sync_streams

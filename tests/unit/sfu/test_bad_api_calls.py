"""Every call of the server API made badly: an error that says what, nothing changed, nobody told."""

import pytest
from google.protobuf.message import Message
from livekit.protocol import room as api

from sfu.core.room_calls import METHODS, NONCE_BYTES
from sfu.core.room_events import AnswerApi, ApiCalled
from sfu.core.rpc_calls import MAX_PAYLOAD_BYTES
from tests.support.room_scene import Scene

UNREAD = {
    "ListRooms",
    "ListParticipants",
    "DeleteRoom",
}  # signaling found the room in it: no more is there
READ = sorted({*METHODS, "PerformRpc"} - UNREAD)
GARBAGE = [b"\xff\xff", b"\x0a\x05ab", b"\x0a\x01\xff"]  # no tag, cut short, not UTF-8


def hall() -> Scene:
    scene = Scene()
    scene.join("ann")
    return scene


def failed(scene: Scene, method: str, request: bytes) -> tuple[str, str]:
    """Code and message of a call that must have no other effect."""
    before = scene.room.checkpoint(""), dict(scene.room.members)
    scene.effects.clear()
    scene.do(ApiCalled(1, method, request))
    assert (scene.room.checkpoint(""), dict(scene.room.members)) == before
    [answer] = scene.effects
    assert isinstance(answer, AnswerApi)
    return answer.error_code, answer.error_message


@pytest.mark.parametrize("method", READ)
@pytest.mark.parametrize("request_bytes", GARBAGE)
def test_what_is_no_request_is_malformed(method: str, request_bytes: bytes) -> None:
    code, message = failed(hall(), method, request_bytes)
    assert code == "malformed"
    assert method in message


@pytest.mark.parametrize(
    ("method", "request_", "code", "says"),
    [
        ("PerformRpc", api.PerformRpcRequest(), "invalid_argument", "must not be empty"),
        ("PerformRpc", api.PerformRpcRequest(destination_identity="no"), "not_found", ""),
        (
            "PerformRpc",
            api.PerformRpcRequest(
                destination_identity="ann", payload="x" * (MAX_PAYLOAD_BYTES + 1)
            ),
            "malformed",
            str(MAX_PAYLOAD_BYTES),
        ),
        ("MoveParticipant", api.MoveParticipantRequest(), "not_found", ""),
        ("MoveParticipant", api.MoveParticipantRequest(identity="no"), "not_found", ""),
        ("SendData", api.SendDataRequest(nonce=b"short"), "invalid_argument", str(NONCE_BYTES)),
        ("UpdateParticipant", api.UpdateParticipantRequest(identity="no"), "not_found", ""),
        ("RemoveParticipant", api.RoomParticipantIdentity(), "not_found", ""),
        ("GetParticipant", api.RoomParticipantIdentity(identity="no"), "not_found", ""),
        ("MutePublishedTrack", api.MuteRoomTrackRequest(identity="no"), "not_found", ""),
        ("UpdateSubscriptions", api.UpdateSubscriptionsRequest(identity="no"), "not_found", ""),
    ],
)
def test_request_that_cannot_be_done_says_why(
    method: str, request_: Message, code: str, says: str
) -> None:
    said, message = failed(hall(), method, request_.SerializeToString())
    assert said == code
    assert message
    assert says in message


def test_data_for_nobody_known_is_taken_and_sent_to_nobody() -> None:
    request = api.SendDataRequest(data=b"x", destination_sids=["PA_no"])
    assert failed(hall(), "SendData", request.SerializeToString()) == ("", "")

"""The published SDKs for Node, of clients and of servers, beside the Python SDK."""

from typing import Any

import pytest
from livekit import rtc

from tests.support.client_process import ClientError, ClientProcess
from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

AUDIO = rtc.TrackKind.KIND_AUDIO
VIDEO = rtc.TrackKind.KIND_VIDEO


async def test_node_and_python_hear_and_see_each_other(server: DevServer, room: str) -> None:
    node = await ClientProcess.node(server, room, "node")
    native = await PythonClient.join(server, room, "native")
    await native.publish_tone()
    await native.publish_video(simulcast=False)
    await node.ask("publish_tone")
    video = await node.ask("publish_video")

    await until(lambda: native.of("node", AUDIO).tone_share > 0.8, "python hears node")
    await until(lambda: native.of("node", VIDEO).frames >= 20, "python sees node")
    await node.told("heard native", times=20)
    await node.told("saw native", times=2)
    await node.told("local_track_subscribed", times=2)
    await node.ask("unpublish", sid=video)
    await until(lambda: f"track_unpublished node {VIDEO}" in native.events, "the video is gone")
    await node.leave()
    await until(lambda: "participant_disconnected node" in native.events, "node has left")
    await native.leave()


async def test_data_text_attributes_and_rpc_cross_between_node_and_python(
    server: DevServer, room: str
) -> None:
    node = await ClientProcess.node(server, room, "node")
    native = await PythonClient.join(server, room, "native")

    async def greet(call: rtc.RpcInvocationData) -> str:
        return f"welcome {call.caller_identity}, {call.payload}"

    native.room.local_participant.register_rpc_method("greet", greet)
    await node.told("participant_connected native")
    for number in range(20):
        await node.ask("send_data", text=f"n{number}", topic="count", reliable=True)
    await until(lambda: len(native.data) == 20, "python receives 20 packets")
    assert [it[1] for it in native.data] == [f"n{number}".encode() for number in range(20)]

    me = native.room.local_participant
    await me.publish_data("back", reliable=True, topic="both")
    await me.send_text("long " * 10_000, topic="notes")
    await me.set_attributes({"hand": "raised"})
    await node.told("data native both back")
    await node.told("text native 50000")
    await node.told("attribute native hand=raised")
    await node.ask("set_attributes", attributes={"mood": "fine"})
    seen = native.room.remote_participants["node"]
    await until(lambda: seen.attributes.get("mood") == "fine", "python sees node's attribute")

    said = await node.ask("call", identity="native", method="greet", payload="hi")
    assert said == "welcome node, hi"
    answer = await me.perform_rpc(destination_identity="node", method="greet", payload="ho")
    assert answer == "hello native, ho"
    await node.leave()
    await native.leave()


async def test_a_node_client_resumes_and_is_heard_on(server: DevServer, room: str) -> None:
    node = await ClientProcess.node(server, room, "node")
    native = await PythonClient.join(server, room, "native")
    await node.ask("publish_tone")
    await until(lambda: native.of("node", AUDIO).tone_share > 0.8, "python hears node")
    sid = native.room.remote_participants["node"].sid

    await node.ask("simulate", scenario="SIMULATE_SIGNAL_RECONNECT")
    await node.told("reconnected", timeout_s=30)
    before = len(native.of("node", AUDIO).arrivals)
    await until(lambda: len(native.of("node", AUDIO).arrivals) > before + 50, "the tone goes on")
    assert native.room.remote_participants["node"].sid == sid
    assert "participant_disconnected node" not in native.events
    await node.leave()
    await native.leave()


async def test_the_server_sdk_for_node_has_its_calls_answered(server: DevServer, room: str) -> None:
    sdk = await ClientProcess.node_server_sdk(server.http_url, KEY, SECRET)
    made = await sdk.ask("createRoom", given=[{"name": room, "emptyTimeout": 77, "metadata": "m"}])
    assert isinstance(made, dict)
    assert (made["name"], made["emptyTimeout"], made["metadata"]) == (room, 77, "m")
    alice = await PythonClient.join(server, room, "alice")
    tone = await alice.publish_tone()

    async def ask(does: str, *given: object) -> Any:
        return await sdk.ask(does, given=given)

    assert [it["identity"] for it in await ask("listParticipants", room)] == ["alice"]
    muted = await ask("mutePublishedTrack", room, "alice", tone.sid, True)
    assert (muted["sid"], muted["muted"]) == (tone.sid, True)
    changed = await ask("updateParticipant", room, "alice", {"attributes": {"hand": "raised"}})
    assert changed["attributes"] == {"hand": "raised"}
    await ask("sendData", room, "from the server", 0, {"topic": "news"})
    await until(
        lambda: any(it[1:3] == (b"from the server", "news") for it in alice.data),
        "alice gets the data",
    )
    assert (await ask("updateRoomMetadata", room, "later"))["metadata"] == "later"
    await until(lambda: "room_metadata later" in alice.events, "alice sees the metadata")
    with pytest.raises(ClientError, match="404 not_found"):
        await ask("getParticipant", room, "nobody")
    await ask("removeParticipant", room, "alice")
    gone = f"disconnected {rtc.DisconnectReason.PARTICIPANT_REMOVED}"
    await until(lambda: gone in alice.events, "alice is removed")

    token = await ask("token", {"room": room, "identity": "bob"})
    bob = rtc.Room()
    await bob.connect(server.url, token)
    await ask("deleteRoom", room)
    assert await ask("listRooms", [room]) == []
    await bob.disconnect()
    await alice.leave()
    await sdk.stop()

"""The published Node SDK and the Python SDK in one room."""

import pytest
from livekit import rtc

from tests.support.client_process import ClientProcess
from tests.support.dev_server import DevServer
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

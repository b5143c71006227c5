"""Data through the published SDKs: topics, streams, remote calls, data tracks, and the server API beside them."""

import asyncio
import hashlib
from collections.abc import Callable

import aiohttp
import pytest
from livekit import api, rtc
from livekit.protocol import models
from livekit.rtc.participant import PublishDataTrackError
from playwright.async_api import Browser

from tests.support.browser_client import BrowserClient
from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]


async def pair(server: DevServer, room: str, single: bool) -> tuple[PythonClient, PythonClient]:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    return alice, bob


async def perform_rpc(
    server: DevServer, room: str, identity: str, method: str, payload: str, **fields: object
) -> tuple[int, dict[str, object]]:
    """RoomService.PerformRpc as JSON, which server SDKs of several languages do not offer yet."""
    grants = api.VideoGrants(room_admin=True, room=room)
    token = api.AccessToken(KEY, SECRET).with_grants(grants).to_jwt()
    asked = {"room": room, "destination_identity": identity, "method": method, "payload": payload}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{server.http_url}/twirp/livekit.RoomService/PerformRpc",
            json=asked | fields,
            headers={"Authorization": f"Bearer {token}"},
        ) as response,
    ):
        return response.status, await response.json()


async def test_data_tracks_carry_frames_to_who_subscribes(
    server: DevServer, room: str, single: bool
) -> None:
    alice, bob = await pair(server, room, single)
    published: list[rtc.RemoteDataTrack] = []
    unpublished: list[str] = []
    on: Callable[..., object] = bob.room.on
    on("data_track_published", published.append)
    on("data_track_unpublished", unpublished.append)

    track = await alice.room.local_participant.publish_data_track(name="pose")
    assert track.info.sid.startswith("DTR_")
    await until(lambda: len(published) == 1, "bob sees the data track")
    remote = published[0]
    assert (remote.info.sid, remote.info.name) == (track.info.sid, "pose")
    assert remote.publisher_identity == "alice"

    frames: list[rtc.DataTrackFrame] = []

    async def read() -> None:
        stream = remote.subscribe()
        while (frame := await stream.read()) is not None:
            frames.append(frame)

    reading = asyncio.create_task(read())
    large = bytes(range(256)) * 40  # several packets a frame
    for number in range(100):
        track.try_push(rtc.DataTrackFrame(payload=large, user_timestamp=number))
        await asyncio.sleep(0.05)
        if len(frames) >= 10:
            break
    assert len(frames) >= 10
    assert all(frame.payload == large for frame in frames)
    assert frames[-1].user_timestamp is not None

    with pytest.raises(PublishDataTrackError):
        await alice.room.local_participant.publish_data_track(name="pose")
    await track.unpublish()
    await until(lambda: unpublished == [remote.info.sid], "bob sees the data track end")
    await asyncio.wait_for(reading, 10)
    await alice.leave()
    await bob.leave()


async def test_late_joiners_see_data_tracks_published_before(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    track = await alice.room.local_participant.publish_data_track(name="pose")
    bob = PythonClient(rtc.Room(), "bob")
    published: list[rtc.RemoteDataTrack] = []
    on: Callable[..., object] = bob.room.on
    on("data_track_published", published.append)
    options = rtc.RoomOptions(single_peer_connection=single)
    await bob.room.connect(server.url, server.token(room, "bob"), options)
    await until(lambda: len(published) == 1, "bob sees the data track")
    assert published[0].info.sid == track.info.sid
    await alice.leave()
    await bob.leave()


async def test_a_megabyte_file_and_a_text_arrive_whole(
    server: DevServer, room: str, single: bool
) -> None:
    alice, bob = await pair(server, room, single)
    files: list[tuple[str, bytes]] = []
    texts: list[tuple[str, str]] = []
    tasks: list[asyncio.Task[None]] = []

    def on_file(reader: rtc.ByteStreamReader, identity: str) -> None:
        async def read() -> None:
            files.append((identity, b"".join([chunk async for chunk in reader])))

        tasks.append(asyncio.create_task(read()))

    def on_text(reader: rtc.TextStreamReader, identity: str) -> None:
        async def read() -> None:
            texts.append((identity, await reader.read_all()))

        tasks.append(asyncio.create_task(read()))

    bob.room.register_byte_stream_handler("files", on_file)
    bob.room.register_text_stream_handler("notes", on_text)
    content = b"".join(hashlib.sha256(bytes([n % 256, n >> 8])).digest() for n in range(32_768))
    assert len(content) == 1024 * 1024
    writer = await alice.room.local_participant.stream_bytes("file.bin", topic="files")
    for at in range(0, len(content), 15_000):
        await writer.write(content[at : at + 15_000])
    await writer.aclose()
    await alice.room.local_participant.send_text("héllo", topic="notes")
    await until(lambda: len(files) == 1 and len(texts) == 1, "bob has the file and the text")
    assert files == [("alice", content)]
    assert texts == [("alice", "héllo")]
    await alice.leave()
    await bob.leave()


async def test_participants_call_methods_of_each_other(
    server: DevServer, room: str, single: bool
) -> None:
    alice, bob = await pair(server, room, single)
    me = alice.room.local_participant

    async def greet(call: rtc.RpcInvocationData) -> str:
        return f"{call.caller_identity} said {call.payload}"

    async def refuse(call: rtc.RpcInvocationData) -> str:
        raise rtc.RpcError(42, "not today", "why")

    bob.room.local_participant.register_rpc_method("greet", greet)
    bob.room.local_participant.register_rpc_method("refuse", refuse)
    said = await me.perform_rpc(destination_identity="bob", method="greet", payload="hi")
    assert said == "alice said hi"
    large = await me.perform_rpc(destination_identity="bob", method="greet", payload="x" * 14_000)
    assert len(large) == 14_000 + len("alice said ")
    for method, identity, code in (
        ("refuse", "bob", 42),
        ("none", "bob", rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD),
    ):
        with pytest.raises(rtc.RpcError) as refused:
            await me.perform_rpc(destination_identity=identity, method=method, payload="")
        assert refused.value.code == code
    await alice.leave()
    await bob.leave()


async def test_the_server_api_calls_methods_of_participants(
    server: DevServer, room: str, single: bool
) -> None:
    bob = await PythonClient.join(server, room, "bob", single=single)

    async def greet(call: rtc.RpcInvocationData) -> str:
        return f"{call.payload}!"

    async def refuse(call: rtc.RpcInvocationData) -> str:
        raise rtc.RpcError(1500, "not today", "why")

    async def sleep(call: rtc.RpcInvocationData) -> str:
        await asyncio.sleep(30)
        return ""

    for name, method in (("greet", greet), ("refuse", refuse), ("sleep", sleep)):
        bob.room.local_participant.register_rpc_method(name, method)
    answers = await asyncio.gather(
        *(perform_rpc(server, room, "bob", "greet", str(number)) for number in range(20))
    )
    assert answers == [(200, {"payload": f"{number}!"}) for number in range(20)]
    status, body = await perform_rpc(server, room, "bob", "refuse", "")
    assert (status, body["code"], body["msg"]) == (500, "internal", "not today")
    assert body["meta"] == {"code": "1500", "message": "not today", "data": "why"}
    status, body = await perform_rpc(server, room, "bob", "none", "")
    assert (status, body["code"]) == (400, "invalid_argument")
    status, body = await perform_rpc(server, room, "nobody", "greet", "")
    assert (status, body["code"]) == (404, "not_found")
    status, body = await perform_rpc(server, room, "", "greet", "")
    assert (status, body["code"]) == (400, "invalid_argument")
    status, body = await perform_rpc(server, room, "bob", "greet", "x" * 15_361)
    assert (status, body["code"]) == (400, "malformed")
    status, body = await perform_rpc(server, room, "bob", "sleep", "", response_timeout_ms=1500)
    assert (status, body["code"]) == (408, "canceled")
    # Longer than other calls may take: the answer is waited for as long as it was asked to be.
    waiting = asyncio.create_task(
        perform_rpc(server, room, "bob", "sleep", "", response_timeout_ms=20_000)
    )
    await asyncio.sleep(6)
    assert not waiting.done()
    await bob.leave()
    status, body = await waiting
    assert (status, body["code"]) == (503, "unavailable")


async def test_what_the_server_sends_right_after_a_join_arrives(
    server: DevServer, room: str, single: bool
) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        alice = await PythonClient.join(server, room, "alice", single=single)
        seen = asyncio.create_task(PythonClient.join(server, room, "bob", single=single))

        async def is_listed() -> bool:
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
            return any(who.identity == "bob" for who in listed.participants)

        for _ in range(1000):
            if await is_listed():
                break
            await asyncio.sleep(0.005)
        for number in range(5):
            await lk.room.send_data(
                api.SendDataRequest(
                    room=room,
                    data=f"s{number}".encode(),
                    kind=models.DataPacket.RELIABLE,
                    destination_identities=["bob"],
                    topic="early",
                )
            )
        bob = await seen
        await until(lambda: len(bob.data) >= 5, "bob gets all five")
        assert bob.data == [("", f"s{number}".encode(), "early", True) for number in range(5)]
        assert alice.data == []
    await alice.leave()
    await bob.leave()


async def test_data_tracks_pass_between_a_browser_and_a_native_client(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    alice = await BrowserClient.join(browser, server, room, "alice", single=single)
    bob = PythonClient(rtc.Room(), "bob")
    published: list[rtc.RemoteDataTrack] = []
    on: Callable[..., object] = bob.room.on
    on("data_track_published", published.append)
    options = rtc.RoomOptions(single_peer_connection=single)
    await bob.room.connect(server.url, server.token(room, "bob"), options)
    await alice.call(
        """async () => {
            const {room} = window.rw;
            window.frames_of_bob = [];
            room.on(window.livekit.RoomEvent.DataTrackPublished, async track => {
                for await (const frame of track.subscribe())
                    window.frames_of_bob.push(new TextDecoder().decode(frame.payload));
            });
            const track = await room.localParticipant.publishDataTrack({name: 'pose'});
            setInterval(() => track.tryPush({payload: new TextEncoder().encode('of alice')}).catch(() => {}), 50);
        }"""
    )
    await until(lambda: len(published) == 1, "bob sees the data track")
    frame = await asyncio.wait_for(published[0].subscribe().read(), 20)
    assert frame is not None
    assert frame.payload == b"of alice"

    track = await bob.room.local_participant.publish_data_track(name="answer")
    frames: list[str] = []
    for _ in range(200):
        track.try_push(rtc.DataTrackFrame(payload=b"of bob"))
        await asyncio.sleep(0.05)
        frames = await alice.call("() => window.frames_of_bob")
        if frames:
            break
    assert set(frames) == {"of bob"}
    await alice.leave()
    await bob.leave()


async def test_a_browser_and_a_native_client_call_each_other(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    alice = await BrowserClient.join(browser, server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)

    async def greet(call: rtc.RpcInvocationData) -> str:
        return f"{call.caller_identity} said {call.payload}"

    bob.room.local_participant.register_rpc_method("greet", greet)
    call = """([identity, payload]) => window.rw.room.localParticipant.performRpc(
        {destinationIdentity: identity, method: 'greet', payload})"""
    await alice.call(
        """() => window.rw.room.localParticipant.registerRpcMethod('greet',
            async data => `${data.callerIdentity} asked ${data.payload.length}`)"""
    )
    assert await alice.call(call, ["bob", "hi"]) == "alice said hi"
    me = bob.room.local_participant
    asked = await me.perform_rpc(destination_identity="alice", method="greet", payload="x" * 9000)
    assert asked == "bob asked 9000"
    # Between clients of the second generation a payload has no limit: it travels as a stream.
    large = await alice.call(call, ["bob", "y" * 50_000])
    assert len(large) == 50_000 + len("alice said ")
    status, body = await perform_rpc(server, room, "alice", "greet", "four")
    assert status == 200
    assert str(body["payload"]).endswith(" asked 4")
    await alice.leave()
    await bob.leave()


async def test_only_an_agents_transcription_is_heard_and_in_the_users_name(
    server: DevServer, room: str, single: bool
) -> None:
    alice, bob = await pair(server, room, single)
    agent = await PythonClient.join(server, room, "agent", single=single, agent=True)
    heard: list[tuple[str, str]] = []
    tasks: list[asyncio.Task[None]] = []

    def on_text(reader: rtc.TextStreamReader, identity: str) -> None:
        async def read() -> None:
            heard.append((identity, await reader.read_all()))

        tasks.append(asyncio.create_task(read()))

    bob.room.register_text_stream_handler("lk.transcription", on_text)
    segments: list[str] = []
    on: Callable[..., object] = bob.room.on
    on("transcription_received", lambda got, *_: segments.extend(it.text for it in got))

    for client in (alice, agent):
        me = client.room.local_participant
        writer = await me.stream_text(topic="lk.transcription", sender_identity="bob")
        await writer.write(f"by {client.identity}")
        await writer.aclose()
        segment = rtc.TranscriptionSegment(
            id="s", text=client.identity, start_time=0, end_time=1, language="en", final=True
        )
        await me.publish_transcription(
            rtc.Transcription(participant_identity="alice", track_sid="TR_x", segments=[segment])
        )
    await until(lambda: len(heard) == 2, "bob reads both texts")
    assert sorted(heard) == [("alice", "by alice"), ("bob", "by agent")]
    await until(lambda: "agent" in segments, "bob has the agent's transcription")
    assert "alice" not in segments
    for client in (alice, bob, agent):
        await client.leave()

"""The published agents framework in a room, without a job: what it says, shows and answers there."""

import asyncio

import pytest
from livekit import api, rtc

from tests.support.client_process import ClientProcess
from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

AUDIO = rtc.TrackKind.KIND_AUDIO


def agent_token(room: str) -> str:
    grants = api.VideoGrants(room_join=True, room=room, agent=True, can_update_own_metadata=True)
    token = api.AccessToken(KEY, SECRET).with_identity("agent").with_kind("agent")
    return token.with_grants(grants).to_jwt()


async def test_an_agent_session_speaks_shows_its_state_and_is_transcribed(
    server: DevServer, room: str
) -> None:
    user = await PythonClient.join(server, room, "user")
    texts: list[tuple[str, str]] = []

    def on_text(reader: rtc.TextStreamReader, identity: str) -> None:
        async def read() -> None:
            texts.append((identity, await reader.read_all()))

        asyncio.get_running_loop().create_task(read())

    user.room.register_text_stream_handler("lk.transcription", on_text)
    agent = await ClientProcess.agent(server, room, "agent", agent_token(room))
    seen = user.room.remote_participants["agent"]
    assert seen.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
    await until(lambda: seen.attributes.get("lk.agent.state") == "listening", "it listens")

    assert await agent.ask("speak", text="hello there friend", seconds=4) is True
    await until(lambda: len(user.of("agent", AUDIO).arrivals) > 50, "the user hears the agent")
    speaking = "attributes agent [('lk.agent.state', 'speaking')]"
    await until(lambda: speaking in user.events, "the user sees that it speaks")
    await until(lambda: ("agent", "hello there friend") in texts, "the user reads what it said")
    answer = await user.room.local_participant.perform_rpc(
        destination_identity="agent", method="ask", payload="a question"
    )
    assert answer == "the agent heard a question"
    await agent.leave()
    await until(lambda: "participant_disconnected agent" in user.events, "the agent has left")
    await user.leave()

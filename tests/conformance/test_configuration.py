"""A whole server from a livekit.yaml, and limits that change while it runs."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from livekit import api

from chassis import configuration
from tests.support.dev_server import KEY, SECRET, DevServer, running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

LIVEKIT = """
logging: {level: info}
rtc: {use_external_ip: true, congestion_control: {enabled: true}}
redis: {address: "localhost:6379"}
room: {auto_create: false, max_participants: 3, empty_timeout: 77}
limit: {max_metadata_size: 10}
"""


async def test_a_livekit_yaml_has_its_effect(tmp_path: Path, room: str) -> None:
    file = tmp_path / "livekit.yaml"
    file.write_text(LIVEKIT)
    async with running(tmp_path, "--config", str(file)) as server:
        validate = f"{server.http_url}/rtc/validate?access_token={server.token(room, 'ann')}"
        async with aiohttp.ClientSession() as http, http.get(validate) as refused:
            assert refused.status == 404, await refused.text()
        async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
            made = await lk.room.create_room(api.CreateRoomRequest(name=room))
            assert (made.max_participants, made.empty_timeout) == (3, 77)
            with pytest.raises(api.TwirpError) as caught:
                await lk.room.create_room(api.CreateRoomRequest(name=room, metadata="x" * 11))
            assert caught.value.code == "invalid_argument"
    told = server.log.read_text()
    assert "livekit.yaml: redis.address has no effect here; the bus is NATS: nats_url" in told
    assert "rtc.congestion_control has no effect here" in told


async def test_limits_follow_the_file(
    tmp_path: Path, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("signaling: {}\n")
    monkeypatch.setenv(configuration.VARIABLE, str(file))
    async with running(tmp_path) as server:
        await until_limited(server, is_limited=False)
        file.write_text("signaling: {api_calls_per_second_per_key: 0.001, api_burst_per_key: 1}\n")
        await until_limited(server, is_limited=True)
        file.write_text("signaling: {api_calls_per_second_per_key: many}\n")
        await asyncio.sleep(3)
        await until_limited(server, is_limited=True)
        file.write_text("signaling: {api_calls_per_second_per_key: 0}\n")
        await until_limited(server, is_limited=False)
    assert "the changed configuration is not right, what was stays" in server.log.read_text()


async def until_limited(server: DevServer, *, is_limited: bool) -> None:
    """Until API calls are, or are not, refused for their number."""
    grants = api.VideoGrants(room_list=True)
    token = api.AccessToken(KEY, SECRET).with_identity("a").with_grants(grants).to_jwt()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.http_url}/twirp/livekit.RoomService/ListRooms"
    async with aiohttp.ClientSession(headers=headers) as http, asyncio.timeout(15):
        while True:
            async with http.post(url, json={}) as answer:
                if (answer.status == 429) == is_limited:
                    return
                assert answer.status in (200, 429)
            await asyncio.sleep(0.2)

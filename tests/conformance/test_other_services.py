"""Services that this server has not, through the published server SDK: authorized first, then refused by a code."""

from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from livekit import api

from tests.support.dev_server import KEY, SECRET, DevServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(30)]

CALLS: dict[str, Callable[[api.LiveKitAPI], Awaitable[object]]] = {
    "egress": lambda lk: lk.egress.list_egress(api.ListEgressRequest()),
    "recording": lambda lk: lk.egress.start_room_composite_egress(
        api.RoomCompositeEgressRequest(room_name="r")
    ),
    "ingress": lambda lk: lk.ingress.list_ingress(api.ListIngressRequest()),
    "sip": lambda lk: lk.sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest()),
    "call": lambda lk: lk.sip.create_sip_participant(
        api.CreateSIPParticipantRequest(room_name="r")
    ),
    "dispatch": lambda lk: lk.agent_dispatch.list_dispatch("r"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_the_sdk_is_told_that_it_is_not_implemented(server: DevServer, name: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        with pytest.raises(api.TwirpError) as refused:
            await CALLS[name](lk)
    assert (refused.value.code, refused.value.status) == ("unimplemented", 501)
    assert "not part of this server" in refused.value.message


@pytest.mark.parametrize(
    "service", ["Egress/ListEgress", "Ingress/ListIngress", "SIP/ListSIPTrunk"]
)
async def test_a_token_without_the_grant_is_refused_first(server: DevServer, service: str) -> None:
    headers = {"Authorization": f"Bearer {server.token('r', 'ann')}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        url = f"{server.http_url}/twirp/livekit.{service}"
        async with http.post(url, json={}) as answer:
            assert answer.status == 401
            assert (await answer.json())["msg"] == "permissions denied"
        async with http.post(f"{server.http_url}/twirp/livekit.Egress/Nothing", json={}) as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "bad_route")
        async with http.post(f"{server.http_url}/twirp/livekit.Connector/Dial", json={}) as answer:
            assert answer.status == 404

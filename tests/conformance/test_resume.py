"""Lost sockets and lost networks under the published Python SDK: what goes on, and what is told.

Packets are numbered: each must arrive once and in order whatever is lost on the way.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from livekit import rtc
from livekit.protocol import rtc as signal

from loadtest.own_server import KEY, SECRET
from tests.support.cut_proxy import CutProxy, cut_proxy
from tests.support.dev_server import DevServer
from tests.support.network import Host, laid_network, python
from tests.support.python_client import PythonClient
from tests.support.server import join_token

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

PACKET_EVERY_S = 0.02
Scenario = rtc.SimulateScenarioKind


async def until(check: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.05)


class Stream:
    """Numbered reliable packets from one client."""

    def __init__(self, client: PythonClient) -> None:
        self._client = client
        self.sent = 0
        self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while True:
            self.sent += 1
            payload = self.sent.to_bytes(4, "big")
            await self._client.room.local_participant.publish_data(payload, reliable=True)
            await asyncio.sleep(PACKET_EVERY_S)

    def stop(self) -> None:
        self._task.cancel()


def numbers(client: PythonClient) -> list[int]:
    return [int.from_bytes(payload, "big") for _, payload, _, reliable in client.data if reliable]


@asynccontextmanager
async def two(server: CutProxy, room: str, *, single: bool) -> AsyncIterator[list[PythonClient]]:
    clients = [
        await PythonClient.join(server, room, "a", single=single),
        await PythonClient.join(server.server, room, "b", single=single),
    ]
    try:
        await until(lambda: all(client.room.remote_participants for client in clients), "both in")
        yield clients
    finally:
        for client in clients:
            await client.leave()


@pytest.mark.parametrize("away_s", [0.1, 1.0, 3.0])
async def test_reliable_data_both_ways_outlives_a_lost_socket(
    server: DevServer, room: str, single: bool, away_s: float
) -> None:
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, b):
        sid = a.room.local_participant.sid
        streams = [Stream(a), Stream(b)]
        await asyncio.sleep(1)
        proxy.cable.cut()
        await asyncio.sleep(away_s)
        proxy.cable.mend()
        await until(lambda: "reconnected" in a.events, "resumed")
        await asyncio.sleep(1)
        for stream in streams:
            stream.stop()
        await until(lambda: len(numbers(b)) >= streams[0].sent - 1, "all of a's packets")
        await until(lambda: len(numbers(a)) >= streams[1].sent - 1, "all of b's packets")
        for got in (numbers(a), numbers(b)):
            assert got == list(range(1, len(got) + 1))
            assert len(got) > 50
        assert a.room.local_participant.sid == sid
        assert not [event for event in b.events if event.startswith("participant_disc")]


async def test_media_goes_on_while_the_socket_is_away(
    server: DevServer, room: str, single: bool
) -> None:
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, b):
        await b.publish_tone()
        audio = rtc.TrackKind.KIND_AUDIO
        await until(lambda: a.of("b", audio).tone_share > 0.5, "the tone")
        before = len(a.of("b", audio).arrivals)
        proxy.cable.cut()
        await asyncio.sleep(2)
        heard = len(a.of("b", audio).arrivals) - before
        proxy.cable.mend()
        await until(lambda: "reconnected" in a.events, "resumed")
        assert heard > 100  # of 200 pieces of 10 ms
        assert "track_subscribed b 1" in a.events
        assert a.events.count("track_subscribed b 1") == 1


@pytest.mark.parametrize("scenario", [Scenario.SIMULATE_SIGNAL_RECONNECT])
async def test_simulated_resume_keeps_the_session(
    server: DevServer, room: str, single: bool, scenario: rtc.SimulateScenarioKind.ValueType
) -> None:
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, b):
        sid = a.room.local_participant.sid
        await a.room.simulate_scenario(scenario)
        await until(lambda: "reconnected" in a.events, "resumed")
        assert a.room.local_participant.sid == sid
        assert not [event for event in b.events if event.startswith("participant_disc")]


@pytest.mark.parametrize(
    "scenario",
    [Scenario.SIMULATE_NODE_FAILURE, Scenario.SIMULATE_MIGRATION, Scenario.SIMULATE_FULL_RECONNECT],
)
async def test_simulated_loss_of_the_node_leads_to_a_new_session(
    server: DevServer, room: str, single: bool, scenario: rtc.SimulateScenarioKind.ValueType
) -> None:
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, b):
        sid = a.room.local_participant.sid
        await a.room.simulate_scenario(scenario)
        await until(lambda: "reconnected" in a.events, "joined anew")
        # The SDK learns its own new sid a moment after it says that it is back.
        await until(lambda: a.room.local_participant.sid != sid, "a session with a sid of its own")
        await until(
            lambda: (
                [p.sid for p in b.room.remote_participants.values()]
                == [a.room.local_participant.sid]
            ),
            "the other knows the new session",
        )


async def test_simulated_switch_to_tcp_carries_media_over_tcp(
    server: DevServer, room: str, single: bool
) -> None:
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, b):
        await b.publish_tone()
        audio = rtc.TrackKind.KIND_AUDIO
        await until(lambda: a.of("b", audio).tone_share > 0.5, "the tone")
        assert await transports(a) == {"udp"}
        await a.room.simulate_scenario(Scenario.SIMULATE_FORCE_TCP)
        await until(lambda: "reconnected" in a.events, "reconnected")
        before = len(a.of("b", audio).arrivals)
        await until(lambda: len(a.of("b", audio).arrivals) > before + 50, "the tone again")
        assert await transports(a) == {"tcp"}


async def transports(client: PythonClient) -> set[str]:
    """Protocols of the candidate pairs that media takes."""
    stats = await client.room.get_rtc_stats()
    rows = [*stats.publisher_stats, *stats.subscriber_stats]
    used = {
        row.transport.transport.selected_candidate_pair_id
        for row in rows
        if row.WhichOneof("stats") == "transport"
    }
    remotes = {
        row.candidate_pair.candidate_pair.remote_candidate_id
        for row in rows
        if row.WhichOneof("stats") == "candidate_pair" and row.candidate_pair.rtc.id in used
    }
    return {
        row.remote_candidate.candidate.protocol
        for row in rows
        if row.WhichOneof("stats") == "remote_candidate" and row.remote_candidate.rtc.id in remotes
    }


async def test_simulated_loss_of_the_resumed_socket_ends_in_a_session(
    server: DevServer, room: str, single: bool
) -> None:
    """The native SDKs begin anew when a resume fails; others resume once more."""
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, b):
        await a.room.simulate_scenario(Scenario.SIMULATE_DISCONNECT_SIGNAL_ON_RESUME)
        await until(lambda: proxy.cable.connections >= 3, "two more sockets")
        await until(lambda: "reconnected" in a.events, "reconnected")
        await until(
            lambda: (
                [p.sid for p in b.room.remote_participants.values()]
                == [a.room.local_participant.sid]
            ),
            "the other knows the session",
        )


async def test_simulated_server_leave_disconnects(
    server: DevServer, room: str, single: bool
) -> None:
    async with cut_proxy(server) as proxy, two(proxy, room, single=single) as (a, _b):
        await a.room.simulate_scenario(Scenario.SIMULATE_SERVER_LEAVE)
        await until(lambda: any(e.startswith("disconnected") for e in a.events), "disconnected")
        shutdown = rtc.DisconnectReason.SERVER_SHUTDOWN
        assert f"disconnected {shutdown}" in a.events


# ------------------------------------------------------------------------------- on the wire


async def read(socket: aiohttp.ClientWebSocketResponse, case: str) -> signal.SignalResponse:
    """The next response of a case."""
    while True:
        response = signal.SignalResponse.FromString(await socket.receive_bytes(timeout=10))
        if response.WhichOneof("message") == case:
            return response


async def test_pushed_token_joins_and_resumes(server: DevServer, room: str) -> None:
    def url(token: str, extra: str = "") -> str:
        return f"{server.http_url}/rtc?access_token={token}&protocol=17&sdk=js{extra}"

    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(url(server.token(room, "a"))) as first:
            joined = (await read(first, "join")).join
            pushed = (await read(first, "refresh_token")).refresh_token
            resume = f"&reconnect=1&sid={joined.participant.sid}"
            async with http.ws_connect(url(pushed, resume)) as second:
                message = signal.SignalResponse.FromString(await second.receive_bytes(timeout=10))
                assert message.WhichOneof("message") == "reconnect"
                again = (await read(second, "refresh_token")).refresh_token
        async with http.ws_connect(url(again)) as third:
            anew = (await read(third, "join")).join
            assert anew.participant.identity == "a"
            assert anew.participant.sid != joined.participant.sid


async def test_resume_of_nobody_is_answered_with_a_leave_on_an_open_socket(
    server: DevServer, room: str
) -> None:
    token = server.token(room, "a")
    url = f"{server.http_url}/rtc?access_token={token}&protocol=17&reconnect=1&sid=PA_none"
    async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
        leave = (await read(socket, "leave")).leave
        assert leave.action == signal.LeaveRequest.Action.RECONNECT
        assert (await socket.receive(timeout=5)).type == aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1000


# ---------------------------------------------------------------------- sockets and media, both


@pytest.mark.parametrize("away_s", [1.0, 3.0])
async def test_reliable_data_both_ways_outlives_a_lost_network(
    tmp_path: Path, room: str, away_s: float, single: bool
) -> None:
    with laid_network() as network:
        home, here, there = (network.add(name) for name in ("home", "here", "there"))
        started = await home.run(
            *python("-m", "roomwright", "dev", "--bind", home.address, "--insecure-dev-keys"),
            *("--data-dir", str(tmp_path / "data")),
            log=tmp_path / "server.log",
            environment={},
        )
        log = tmp_path / "server.log"
        await until(lambda: b"URL" in log.read_bytes(), "the server's start", 30)
        a = await client_on(here, home, "a", room, tmp_path, single=single)
        b = await client_on(there, home, "b", room, tmp_path, single=single)
        await until(lambda: min(len(told(a[1])), len(told(b[1]))) > 50, "packets flow", 30)
        network.cut(here, home)
        await asyncio.sleep(away_s)
        network.mend(here, home)
        back_at = (len(told(a[1])), len(told(b[1])))
        await until(
            lambda: len(told(a[1])) > back_at[0] + 100 and len(told(b[1])) > back_at[1] + 100,
            "packets flow again",
            40,
        )
        for process, path in (a, b):
            got = told(path)
            assert got == list(range(got[0], got[0] + len(got)))
            process.kill()
            await process.wait()
        started.kill()
        await started.wait()


async def client_on(
    host: Host, home: Host, identity: str, room: str, directory: Path, *, single: bool
) -> tuple[asyncio.subprocess.Process, Path]:
    """The SDK on another host, which sends numbered packets and writes down those that come."""
    log = directory / f"{identity}.log"
    process = await host.run(
        *python("-m", "tests.support.numbering_client", f"ws://{home.address}:7880"),
        join_token(KEY, SECRET, room, identity),
        "single" if single else "dual",
        log=log,
        environment={"PYTHONUNBUFFERED": "1"},
    )
    return process, log


def told(log: Path) -> list[int]:
    """The numbers that came, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return [row["number"] for row in rows]

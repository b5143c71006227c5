"""The adapter over real engines: two of them on loopback, one in the client role."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import mediacore
from sfu.core import media_commands as commands
from sfu.core import media_events as events
from sfu.media import EngineAdapter

SERVER_PC, CLIENT_PC = 3 << events.OWNER_SHIFT | 1, 1
SERVER, CLIENT = ("serverufrag1", "s" * 24), ("clientufrag1", "c" * 24)


class Peer:
    """One engine and what it said."""

    def __init__(self) -> None:
        self.adapter = EngineAdapter(mediacore.EngineConfig([mediacore.Binding("127.0.0.1:0")]))
        self.events: asyncio.Queue[events.MediaEvent] = asyncio.Queue()
        self.adapter.start(asyncio.get_running_loop(), self.events.put_nowait)

    async def until(self, kind: type[events.MediaEvent]) -> events.MediaEvent:
        while True:
            event = await asyncio.wait_for(self.events.get(), 10)
            if isinstance(event, kind):
                return event


@pytest.fixture
async def peers() -> AsyncIterator[tuple[Peer, Peer]]:
    server, client = Peer(), Peer()
    yield server, client
    server.adapter.close()
    client.adapter.close()
    client.adapter.close()


async def test_commands_reach_the_engine_and_its_events_come_back(
    peers: tuple[Peer, Peer],
) -> None:
    server, client = peers
    serve, act = server.adapter.perform, client.adapter.perform
    serve(commands.CreatePeerConnection(SERVER_PC, *SERVER))
    serve(commands.OpenDataChannel(SERVER_PC, "_reliable"))
    # The adapter makes servers' connections only: those send the ClientHello.
    client.adapter._engine.create_peer_connection(
        CLIENT_PC,
        mediacore.PeerConnectionConfig(
            *CLIENT, ice_lite=False, ice_controlling=True, dtls_active=False
        ),
    )
    serve(commands.SetRemote(SERVER_PC, *CLIENT, client.adapter.fingerprint))
    act(commands.SetRemote(CLIENT_PC, *SERVER, server.adapter.fingerprint))
    for candidate in server.adapter.candidates():
        act(commands.AddRemoteCandidate(CLIENT_PC, candidate))
    assert await server.until(events.Connected) == events.Connected(SERVER_PC)
    opened = await server.until(events.DataChannelOpened)
    assert opened == events.DataChannelOpened(SERVER_PC, "_reliable", True, True)
    serve(commands.SendData((SERVER_PC,), "_reliable", b"hello"))
    received = await client.until(events.DataReceived)
    assert received == events.DataReceived(CLIENT_PC, "_reliable", b"hello", True)


async def test_refused_command_comes_back_as_an_event(peers: tuple[Peer, Peer]) -> None:
    server, _ = peers
    server.adapter.perform(commands.RequestKeyframe(99))
    rejected = await server.until(events.Rejected)
    assert isinstance(rejected, events.Rejected)
    assert (rejected.command, rejected.id) == ("request_keyframe", 99)


async def test_closed_adapter_takes_commands_silently(peers: tuple[Peer, Peer]) -> None:
    server, _ = peers
    server.adapter.close()
    server.adapter.perform(commands.RequestKeyframe(99))
    assert server.adapter.is_closed


def test_levels_of_many_rooms_are_split_by_their_stage() -> None:
    one, two = 1 << events.OWNER_SHIFT | 5, 2 << events.OWNER_SHIFT | 5
    both = events.AudioLevels(((one, 10, 1.0), (two, 20, 0.5)))
    assert events.split_by_owner(both) == [
        (1, events.AudioLevels(((one, 10, 1.0),))),
        (2, events.AudioLevels(((two, 20, 0.5),))),
    ]

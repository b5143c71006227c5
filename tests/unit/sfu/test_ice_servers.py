"""Which STUN and TURN servers a client is told of, and with which credentials."""

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from livekit.protocol import rtc
from pydantic import ValidationError

from chassis.errors import SettingsError
from sfu.core.ice_servers import IceServers, TurnServer
from sfu.relays import client_ice_servers
from sfu.settings import SfuSettings
from tests.support.scripted_room import World

WALL_MS = 1_700_000_000_000


def settings(monkeypatch: pytest.MonkeyPatch, servers: str) -> SfuSettings:
    monkeypatch.setenv("SFU_TURN_SERVERS", servers)
    return SfuSettings()


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (TurnServer("turn.example", 3478, "udp"), "turn:turn.example:3478?transport=udp"),
        (TurnServer("turn.example", 3478, "tcp"), "turn:turn.example:3478?transport=tcp"),
        (TurnServer("turn.example", 443, "tls"), "turns:turn.example:443?transport=tcp"),
        (TurnServer("2001:db8::1", 3478), "turn:[2001:db8::1]:3478?transport=udp"),
    ],
)
def test_url_names_scheme_and_transport(server: TurnServer, url: str) -> None:
    assert server.url == url


def test_fixed_credentials_are_told_as_they_are() -> None:
    entry = TurnServer("t", 1, username="u", credential="c").entry("PA_1", WALL_MS)
    assert (entry.username, entry.credential) == ("u", "c")


def test_shared_secret_makes_credentials_for_one_participant_and_four_hours() -> None:
    entry = TurnServer("t", 1, shared_secret="s3cret").entry("PA_1", WALL_MS)
    assert entry.username == f"{WALL_MS // 1000 + 4 * 3600}:PA_1"
    digest = hmac.new(b"s3cret", entry.username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(entry.credential) == digest


def test_stun_servers_are_one_entry_after_the_relays() -> None:
    servers = IceServers(turn=(TurnServer("t", 1),), stun=("a:1", "b:2"))
    assert [list(entry.urls) for entry in servers.entries("PA_1", WALL_MS)] == [
        ["turn:t:1?transport=udp"],
        ["stun:a:1", "stun:b:2"],
    ]


def test_join_and_reconnect_tell_the_servers_anew(world: World) -> None:
    servers = IceServers(turn=(TurnServer("t", 1, shared_secret="s3cret"),))
    room = World(stage_settings={"ice_servers": servers})
    a = room.join("a", connect=True)
    join = a.last("join")
    assert isinstance(join, rtc.JoinResponse)
    room.advance(60)
    reconnect = room.resume(a).inbox[0].reconnect
    first, later = join.ice_servers[0], reconnect.ice_servers[0]
    assert first.username.endswith(f":{a.sid}")
    assert int(later.username.split(":")[0]) == int(first.username.split(":")[0]) + 60


def test_settings_read_secrets_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret, password = tmp_path / "secret", tmp_path / "password"
    secret.write_text("s3cret\n")
    password.write_text("pw\n")
    found = client_ice_servers(
        settings(
            monkeypatch,
            f'[{{"host": "t", "port": 443, "protocol": "tls", "secretFile": "{secret}", "ttlS": 60}},'
            f' {{"host": "t", "port": 1, "username": "u", "credentialFile": "{password}"}}]',
        )
    )
    assert found.turn == (
        TurnServer("t", 443, "tls", shared_secret="s3cret", lifetime_s=60),
        TurnServer("t", 1, "udp", username="u", credential="pw"),
    )
    assert found.has_tls


@pytest.mark.parametrize(
    "server",
    [
        '{"port": 1}',
        '{"host": "t", "port": 0}',
        '{"host": "t", "port": 1, "protocol": "sctp"}',
        '{"host": "t", "port": 1, "username": "u"}',
        '{"host": "t", "port": 1, "credential": "c"}',
        '{"host": "t", "port": 1, "username": "u", "credential": "c", "secretFile": "/s"}',
        '{"host": "t", "port": 1, "ttlS": 90000}',
        '{"host": "t", "port": 1, "realm": "r"}',
    ],
)
def test_server_that_makes_no_sense_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    with pytest.raises(ValidationError):
        settings(monkeypatch, f"[{server}]")


def test_secret_that_cannot_be_read_is_named_by_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = tmp_path / "none"
    found = settings(monkeypatch, f'[{{"host": "t", "port": 1, "secretFile": "{missing}"}}]')
    with pytest.raises(SettingsError, match="none cannot be read"):
        client_ice_servers(found)

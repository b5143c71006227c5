"""The STUN and TURN servers of the settings, with their secrets read from files."""

from __future__ import annotations

from pathlib import Path

from chassis.errors import SettingsError
from sfu.core.ice_servers import IceServers, TurnServer
from sfu.settings import SfuSettings, TurnServerSettings


def client_ice_servers(settings: SfuSettings) -> IceServers:
    """What clients are told of. Raises SettingsError for a file that cannot be used."""
    return IceServers(
        turn=tuple(_turn_server(server) for server in settings.turn_servers),
        stun=settings.client_stun_servers,
    )


def _turn_server(server: TurnServerSettings) -> TurnServer:
    credential = server.credential.get_secret_value()
    if server.credential_file is not None:
        credential = _read_secret(server.credential_file)
    return TurnServer(
        host=server.host,
        port=server.port,
        protocol=server.protocol,
        username=server.username,
        credential=credential,
        shared_secret="" if server.secret_file is None else _read_secret(server.secret_file),
        lifetime_s=server.ttl_s,
    )


def _read_secret(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"turn_servers: {path} cannot be read: {error.strerror}") from None
    if not text:
        raise SettingsError(f"turn_servers: {path} is empty")
    return text

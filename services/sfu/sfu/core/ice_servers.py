"""The STUN and TURN servers a client is told, with credentials of its own.

Servers of the operator's, outside of this system. Credentials are static, or made for one participant
and a time from a secret that is shared with the TURN server (the "REST API" scheme, which coturn
calls use-auth-secret): nobody asks that server, and it asks nobody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from livekit.protocol import rtc

TurnProtocol = Literal["udp", "tcp", "tls"]


@dataclass(frozen=True, slots=True)
class TurnServer:
    """One TURN server. With a `shared_secret`, user name and credential are made and not given."""

    host: str
    port: int
    protocol: TurnProtocol = "udp"
    username: str = ""
    credential: str = ""
    shared_secret: str = ""
    lifetime_s: int = 4 * 3600

    @property
    def url(self) -> str:
        """RFC 7065."""
        scheme = "turns" if self.protocol == "tls" else "turn"
        transport = "udp" if self.protocol == "udp" else "tcp"
        return f"{scheme}:{bracketed(self.host)}:{self.port}?transport={transport}"

    def entry(self, participant_sid: str, wall_ms: int) -> rtc.ICEServer:
        """What one participant is told."""
        if not self.shared_secret:
            return rtc.ICEServer(
                urls=[self.url], username=self.username, credential=self.credential
            )
        username = f"{wall_ms // 1000 + self.lifetime_s}:{participant_sid}"
        digest = hmac.new(self.shared_secret.encode(), username.encode(), hashlib.sha1).digest()
        credential = base64.b64encode(digest).decode()
        return rtc.ICEServer(urls=[self.url], username=username, credential=credential)


@dataclass(frozen=True, slots=True)
class IceServers:
    """All servers of a node's clients; `stun` are `host:port`."""

    turn: tuple[TurnServer, ...] = ()
    stun: tuple[str, ...] = ()

    @property
    def has_tls(self) -> bool:
        """Whether a client can be relayed where only TLS gets through."""
        return any(server.protocol == "tls" for server in self.turn)

    def entries(self, participant_sid: str, wall_ms: int) -> list[rtc.ICEServer]:
        """`JoinResponse.ice_servers`; none is fine for every client."""
        entries = [server.entry(participant_sid, wall_ms) for server in self.turn]
        if self.stun:
            entries.append(rtc.ICEServer(urls=[f"stun:{server}" for server in self.stun]))
        return entries


NO_SERVERS = IceServers()


def bracketed(host: str) -> str:
    """An IPv6 address in brackets, as in a URL; every other host as it is."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

"""The server to load, and tokens for it. Not a client."""

import base64
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from livekit.protocol import models, rtc
from pydantic import SecretStr

from chassis.tokens import Grants, VideoGrant, sign

LIFETIME_S: Final = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """The server to load: `ws://` or `wss://` address without a path, and an API key of it."""

    url: str
    key: str
    secret: str

    def __repr__(self) -> str:
        return f"Target({self.url!r}, {self.key!r})"

    @property
    def http_url(self) -> str:
        """Where its server API is."""
        return re.sub("^ws", "http", self.url)


def join_token(target: Target, room: str, identity: str) -> str:
    """May join one room and do there what any participant may."""
    return _sign(target, VideoGrant(room_join=True, room=room), identity)


def admin_token(target: Target, room: str) -> str:
    """May make, list and delete rooms, and do anything to one room."""
    grant = VideoGrant(room_create=True, room_list=True, room_admin=True, room=room)
    return _sign(target, grant, "loadtest")


def _sign(target: Target, grant: VideoGrant, identity: str) -> str:
    grants = Grants(identity=identity, video=grant)
    return sign(grants, target.key, SecretStr(target.secret), LIFETIME_S)


def wrapped_join() -> str:
    """The query of a join by `/rtc/v1`, where the client makes every offer."""
    info = models.ClientInfo(sdk=models.ClientInfo.SDK.GO, os="linux", version="2.0.0", protocol=17)
    request = rtc.JoinRequest(
        client_info=info, connection_settings=rtc.ConnectionSettings(auto_subscribe=True)
    )
    wrapped = rtc.WrappedJoinRequest(join_request=request.SerializeToString())
    text = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
    return urlencode({"join_request": text})

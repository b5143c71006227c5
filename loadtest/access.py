"""The server to load, and tokens for it. Not a client."""

import base64
import re
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

from livekit import api
from livekit.protocol import models, rtc

LIFETIME: Final = timedelta(hours=6)


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
    return _sign(target, api.VideoGrants(room_join=True, room=room), identity)


def admin_token(target: Target, room: str) -> str:
    """May make, list and delete rooms, and do anything to one room."""
    grants = api.VideoGrants(room_create=True, room_list=True, room_admin=True, room=room)
    return _sign(target, grants, "loadtest")


def _sign(target: Target, grants: api.VideoGrants, identity: str) -> str:
    made = api.AccessToken(target.key, target.secret).with_identity(identity).with_grants(grants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a development secret is short, and not ours to refuse
        return made.with_ttl(LIFETIME).to_jwt()


def wrapped_join() -> str:
    """The query of a join by `/rtc/v1`, where the client makes every offer."""
    info = models.ClientInfo(sdk=models.ClientInfo.SDK.GO, os="linux", version="2.0.0", protocol=17)
    request = rtc.JoinRequest(
        client_info=info, connection_settings=rtc.ConnectionSettings(auto_subscribe=True)
    )
    wrapped = rtc.WrappedJoinRequest(join_request=request.SerializeToString())
    text = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
    return urlencode({"join_request": text})

"""What a client of the tests must know of a server, wherever it runs."""

from datetime import timedelta
from typing import Protocol

from livekit import api


class Server(Protocol):
    """A Roomwright that clients join: a process of this machine, or a release on a cluster."""

    @property
    def url(self) -> str:
        """What SDKs connect to."""
        ...

    @property
    def page_url(self) -> str:
        """Where the page and the browser tests' harness are served."""
        ...

    def token(self, room: str, identity: str, **grants: object) -> str:
        """A token for a room."""
        ...


def join_token(key: str, secret: str, room: str, identity: str, **grants: object) -> str:
    """A token for a room, made by the published server SDK, for one hour; `grants` as `api.VideoGrants` names them."""
    allowed = {"room_join": True, "room": room, "can_update_own_metadata": True, **grants}
    return (
        api.AccessToken(key, secret)
        .with_identity(identity)
        .with_name(identity.title())
        .with_ttl(timedelta(hours=1))
        .with_grants(api.VideoGrants(**allowed))  # type: ignore[arg-type]
        .to_jwt()
    )

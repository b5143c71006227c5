"""Calls of the server API over Twirp on one kept connection, blocking; under gevent they give way. Not an SDK."""

from types import TracebackType
from typing import Final, Self, TypeVar

from geventhttpclient import HTTPClient
from google.protobuf.message import Message

from loadtest.access import Target, admin_token

TIMEOUT_S: Final = 30.0
MAX_REASON: Final = 300
Answer = TypeVar("Answer", bound=Message)


class CallFailed(Exception):
    """The server answered something else than 200; the text is status and body."""


class RoomApi:
    """RoomService, with a token that may do anything to one room."""

    def __init__(self, target: Target, room: str) -> None:
        self._http = HTTPClient.from_url(
            target.http_url, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
        )
        self._headers = {
            "Authorization": f"Bearer {admin_token(target, room)}",
            "Content-Type": "application/protobuf",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """One call; `CallFailed` when it is refused, `OSError` when there is no connection."""
        response = self._http.post(
            f"/twirp/livekit.RoomService/{method}", request.SerializeToString(), self._headers
        )
        body = bytes(response.read())
        if response.status_code != 200:
            text = body.decode(errors="replace")
            raise CallFailed(f"HTTP {response.status_code} {text}"[:MAX_REASON])
        return answer.FromString(body)

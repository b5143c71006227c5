"""What a client of the tests must know of a server, wherever it runs."""

from typing import Protocol


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

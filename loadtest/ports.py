"""Ports for servers that a benchmark or a test starts. Nothing is reserved: whoever asked binds it soon."""

import contextlib
import secrets
import socket
from typing import Final

LOWEST: Final = 10_000
HIGHEST: Final = 29_999
"""Below the ports that systems give to those who ask for any: one of those may be gone before it is bound."""
ATTEMPTS: Final = 100


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nothing listens on now; `OSError` when none is found."""
    for _ in range(ATTEMPTS):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST} on 127.0.0.1")

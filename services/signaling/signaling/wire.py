"""One WebSocket as the server has it: whole frames go out without a task, an event or a copy for each socket.

It extends the web server's own protocol, which still does the handshake, the reading, the pings and the close. What a
broadcast costs is decided here: a frame for a thousand sockets is a thousand writes of the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

CLOSE_PATIENCE_S = 5.0
_EXTENSION = "roomwright.wire"


class Wire(WebSocketsSansIOProtocol):
    """The server's end of one WebSocket; an application finds its own by `Wire.of`."""

    on_writable: Callable[[], None] | None = None
    """Called when a socket that was full takes frames again."""
    is_full = False
    """So much waits to be sent that no more should be written before `on_writable`."""

    @staticmethod
    def of(websocket: WebSocket) -> Wire:
        """The wire below a WebSocket; LookupError under another server."""
        wire = websocket.scope["extensions"][_EXTENSION]
        assert isinstance(wire, Wire)
        return wire

    def write(self, frame: bytes) -> None:
        """Send one whole frame, and never wait; a frame for a socket that is closing is dropped."""
        if not self.close_sent and not self.disconnected and not self.transport.is_closing():
            self.transport.write(frame)

    def end(self, code: int) -> None:
        """Say close after what was written, and give the peer a while to answer; a full socket is cut then."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if not self.handshake_complete:
            self.transport.abort()
            return
        self.conn.send_close(code)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        # Not the transport's own close: that would wait for ever for a peer that reads nothing.
        self.close_timer = self.loop.call_later(CLOSE_PATIENCE_S, self.transport.abort)

    def handle_connect(self, event: Request) -> None:
        """Let the application find this wire."""
        super().handle_connect(event)
        scope: dict[str, Any] | None = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][_EXTENSION] = self

    def pause_writing(self) -> None:
        """The transport's buffer went above its high mark."""
        super().pause_writing()
        self.is_full = True

    def resume_writing(self) -> None:
        """The transport's buffer went below its low mark."""
        super().resume_writing()
        self.is_full = False
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget who waits."""
        self.on_writable = None
        super().connection_lost(exc)

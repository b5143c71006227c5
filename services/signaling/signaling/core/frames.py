"""Frames of one signaling socket: protobuf in binary frames, proto3 JSON in text frames.

The server answers in the manner of the last frame it received, binary before any. Requests in binary frames are passed
on undecoded (the node ends a connection whose frame is none); text ones are made into the same bytes here. Unknown
fields are ignored both ways. A response is framed once for all the sockets it goes to: a server's frames are not masked
(RFC 6455 section 5.1), so they are the same bytes for everybody.
"""

from dataclasses import dataclass

from google.protobuf import json_format
from livekit.protocol import rtc

_FINAL_TEXT = 0x81
_FINAL_BINARY = 0x82


class BadFrame(ValueError):
    """The frame is no SignalRequest; the connection ends with it."""


@dataclass(frozen=True, slots=True)
class Response:
    """One serialized SignalResponse and the whole binary frame that carries it."""

    payload: bytes
    frame: bytes

    @staticmethod
    def of(payload: bytes) -> "Response":
        """Framed for every socket that speaks protobuf."""
        return Response(payload, framed(_FINAL_BINARY, payload))


@dataclass(slots=True)
class FrameCodec:
    """Which of the two manners this socket is in."""

    text: bool = False

    def decode(self, frame: bytes | str) -> bytes:
        """The serialized SignalRequest of a frame; raise `BadFrame` when it is none."""
        if isinstance(frame, bytes):
            self.text = False
            return frame
        self.text = True
        try:
            request = json_format.Parse(frame, rtc.SignalRequest(), ignore_unknown_fields=True)
        except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError):
            # The parser lets errors of Python's own conversions through for odd shapes.
            raise BadFrame("not a SignalRequest in JSON") from None
        return request.SerializeToString()

    def encode(self, response: Response) -> bytes:
        """The whole WebSocket frame of a response, as this socket wants it."""
        if not self.text:
            return response.frame
        message = rtc.SignalResponse.FromString(response.payload)
        return framed(_FINAL_TEXT, json_format.MessageToJson(message, indent=None).encode())


def framed(first_byte: int, payload: bytes) -> bytes:
    """A frame of RFC 6455 section 5.2 from a server: one fragment, no mask."""
    length = len(payload)
    if length < 126:
        return bytes((first_byte, length)) + payload
    if length < 1 << 16:
        return bytes((first_byte, 126)) + length.to_bytes(2) + payload
    return bytes((first_byte, 127)) + length.to_bytes(8) + payload

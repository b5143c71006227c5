"""Frames of one signaling socket: protobuf in binary frames, proto3 JSON in text frames.

The server answers in the manner of the last frame it received, binary before any. Requests in binary frames are passed
on undecoded (the node ends a connection whose frame is none); text ones are made into the same bytes here. Unknown
fields are ignored both ways.
"""

from dataclasses import dataclass

from google.protobuf import json_format
from livekit.protocol import rtc


class BadFrame(ValueError):
    """The frame is no SignalRequest; the connection ends with it."""


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

    def encode(self, response: bytes) -> bytes | str:
        """A serialized SignalResponse as this socket wants it; bytes pass through untouched."""
        if not self.text:
            return response
        return json_format.MessageToJson(rtc.SignalResponse.FromString(response), indent=None)

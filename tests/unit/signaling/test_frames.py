"""Frames in protobuf and JSON."""

import json

import pytest
from livekit.protocol import rtc

from signaling.core.frames import BadFrame, FrameCodec


def test_binary_frames_pass_both_ways_untouched() -> None:
    codec = FrameCodec()
    assert codec.encode(b"anything") == b"anything"
    assert codec.decode(b"\xff") == b"\xff"


def test_text_frames_are_the_same_request_and_are_answered_in_text() -> None:
    codec = FrameCodec()
    request = codec.decode('{"ping_req": {"timestamp": "9", "unknown": 1}}')
    assert rtc.SignalRequest.FromString(request).ping_req.timestamp == 9
    answer = codec.encode(rtc.SignalResponse(pong=7).SerializeToString())
    assert isinstance(answer, str)
    assert json.loads(answer) == {"pong": "7"}
    codec.decode(b"")
    assert codec.encode(b"x") == b"x"


@pytest.mark.parametrize("frame", ["", "nonsense", "[1]", "1", '{"offer": 3}', "[" * 5000])
def test_a_text_frame_that_is_no_request_is_refused(frame: str) -> None:
    with pytest.raises(BadFrame):
        FrameCodec().decode(frame)

"""Frames in protobuf and JSON."""

import json
from collections.abc import Callable, Generator
from typing import Any

import pytest
from livekit.protocol import rtc
from websockets.frames import Frame, Opcode

from signaling.core.frames import BadFrame, FrameCodec, Response


def parsed(wire: bytes) -> Frame:
    """What a client's parser makes of a server's bytes."""

    def read_exact(reader: list[bytes]) -> Callable[[int], Generator[None, None, bytes]]:
        def read(count: int) -> Generator[None, None, bytes]:
            taken, reader[0] = reader[0][:count], reader[0][count:]
            assert len(taken) == count
            return taken
            yield

        return read

    rest = [wire]
    parser: Any = Frame.parse(read_exact(rest), mask=False)
    try:
        next(parser)
    except StopIteration as done:
        assert rest == [b""]
        frame = done.value
        assert isinstance(frame, Frame)
        return frame
    raise AssertionError("the frame is not whole")


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 300_000])
def test_a_response_is_one_whole_binary_frame(length: int) -> None:
    payload = b"x" * length
    frame = parsed(FrameCodec().encode(Response.of(payload)))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.BINARY, True, payload)


def test_binary_requests_pass_untouched() -> None:
    assert FrameCodec().decode(b"\xff") == b"\xff"


def test_text_frames_are_the_same_request_and_are_answered_in_text() -> None:
    codec = FrameCodec()
    request = codec.decode('{"ping_req": {"timestamp": "9", "unknown": 1}}')
    assert rtc.SignalRequest.FromString(request).ping_req.timestamp == 9
    pong = Response.of(rtc.SignalResponse(pong=7).SerializeToString())
    answer = parsed(codec.encode(pong))
    assert answer.opcode is Opcode.TEXT
    assert json.loads(bytes(answer.data)) == {"pong": "7"}
    codec.decode(b"")
    assert codec.encode(pong) == pong.frame


@pytest.mark.parametrize("frame", ["", "nonsense", "[1]", "1", '{"offer": 3}', "[" * 5000])
def test_a_text_frame_that_is_no_request_is_refused(frame: str) -> None:
    with pytest.raises(BadFrame):
        FrameCodec().decode(frame)

"""Lines between Locust's side and a swarm process."""

import pytest

from loadtest.figures import MediaFigures
from loadtest.scenario import DEFAULT_TRACKS
from loadtest.swarm_messages import (
    Close,
    Join,
    Joined,
    JoinFailed,
    Leave,
    Measured,
    NotBack,
    Open,
    Ready,
    Reconnected,
    decode_command,
    decode_report,
    encode,
)


@pytest.mark.parametrize(
    "command",
    [
        Open("ws://x", "key", "secret", 4, {"audio": 50.0}),
        Join(7, "room", "ann", (DEFAULT_TRACKS["camera"],)),
        Leave(7),
        Close(),
    ],
)
def test_a_command_is_one_line_and_comes_back(command: Open | Join | Leave | Close) -> None:
    line = encode(command)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_command(line) == command


@pytest.mark.parametrize(
    "report",
    [
        Ready(),
        Joined(7, 0.1),
        JoinFailed(7, "two\nlines"),
        Reconnected(7, 2.5),
        NotBack(7, "HTTP 503"),
        Measured(MediaFigures(1, 2.0, 3, 4, (5, 6), 7, 8)),
    ],
)
def test_a_report_is_one_line_and_comes_back(
    report: Ready | Joined | JoinFailed | Reconnected | NotBack | Measured,
) -> None:
    line = encode(report)
    assert line.count(b"\n") == 1
    assert decode_report(line) == report


@pytest.mark.parametrize("line", [b"", b"{}\n", b'{"do":"dance"}\n', b'{"do":"leave"}\n'])
def test_a_line_that_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        decode_command(line)


def test_the_secret_is_not_in_what_is_printed_of_a_command() -> None:
    assert "hush" not in repr(Open("ws://x", "key", "hush"))

"""`roomwright token`."""

import sys
import time

import pytest
from pydantic import SecretStr

from chassis.tokens import verify
from roomwright import token_command
from roomwright.__main__ import main
from roomwright.errors import CommandError

KEYS = {"devkey": SecretStr("secret")}


def test_token_has_what_was_asked_for_and_stdout_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(
        [
            *("token", "--room", "r", "--identity", "ann", "--name", "Ann", "--valid-for", "15m"),
            *("--grant", "roomAdmin", "--grant", "canPublish=false"),
            *("--grant", "canPublishSources=camera, microphone"),
        ]
    )
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    grants = verify(out.strip(), KEYS)
    assert (grants.identity, grants.name, grants.video.room) == ("ann", "Ann", "r")
    assert (grants.video.room_join, grants.video.room_admin) == (True, True)
    assert grants.video.can_publish is False
    assert grants.video.can_publish_sources == ("camera", "microphone")
    assert abs(grants.expires_at - time.time() - 15 * 60) < 5


def test_token_for_the_api_needs_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    main(["token", "--grant", "roomCreate", "--grant", "roomList"])
    video = verify(capsys.readouterr().out.strip(), KEYS).video
    assert (video.room_create, video.room_list, video.room_join) == (True, True, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--room", "r"], "needs --identity"),
        (["--identity", "a", "--grant", "roomJoin"], "needs --room"),
        (["--grant", "fly"], "no such grant; there are agent"),
        (["--grant", "roomAdmin=perhaps"], "neither true nor false"),
        (["--valid-for", "1y"], "write a number and a unit"),
        (["--valid-for", "0s"], "write a number and a unit"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", *arguments])
    text = str(caught.value)
    assert text.startswith("roomwright: ")
    assert words in text
    assert "\n" not in text


def test_durations_have_units() -> None:
    assert [token_command.seconds(text) for text in ("30s", "2m", "1h", "7d")] == [
        30,
        120,
        3600,
        604800,
    ]
    with pytest.raises(CommandError):
        token_command.seconds("5")


@pytest.mark.parametrize("arguments", [["--help"], ["dev", "--help"], ["token", "--help"]])
def test_help_fits_its_purpose_without_loading_a_service(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sfu.app", None)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "usage: roomwright" in capsys.readouterr().out

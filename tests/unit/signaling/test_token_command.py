"""`roomwright-signaling token`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from chassis.tokens import verify
from signaling import token_command

SECRET = "s" * 40


@pytest.fixture(autouse=True)
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(f"APIfirst: {SECRET}\nAPIsecond: {'t' * 40}\n")
    path.chmod(0o600)
    monkeypatch.setenv("SIGNALING_API_KEYS_FILE", str(path))
    return path


def test_token_joins_the_room_and_is_all_that_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    token_command.main(["token", "--room", "demo", "--identity", "me", "--name", "Me"])
    grants = verify(capsys.readouterr().out.strip(), {"APIfirst": SecretStr(SECRET)})
    assert (grants.identity, grants.name) == ("me", "Me")
    assert (grants.video.room, grants.video.room_join) == ("demo", True)


def test_pod_without_keys_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNALING_API_KEYS_FILE")
    with pytest.raises(SystemExit, match="set SIGNALING_API_KEYS_FILE"):
        token_command.main(["token", "--room", "demo", "--identity", "me"])


def test_unreadable_keys_are_named_without_their_content(keys_file: Path) -> None:
    keys_file.write_text("APIfirst hidden\n")
    with pytest.raises(SystemExit, match="entry 1 is not of the form") as refused:
        token_command.main(["token", "--room", "demo", "--identity", "me"])
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("hours", ["0", "-1", "inf", "nan", "9000", "x"])
def test_lifetime_that_makes_no_sense_is_refused(
    hours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        token_command.main(["token", "--room", "demo", "--identity", "me", "--hours", hours])
    assert "not a number of hours" in capsys.readouterr().err

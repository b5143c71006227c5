"""Settings: keys, their forms, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from chassis.errors import SettingsError
from chassis.settings import ChassisSettings, TextList, parse_keys

LONG = "x" * 32


def test_keys_are_lines_or_json() -> None:
    assert parse_keys("a: 1\n# no\n\n b : '2' ") == {"a": "1", "b": "2"}
    assert parse_keys('{"a": "1"}') == {"a": "1"}


def test_bad_entry_is_named_by_number_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="entry 2") as caught:
        parse_keys("a: 1\nhush")
    assert "hush" not in str(caught.value)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMWRIGHT_API_KEYS", f"a: {LONG}")
    settings = ChassisSettings()
    assert settings.api_keys["a"].get_secret_value() == LONG
    assert LONG not in repr(settings)


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"first: {LONG}\nsecond: {LONG}\n")
    path.chmod(0o640)
    assert list(ChassisSettings(api_keys_file=path).api_keys) == ["first", "second"]
    with pytest.raises(ValidationError, match="FileNotFoundError"):
        ChassisSettings(api_keys_file=tmp_path / "none")


def test_a_keys_file_open_to_everybody_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"first: {LONG}\n")
    path.chmod(0o644)
    with pytest.raises(ValidationError, match="chmod o=") as refused:
        ChassisSettings(api_keys_file=path)
    assert LONG not in str(refused.value)


def test_secrets_come_from_files_and_stay_out_of_errors(tmp_path: Path) -> None:
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text(f"{LONG}\n")
    password.write_text("hush\n")
    settings = ChassisSettings(internal_token_file=token, nats_password_file=password)
    assert settings.internal_token.get_secret_value() == LONG
    assert settings.nats_password.get_secret_value() == "hush"
    assert "hush" not in repr(settings)
    token.write_text("\n")
    with pytest.raises(ValidationError, match=r"internal token file .*token is empty") as caught:
        ChassisSettings(internal_token_file=token, nats_password_file=password)
    assert "hush" not in str(caught.value)
    with pytest.raises(ValidationError, match=r"NATS password file .*none: FileNotFoundError"):
        ChassisSettings(nats_password_file=tmp_path / "none")
    password.write_bytes(b"\xffhush")
    with pytest.raises(ValidationError, match="UnicodeDecodeError") as caught:
        ChassisSettings(nats_password_file=password)
    assert "hush" not in str(caught.value)


def test_lists_are_separated_by_commas_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    class Listening(ChassisSettings):
        addresses: TextList = ()

    for text in ("127.0.0.1:1, [::1]:2,", '["127.0.0.1:1", "[::1]:2"]'):
        monkeypatch.setenv("ROOMWRIGHT_ADDRESSES", text)
        assert Listening().addresses == ("127.0.0.1:1", "[::1]:2")
    monkeypatch.setenv("ROOMWRIGHT_ADDRESSES", "[1")
    with pytest.raises(ValidationError, match="not a JSON list"):
        Listening()


def test_short_secret_is_refused_unless_for_development() -> None:
    with pytest.raises(ValidationError, match="'devkey' is shorter than 32") as caught:
        ChassisSettings.model_validate({"api_keys": {"devkey": "hushhush"}})
    assert "hushhush" not in str(caught.value)
    assert ChassisSettings.model_validate({"api_keys": {"devkey": "secret"}, "dev_keys": True})


def test_each_process_gets_its_own_node_id() -> None:
    first, second = ChassisSettings(), ChassisSettings()
    assert first.node_id.startswith("ND_")
    assert first.node_id != second.node_id

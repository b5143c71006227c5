"""Settings: keys, their forms, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from chassis.errors import SettingsError
from chassis.settings import ChassisSettings, parse_keys

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
    assert list(ChassisSettings(api_keys_file=path).api_keys) == ["first", "second"]
    with pytest.raises(ValidationError, match="FileNotFoundError"):
        ChassisSettings(api_keys_file=tmp_path / "none")


def test_short_secret_is_refused_unless_for_development() -> None:
    with pytest.raises(ValidationError, match="'devkey' is shorter than 32") as caught:
        ChassisSettings.model_validate({"api_keys": {"devkey": "hushhush"}})
    assert "hushhush" not in str(caught.value)
    assert ChassisSettings.model_validate({"api_keys": {"devkey": "secret"}, "dev_keys": True})


def test_each_process_gets_its_own_node_id() -> None:
    first, second = ChassisSettings(), ChassisSettings()
    assert first.node_id.startswith("ND_")
    assert first.node_id != second.node_id

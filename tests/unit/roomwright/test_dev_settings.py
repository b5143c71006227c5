"""What `roomwright dev` accepts, and how it refuses the rest."""

from pathlib import Path
from typing import Any

import pytest

from roomwright import dev_settings
from roomwright.dev_settings import DevSettings
from roomwright.errors import CommandError

LONG = "x" * 32


@pytest.fixture(autouse=True)
def _no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dev_settings.KEYS_VARIABLE, raising=False)


def read(config: Path | None = None, **flags: Any) -> DevSettings:
    return dev_settings.read(flags, config)


def written(directory: Path, text: str) -> Path:
    path = directory / "dev.yaml"
    path.write_text(text)
    return path


def test_defaults_listen_on_loopback_with_the_known_keys() -> None:
    settings = read(port=None, keys=None)
    assert (settings.port, settings.udp_port, settings.tcp_port) == (7880, 7882, 7881)
    assert settings.bind == ("127.0.0.1", "::1")
    assert settings.is_local
    assert settings.keys["devkey"].get_secret_value() == "secret"
    assert "secret'" not in repr(settings.keys)


def test_file_gives_settings_and_flags_win(tmp_path: Path) -> None:
    config = written(
        tmp_path, f"port: 7000\nbind: 127.0.0.2\nkeys:\n  mine: {LONG}\nudp_port: 7001\n"
    )
    settings = read(config, port=7100)
    assert (settings.port, settings.udp_port, settings.bind) == (7100, 7001, ("127.0.0.2",))
    assert settings.keys["mine"].get_secret_value() == LONG


def test_keys_come_from_the_environment_when_nothing_else_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(dev_settings.KEYS_VARIABLE, f"mine: {LONG}")
    assert list(read().keys) == ["mine"]
    assert list(read(keys=f"other: {LONG}").keys) == ["other"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 7880", "no setting 'prot'; there are port, bind"),
        ("[1]", "must be settings with names"),
        ("port: {", "not YAML in line"),
        ("port: abc", "--port: 'abc' is not a port"),
        ("port: true", "--port: True is not a port"),
        ("bind: []", "--bind: no address given"),
        ("insecure_dev_keys: 1", "--insecure-dev-keys: 1 is neither true nor false"),
        ("log_level: loud", "--log-level: 'loud' is none of debug, info"),
        ("keys: {}", "--keys: no key given"),
    ],
)
def test_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(written(tmp_path, text))
    assert words in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none\.yaml: No such file"):
        read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": 0}, "--port: 0 is not a port"),
        ({"udp_port": 65536}, "--udp-port: 65536 is not a port"),
        ({"bind": ["localhost"]}, "--bind: 'localhost' is not an IP address"),
        ({"node_ip": "here"}, "--node-ip: 'here' is not an IP address"),
        ({"port": 7000, "tcp_port": 7000}, "--port and --tcp-port are both 7000"),
        ({"keys": "hushhush"}, 'write it as "key: secret"'),
    ],
)
def test_wrong_flag_is_named(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(**flags)
    assert words in str(caught.value)
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("keys", [None, "devkey: secret", "mine: short"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_known_or_short_secret_is_refused_beyond_loopback(keys: str | None, address: str) -> None:
    with pytest.raises(CommandError, match="--insecure-dev-keys") as caught:
        read(bind=["127.0.0.1", address], keys=keys)
    assert "short;" not in str(caught.value)
    assert not read(bind=[address], keys=keys, insecure_dev_keys=True).is_local
    assert read(bind=[address], keys=f"mine: {LONG}")
    assert read(bind=["127.0.0.2", "::1"], keys=keys).is_local


def test_a_livekit_yaml_is_taken_for_dev_and_its_services(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(f"mine: {LONG}\n")
    text = f"""
port: 7990
bind_addresses: [127.0.0.1]
key_file: {tmp_path / "keys.yaml"}
logging: {{level: warn, json: true}}
rtc: {{udp_port: 7991-7999, tcp_port: 7992, node_ip: {{ipv4: 192.0.2.1}}, use_ice_lite: true}}
webhook: {{urls: ["http://127.0.0.1:1/"]}}
room: {{empty_timeout: 60}}
sfu: {{max_participants: 7}}
"""
    settings = read(written(tmp_path, text))
    assert (settings.port, settings.udp_port, settings.tcp_port) == (7990, 7991, 7992)
    assert (settings.bind, settings.node_ip) == (("127.0.0.1",), "192.0.2.1")
    assert (settings.log_level, settings.log_json) == ("warning", True)
    assert (list(settings.keys), settings.webhook_urls) == (["mine"], ("http://127.0.0.1:1/",))
    known = ("empty_timeout_s", "max_participants")
    told = settings.configuration.of("sfu", known)
    assert told == {"empty_timeout_s": 60, "max_participants": 7}
    assert len(settings.configuration.warnings) == 1
    assert "rtc.use_ice_lite has no effect" in settings.configuration.warnings[0]


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"key_file .*none: FileNotFoundError"):
        read(written(tmp_path, f"key_file: {tmp_path / 'none'}"))

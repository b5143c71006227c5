"""What `roomwright dev` can be told: by flags, by a YAML file with the same names, and in that file, for each service,
what docs/operators/configuration.md tells; flags win."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import SecretStr

from chassis.configuration import ALL, EMPTY, Configuration, understood
from chassis.errors import SettingsError
from chassis.settings import MIN_SECRET_CHARACTERS, ChassisSettings, parse_keys
from roomwright.errors import CommandError

DEV_KEYS: Final = {"devkey": "secret"}
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
KEYS_VARIABLE: Final = "ROOMWRIGHT_API_KEYS"


@dataclass(frozen=True, slots=True)
class DevSettings:
    """The settings, checked."""

    port: int = 7880
    bind: tuple[str, ...] = ("127.0.0.1", "::1")
    node_ip: str = ""
    udp_port: int = 7882
    tcp_port: int = 7881
    keys: Mapping[str, SecretStr] = field(
        default_factory=lambda: {key: SecretStr(secret) for key, secret in DEV_KEYS.items()}
    )
    data_dir: Path = Path(".roomwright")
    web_dir: Path | None = None
    webhook_urls: tuple[str, ...] = ()
    insecure_dev_keys: bool = False
    log_level: str = "warning"
    log_json: bool = False
    otlp_endpoint: str = ""
    configuration: Configuration = EMPTY
    """What the file says for the services."""

    @property
    def is_local(self) -> bool:
        """Does nothing listen outside of this machine?"""
        return all(ipaddress.ip_address(address).is_loopback for address in self.bind)

    @property
    def binds_by_default(self) -> bool:
        """Were no addresses given? One that the machine lacks may then be left out."""
        return self.bind == DevSettings.__dataclass_fields__["bind"].default


def read(flags: Mapping[str, Any], config: Path | None) -> DevSettings:
    """Settings from flags (None: not given), a file, the environment (keys) and defaults.

    Raises `CommandError` that names the setting and never a secret.
    """
    found = _read_file(config) if config is not None else {}
    values = {name: found.pop(name) for name in _READ if name in found}
    values |= _out_of_livekit(found)
    values |= {name: value for name, value in flags.items() if value is not None}
    if "keys" not in values and os.environ.get(KEYS_VARIABLE):
        values["keys"] = os.environ[KEYS_VARIABLE]
    read = {name: _READ[name](name, values[name]) for name in values}
    return _checked(DevSettings(**read, configuration=_for_services(found, config)))


def read_keys(value: object, name: str = "keys") -> dict[str, SecretStr]:
    """API keys from `key: secret` text, or from a mapping in the file."""
    if isinstance(value, Mapping):
        pairs = {str(key): str(secret) for key, secret in value.items()}
    else:
        try:
            pairs = parse_keys(str(value))
        except SettingsError as error:
            raise CommandError(f'{_flag(name)}: {error}; write it as "key: secret"') from None
    if not pairs:
        raise CommandError(f'{_flag(name)}: no key given; write it as "key: secret"')
    return {key: SecretStr(secret) for key, secret in pairs.items()}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise CommandError(f"--config {path}: not YAML{where}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CommandError(f"--config {path}: must be settings with names, like `port: 7880`")
    return found


def _out_of_livekit(found: dict[str, Any]) -> dict[str, Any]:
    """Take out of the file what a livekit.yaml calls by other names than we do."""
    values: dict[str, Any] = {}
    for (section, name), ours in _LIVEKIT_NAMES.items():
        place = found.get(section) if section else found
        if not isinstance(place, dict) or name not in place:
            continue
        if name == "urls" and not all(isinstance(url, str) for url in place[name]):
            continue  # targets with more than a URL: the webhook service reads them
        values[ours] = _LIVEKIT_FORMS.get(name, lambda value: value)(place.pop(name))
    return values


def _for_services(found: dict[str, Any], path: Path | None) -> Configuration:
    where = f"--config {path}"
    try:
        configuration = understood(found, where)
    except SettingsError as error:
        raise CommandError(str(error)) from None
    for name in configuration.values.get(ALL, {}):
        if name not in ChassisSettings.model_fields:
            raise CommandError(
                f"{where}: no setting {name!r}; there are {', '.join(_READ)}, "
                "and those of docs/operators/configuration.md"
            )
    return configuration


def _checked(settings: DevSettings) -> DevSettings:
    """Refuse what would be a hole or a contradiction."""
    if settings.port == settings.tcp_port:
        raise CommandError(f"--port and --tcp-port are both {settings.port}: give each its own")
    if settings.is_local or settings.insecure_dev_keys:
        return settings
    for key, secret in settings.keys.items():
        if (key, secret.get_secret_value()) in DEV_KEYS.items():
            raise CommandError(
                f"everybody knows the secret of {key!r}: beyond loopback give your own with "
                "--keys, or insist with --insecure-dev-keys"
            )
        if len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise CommandError(
                f"the secret of {key!r} is shorter than {MIN_SECRET_CHARACTERS} characters: beyond "
                "loopback give a longer one, or insist with --insecure-dev-keys"
            )
    return settings


def _port(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise CommandError(f"{_flag(name)}: {value!r} is not a port (1 to 65535)")
    return value


def _address(name: str, value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise CommandError(f"{_flag(name)}: {value!r} is not an IP address") from None


def _addresses(name: str, value: object) -> tuple[str, ...]:
    given = value if isinstance(value, list | tuple) else [value]
    if not given:
        raise CommandError(f"{_flag(name)}: no address given")
    return tuple(dict.fromkeys(_address(name, one) for one in given))


def _urls(name: str, value: object) -> tuple[str, ...]:
    given = value if isinstance(value, list | tuple) else [value]
    for one in given:
        if not str(one).startswith(("http://", "https://")):
            raise CommandError(f"{_flag(name)}: {one!r} is not of the form http://host/path")
    return tuple(dict.fromkeys(str(one) for one in given))


def _path(_name: str, value: object) -> Path:
    return Path(str(value)).expanduser()


def _flag_value(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise CommandError(f"{_flag(name)}: {value!r} is neither true nor false")
    return value


def _url(name: str, value: object) -> str:
    if not str(value).startswith(("http://", "https://")):
        raise CommandError(f"{_flag(name)}: {value!r} is not of the form http://host:4317")
    return str(value)


def _level(name: str, value: object) -> str:
    if value not in LOG_LEVELS:
        raise CommandError(f"{_flag(name)}: {value!r} is none of {', '.join(LOG_LEVELS)}")
    return str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


_READ: Final[Mapping[str, Any]] = {
    "port": _port,
    "bind": _addresses,
    "node_ip": _address,
    "udp_port": _port,
    "tcp_port": _port,
    "keys": lambda name, value: read_keys(value, name),
    "data_dir": _path,
    "web_dir": _path,
    "webhook_urls": _urls,
    "insecure_dev_keys": _flag_value,
    "log_level": _level,
    "log_json": _flag_value,
    "otlp_endpoint": _url,
}

_LIVEKIT_NAMES: Final[Mapping[tuple[str, str], str]] = {
    ("", "bind_addresses"): "bind",
    ("", "key_file"): "keys",
    ("rtc", "udp_port"): "udp_port",
    ("rtc", "tcp_port"): "tcp_port",
    ("rtc", "node_ip"): "node_ip",
    ("logging", "level"): "log_level",
    ("logging", "json"): "log_json",
    ("webhook", "urls"): "webhook_urls",
}
"""By section and name, those of a livekit.yaml that are settings of `dev` itself."""


def _file_text(path: object) -> str:
    try:
        return Path(str(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"key_file {path}: {error.__class__.__name__}") from None


_LIVEKIT_FORMS: Final[Mapping[str, Any]] = {
    "bind_addresses": lambda hosts: [host or "0.0.0.0" for host in hosts],
    "key_file": _file_text,
    "udp_port": lambda port: int(port.partition("-")[0]) if isinstance(port, str) else port,
    "node_ip": lambda ip: ip.get("ipv4") or ip.get("ipv6") if isinstance(ip, dict) else ip,
    "level": lambda level: "warning" if level == "warn" else level,
}

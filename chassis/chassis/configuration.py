"""One YAML file for all services: what of it is for whom. Pure: text in, values and warnings out.

    nats_url: nats://nats:4222        # a setting that every service has
    signaling:
      api_calls_per_second_per_key: 500
    room:                             # a livekit.yaml's own names
      empty_timeout: 60

Beside our names (docs/operators/configuration.md) the names of a livekit.yaml are understood where they mean the same
(features.md §17). Its other names are listed with what to do instead, and change nothing; a name that is neither is an
error. What it is not: validation of values, which the services' own settings do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import yaml

from chassis.errors import SettingsError

VARIABLE: Final = "ROOMWRIGHT_CONFIG"
"""Names the file in the environment."""
SERVICES: Final = ("signaling", "sfu", "placement", "webhook")
ALL: Final = ""
"""Stands for every service where a service's name is wanted."""

Read = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Configuration:
    """A file's settings by service, and what of it has no effect."""

    values: Mapping[str, Mapping[str, Any]]
    """By service; under `ALL` what stands at the top of the file."""
    warnings: tuple[str, ...]

    def of(self, service: str, known: Collection[str]) -> dict[str, Any]:
        """What a service with these settings is told.

        Raises `SettingsError` when the file's part for the service has a name that the service does not.
        """
        shared, own = self.values.get(ALL, {}), self.values.get(service, {})
        for where, names in (("", shared), (f"{service}.", own)):
            for name in names:
                if name not in known:
                    raise SettingsError(
                        f"configuration: no setting {where}{name}{_like(name, known)}"
                    )
        return {**shared, **own}


EMPTY: Final = Configuration(MappingProxyType({}), ())


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The setting of ours that a name of a livekit.yaml stands for."""

    service: str
    name: str
    read: Read = lambda value: value


def read(text: str, where: str = "configuration") -> Configuration:
    """A file's text, understood. Raises `SettingsError`, which names the place and never a value."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{where}: not YAML{line}") from None
    return understood({} if found is None else found, where)


def understood(found: Any, where: str = "configuration") -> Configuration:
    """See `read`, of YAML that is read already."""
    if not isinstance(found, Mapping):
        raise SettingsError(f"{where}: must be settings with names, like `port: 7880`")
    reading = _Reading(where)
    for name, value in found.items():
        if name in SERVICES or name in _SECTIONS:
            reading.section(str(name), value)
        else:
            reading.single(str(name), value)
    _listen(found, reading.theirs, where)
    # Who writes both means our own name.
    services = {
        service: {**reading.theirs.get(service, {}), **reading.ours.get(service, {})}
        for service in {*reading.theirs, *reading.ours}
    }
    return Configuration(services, tuple(f"{where}: {text}" for text in reading.warnings))


class _Reading:
    """What was found so far, in our names and through those of a livekit.yaml."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ours: dict[str, dict[str, Any]] = {}
        self.theirs: dict[str, dict[str, Any]] = {}
        self.warnings: list[str] = []

    def single(self, name: str, value: Any) -> None:
        """A name at the top."""
        if name in _PORT:
            return
        if name in COUNTERPARTS:
            self._put(name, value)
        elif name in INSTEAD:
            self.warnings.append(_without_effect(name))
        else:
            self.ours.setdefault(ALL, {})[name] = value

    def section(self, name: str, content: Any) -> None:
        """Names below a name."""
        if content is None:
            return
        if not isinstance(content, Mapping):
            raise SettingsError(f"{self.where}: {name} must be settings with names")
        for key, value in content.items():
            path = f"{name}.{key}"
            if path in COUNTERPARTS:
                self._put(path, value)
            elif path in _NESTED:
                self.section(path, value)
            elif name in SERVICES and path not in INSTEAD:
                self.ours.setdefault(name, {})[str(key)] = value
            else:
                self.warnings.append(_without_effect(path))

    def _put(self, path: str, value: Any) -> None:
        if value is None:
            return
        counterpart = COUNTERPARTS[path]
        try:
            read = counterpart.read(value)
        except ValueError as error:
            raise SettingsError(f"{self.where}: {path}: {error}") from None
        except (TypeError, KeyError, AttributeError):
            raise SettingsError(
                f"{self.where}: {path}: not of the form it has in a livekit.yaml"
            ) from None
        into = self.theirs.setdefault(counterpart.service, {})
        into.update(read if isinstance(read, _Several) else {counterpart.name: read})


class _Several(dict[str, Any]):
    """One name of theirs that stands for several of ours."""


def _listen(found: Mapping[Any, Any], theirs: dict[str, dict[str, Any]], where: str) -> None:
    """`port` and `bind_addresses` make up one setting."""
    if not any(name in found for name in _PORT):
        return
    try:
        port, given = _port(found.get("port", 7880)), found.get("bind_addresses") or ["0.0.0.0"]
    except ValueError as error:
        raise SettingsError(f"{where}: port: {error}") from None
    if not isinstance(given, list):
        raise SettingsError(f"{where}: bind_addresses: not a list")
    hosts = [str(host) or "0.0.0.0" for host in given]
    theirs.setdefault("signaling", {})["http_addresses"] = tuple(
        _place(host, port) for host in hosts
    )


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError("not a port (1 to 65535)")
    return value


def _level(value: Any) -> str:
    return "warning" if value == "warn" else str(value)


def _udp_port(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and "-" in value:
        value = int(value.partition("-")[0])  # one socket takes what a range did
    return (_place("0.0.0.0", _port(value)),)


def _tcp_port(value: Any) -> tuple[str, ...]:
    return () if value == 0 else (_place("0.0.0.0", _port(value)),)


def _node_ip(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(str(value[family]) for family in ("ipv4", "ipv6") if value.get(family))
    return str(value)


def _stun_servers(value: Any) -> _Several:
    servers = tuple(str(server) for server in value)
    return _Several(stun_servers=servers, client_stun_servers=servers)


def _turn_servers(value: Any) -> tuple[dict[str, Any], ...]:
    names = {
        "host": "host",
        "port": "port",
        "protocol": "protocol",
        "username": "username",
        "credential": "credential",
        "ttl": "ttl_s",
    }
    servers = []
    for server in value:
        unknown = sorted(str(name) for name in server if name not in names)
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: write the server in sfu.turn_servers, where a shared secret is a file"
            )
        servers.append({names[name]: inner for name, inner in server.items()})
    return tuple(servers)


def _codecs(value: Any) -> tuple[str, ...]:
    return tuple(str(codec["mime"] if isinstance(codec, Mapping) else codec) for codec in value)


def _selector(value: Any) -> Any:
    return _Several(node_selector="any", node_sort_by="random") if value == "random" else value


COUNTERPARTS: Final[Mapping[str, Counterpart]] = MappingProxyType(
    {
        "keys": Counterpart(
            ALL, "api_keys", lambda keys: {str(k): str(v) for k, v in keys.items()}
        ),
        "key_file": Counterpart(ALL, "api_keys_file"),
        "logging.level": Counterpart(ALL, "log_level", _level),
        "logging.json": Counterpart(ALL, "log_json"),
        "enable_data_tracks": Counterpart("sfu", "enable_data_tracks"),
        "enable_participant_data_blob": Counterpart("sfu", "enable_data_blobs"),
        "rtc.udp_port": Counterpart("sfu", "udp_addresses", _udp_port),
        "rtc.tcp_port": Counterpart("sfu", "tcp_addresses", _tcp_port),
        "rtc.node_ip": Counterpart("sfu", "node_ip", _node_ip),
        "rtc.stun_servers": Counterpart("sfu", "stun_servers", _stun_servers),
        "rtc.turn_servers": Counterpart("sfu", "turn_servers", _turn_servers),
        "audio.active_red_encoding": Counterpart("sfu", "active_red_encoding"),
        "video.codec_regression_threshold": Counterpart("sfu", "codec_regression_threshold"),
        "room.auto_create": Counterpart("signaling", "auto_create"),
        "room.enabled_codecs": Counterpart("sfu", "enabled_codecs", _codecs),
        "room.max_participants": Counterpart("sfu", "max_participants"),
        "room.empty_timeout": Counterpart("sfu", "empty_timeout_s"),
        "room.departure_timeout": Counterpart("sfu", "departure_timeout_s"),
        "room.enable_remote_unmute": Counterpart("sfu", "enable_remote_unmute"),
        "room.enable_full_room_in_webhooks": Counterpart("sfu", "enable_full_room_in_webhooks"),
        "room.room_configurations": Counterpart("sfu", "room_presets"),
        "webhook.urls": Counterpart("webhook", "urls", tuple),
        "webhook.api_key": Counterpart("webhook", "api_key"),
        "webhook.filter_params.include_events": Counterpart("webhook", "include_events", tuple),
        "webhook.filter_params.exclude_events": Counterpart("webhook", "exclude_events", tuple),
        "node_selector.kind": Counterpart("placement", "node_selector", _selector),
        "node_selector.sort_by": Counterpart("placement", "node_sort_by"),
        "node_selector.algorithm": Counterpart("placement", "node_algorithm"),
        "node_selector.cpu_load_limit": Counterpart("placement", "cpu_load_limit"),
        "node_selector.sysload_limit": Counterpart("placement", "system_load_limit"),
        "node_selector.regions": Counterpart("placement", "regions", tuple),
        "limit.num_tracks": Counterpart("sfu", "track_limit", lambda limit: max(limit, 0)),
        "limit.bytes_per_sec": Counterpart("sfu", "bytes_per_s_limit"),
        "limit.subscription_limit_video": Counterpart("sfu", "subscription_limit_video"),
        "limit.subscription_limit_audio": Counterpart("sfu", "subscription_limit_audio"),
        "limit.max_metadata_size": Counterpart("sfu", "max_metadata_bytes"),
        "limit.max_attributes_size": Counterpart("sfu", "max_attributes_bytes"),
        "limit.max_participant_name_length": Counterpart("sfu", "max_name_bytes"),
    }
)
"""Names of a livekit.yaml that have a counterpart here; `port` and `bind_addresses` make `signaling.http_addresses`."""

INSTEAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "redis": "the bus is NATS: nats_url",
        "turn": "run a TURN server such as coturn and name it in sfu.turn_servers",
        "prometheus": "every service has its metrics at /metrics of health_address",
        "prometheus_port": "every service has its metrics at /metrics of health_address",
        "debug_handler": "every service has /debug at health_address",
        "development": "dev_keys accepts short secrets, log_level says more",
        "trace": "otlp_endpoint",
        "rtc.port_range_start": "one UDP port carries all: rtc.udp_port",
        "rtc.port_range_end": "one UDP port carries all: rtc.udp_port",
        "rtc.use_external_ip": "sfu.stun_servers are asked for the public address, or give sfu.node_ip",
        "rtc.interfaces": "sfu.udp_addresses says where media is taken",
        "rtc.ips": "sfu.udp_addresses says where media is taken",
        "webhook.url_notifier": "webhook.in_flight, webhook.timeout_s, webhook.give_up_after_s",
        "webhook.resource_url_notifier": "facts wait on disk: webhook.give_up_after_s",
        "ingress": "",
        "sip": "",
        "signal_relay": "",
        "psrpc": "",
        "agents": "",
        "metric": "",
        "node_stats": "",
        "api": "",
    }
)
"""Names of a livekit.yaml that have no effect, and what to use in their place."""

_PORT: Final = ("port", "bind_addresses")
_NESTED: Final = frozenset({"webhook.filter_params"})
_SECTIONS: Final = frozenset(
    {path.partition(".")[0] for path in COUNTERPARTS if "." in path}
    | {"ingress", "sip", "redis", "turn", "prometheus", "trace", "signal_relay", "psrpc"}
    | {"agents", "metric", "node_stats", "api", "debug_handler"}
) - set(SERVICES)


def _without_effect(path: str) -> str:
    instead = INSTEAD.get(path) or INSTEAD.get(path.partition(".")[0], "")
    return f"{path} has no effect here" + (f"; {instead}" if instead else "")


def _like(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; is it {near[0]}?" if near else "; see docs/operators/configuration.md"

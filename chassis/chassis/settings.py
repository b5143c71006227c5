"""The settings every service has. A service's own `Settings` extends these with its own prefix.

Read once, in `__main__`, from the environment (`ROOMWRIGHT_NATS_URL=...`; a service puts its own
name in place of ROOMWRIGHT) and, below it, from the file that ROOMWRIGHT_CONFIG names; passed down as plain
values after that.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from chassis import configuration, ids
from chassis.configuration import Configuration
from chassis.errors import SettingsError
from chassis.roles import Role, parse_roles

MIN_SECRET_CHARACTERS = 32
"""An API secret shorter than this can be guessed from one token offline."""


def parse_keys(text: str) -> dict[str, str]:
    """API keys from text: `key: secret` lines (comments allowed), or a JSON object.

    Errors name the line, never its content.
    """
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            raise SettingsError("API keys: not a JSON object") from None
        return {str(key): str(secret) for key, secret in found.items()}
    keys: dict[str, str] = {}
    for number, line in enumerate(text.replace(",", "\n").splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, colon, secret = stripped.partition(":")
        key, secret = key.strip().strip("\"'"), secret.strip().strip("\"'")
        if not colon or not key or not secret:
            raise SettingsError(f"API keys: entry {number} is not of the form 'key: secret'")
        keys[key] = secret
    return keys


def _keys(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_keys(value)
    except SettingsError as error:
        raise ValueError(str(error)) from None


def _projects(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("not a JSON object") from None
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not key.strip() or not project.strip() for key, _, project in pairs):
        raise ValueError("write it as key=project,key=project")
    return {key.strip(): project.strip() for key, _, project in pairs}


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("not a JSON list") from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _roles(value: Any) -> dict[str, Role]:
    try:
        return parse_roles(value)
    except SettingsError as error:
        raise ValueError(str(error)) from None


RolesSetting = Annotated[dict[str, Role], NoDecode, BeforeValidator(_roles)]
"""In the environment a JSON object: `{"guest": {"canPublish": false}}`; the built-in roles are always there."""

TextList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
"""Several texts; in the environment separated by commas, or a JSON list."""


def configured() -> Configuration:
    """What the file that ROOMWRIGHT_CONFIG names holds, as it is now; raises `SettingsError`."""
    path = os.environ.get(configuration.VARIABLE)
    return configuration.EMPTY if not path else configuration.read(_text_of_file(path), path)


def _text_of_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration {path}: {error.__class__.__name__}") from None


class _FromFile(PydanticBaseSettingsSource):
    """The configuration file's part for a service, as pydantic-settings asks for it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: `__call__` gives all at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        prefix = str(self.config.get("env_prefix", ""))
        service = prefix.rstrip("_").lower()
        return configured().of(service, self.settings_cls.model_fields)


class ChassisSettings(BaseSettings):
    """What every service can be told; durations carry their unit in the name."""

    model_config = SettingsConfigDict(
        env_prefix="ROOMWRIGHT_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    node_id: str = Field(default_factory=lambda: ids.new_node_id(secrets.choice))
    """Who this process is in the cluster; made anew at each start unless given."""
    region: str = ""
    """Where this process runs; placement prefers nodes of the client's region."""

    nats_url: str = "nats://127.0.0.1:4222"
    """One address, or several separated by commas."""
    nats_user: str = ""
    nats_password: SecretStr = SecretStr("")
    nats_password_file: Path | None = None
    """A file that holds the password, in place of `nats_password`."""
    nats_replicas: int = Field(default=1, ge=1, le=5)
    """Copies of each stream and bucket."""

    grpc_address: str = "127.0.0.1:0"
    """Where this service's gRPC server listens; port 0 picks a free one."""
    grpc_advertise: str = ""
    """host:port that other services reach `grpc_address` under; empty: the bound address."""
    health_address: str = "127.0.0.1:0"
    """Where /healthz, /readyz and /metrics are served; port 0 picks a free one."""

    internal_token: SecretStr = SecretStr("")
    """Shared by all services: proves to a gRPC server that its caller is one of them."""
    internal_token_file: Path | None = None
    """A file that holds the token, in place of `internal_token`."""
    internal_tls_directory: Path | None = None
    """A directory with ca.crt, tls.crt and tls.key: gRPC between services is encrypted, and both ends show a
    certificate of this authority for the name `roomwright.internal`. None: the token is the only proof."""
    insecure: bool = False
    """Let services call each other without `internal_token`. For closed networks only."""

    api_keys: Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_keys)] = Field(
        default_factory=dict
    )
    """API key to secret: a mapping, a JSON object, or `key: secret` lines. The first key signs."""
    api_keys_file: Path | None = None
    """A file of `key: secret` lines, in place of `api_keys`; changes are taken over while the service runs."""
    api_keys_directory: Path | None = None
    """A directory of files that are named as the key and hold the secret, as Kubernetes mounts a Secret; beside the
    file, and read again like it."""
    api_key_projects: Annotated[dict[str, str], NoDecode, BeforeValidator(_projects)] = Field(
        default_factory=dict
    )
    """API key to project, the namespace of its rooms, for those that are not of the default one: a mapping, a JSON
    object, or `key=project` pairs separated by commas."""
    dev_keys: bool = False
    """Accept API secrets shorter than 32 characters. For a laptop only."""

    log_level: str = "info"
    log_json: bool = True
    otlp_endpoint: str | None = None
    """Where traces go over OTLP (gRPC), `http://collector:4317`; none: they are not exported."""
    otlp_sample_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the traces beginning here that are exported; the other services follow suit."""
    drain_timeout_s: float = 30.0
    """How long a stop waits for work to end before the process goes anyway."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code wins over the environment, which wins over the configuration file."""
        return init_settings, env_settings, _FromFile(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        read: dict[str, Any] = {
            name: _text_of(path, what)
            for name, what in _SECRET_FILES.items()
            if (path := values.get(f"{name}_file"))
        }
        directory = values.get("api_keys_directory")
        if directory:
            given = _keys(read.get("api_keys", values.get("api_keys", {})))
            read["api_keys"] = {**given, **_keys_in(Path(directory))}
        return {**values, **read}

    @model_validator(mode="after")
    def _refuse_short_secrets(self) -> ChassisSettings:
        if self.dev_keys:
            return self
        _refuse_short(self.api_keys)
        return self


def read_keys(
    file: Path | None, directory: Path | None, *, dev_keys: bool = False
) -> dict[str, SecretStr]:
    """The keys of a file and of a directory, as they are now. Raises `SettingsError`, which never quotes a secret."""
    try:
        texts = _keys(_text_of(file, "API keys")) if file is not None else {}
        if directory is not None:
            texts = {**texts, **_keys_in(directory)}
        keys = {name: SecretStr(secret) for name, secret in texts.items()}
        if not dev_keys:
            _refuse_short(keys)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return keys


def _keys_in(directory: Path) -> dict[str, str]:
    try:
        # Names with a dot at their beginning are how Kubernetes swaps the content.
        paths = [path for path in directory.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"API keys directory {directory}: {error.__class__.__name__}") from None
    return {path.name: _text_of(path, "API keys") for path in sorted(paths) if path.is_file()}


def _refuse_short(keys: Mapping[str, SecretStr]) -> None:
    for key, secret in keys.items():
        if len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(
                f"the secret of API key {key!r} is shorter than {MIN_SECRET_CHARACTERS} characters"
            )


_SECRET_FILES = {
    "api_keys": "API keys",
    "internal_token": "internal token",
    "nats_password": "NATS password",
}


_GUARDED = frozenset({"API keys"})
"""Whoever reads these makes tokens for anybody."""


def _text_of(path: str | Path, what: str) -> str:
    """A file's text without the space around it; ValueError names the file, never its content."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
        is_open = what in _GUARDED and bool(Path(path).stat().st_mode & stat.S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} file {path}: {error.__class__.__name__}") from None
    if is_open:
        raise ValueError(
            f"{what} file {path} is open to every user of the machine: chmod o= {path}"
        )
    if not text:
        raise ValueError(f"{what} file {path} is empty")
    return text

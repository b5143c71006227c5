"""Who is told what: the targets as configured, and their filters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from chassis.errors import SettingsError

EVENTS: Final = frozenset(
    {
        "room_started",
        "room_finished",
        "participant_joined",
        "participant_left",
        "participant_connection_aborted",
        "track_published",
        "track_unpublished",
        "egress_started",
        "egress_updated",
        "egress_ended",
        "ingress_started",
        "ingress_ended",
        "agent_job_started",
        "agent_job_ended",
    }
)
"""Every name an event can have (protocol.md section 9)."""
EVERYBODY: Final = "*"
_FIELDS: Final = frozenset({"url", "api_key", "project", "include_events", "exclude_events"})


@dataclass(frozen=True, slots=True)
class Target:
    """One URL that is told of events; `api_key` "": the service's."""

    url: str
    api_key: str = ""
    project: str = ""
    """The namespace whose rooms it is told of."""
    include_events: frozenset[str] = frozenset()
    """These alone; empty: all."""
    exclude_events: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Names the target in records and commands; the same for as long as its URL and project are."""
        return hashlib.sha256(f"{self.project}\n{self.url}".encode()).hexdigest()[:12]

    @property
    def shown(self) -> str:
        """The URL without what may be a secret in it: user, password, query."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"

    def wants(self, event: str, project: str, replay_to: str) -> bool:
        """Is this target to be told of such a fact?"""
        if project != self.project:
            return False
        if replay_to not in ("", EVERYBODY, self.id):
            return False
        if self.include_events and event not in self.include_events:
            return False
        return event not in self.exclude_events


def parse_targets(
    values: Sequence[object], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[Target, ...]:
    """Targets of URLs, or of objects with a `url`; `include` and `exclude` are for those without their own.

    Raises `SettingsError` that says what is wrong, without a URL's secrets.
    """
    targets: dict[str, Target] = {}
    for number, value in enumerate(values, start=1):
        target = _target(f"target {number}", value, include, exclude)
        if target.id in targets:
            raise SettingsError(f"target {number} is there twice")
        targets[target.id] = target
    return tuple(targets.values())


def listed(value: Any) -> Any:
    """Text of the environment as a list: JSON, or URLs separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("not a JSON list") from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _target(what: str, value: object, include: Sequence[str], exclude: Sequence[str]) -> Target:
    given: Mapping[str, Any] = {"url": value} if isinstance(value, str) else _object(what, value)
    unknown = sorted(set(given) - _FIELDS)
    if unknown:
        known = ", ".join(sorted(_FIELDS))
        raise SettingsError(f"{what}: no field {unknown[0]!r}; there are {known}")
    url = given.get("url", "")
    if not isinstance(url, str) or not _is_url(url):
        raise SettingsError(f"{what}: its url is not of the form https://host/path")
    return Target(
        url=url,
        api_key=_text(what, given, "api_key"),
        project=_text(what, given, "project"),
        include_events=_events(what, given.get("include_events", include)),
        exclude_events=_events(what, given.get("exclude_events", exclude)),
    )


def _object(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{what} is neither a URL nor an object with a url")
    return value


def _text(what: str, given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise SettingsError(f"{what}: {name} is not a text")
    return value


def _events(what: str, names: object) -> frozenset[str]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise SettingsError(f"{what}: events are a list of names")
    for name in names:
        if name not in EVENTS:
            known = ", ".join(sorted(EVENTS))
            raise SettingsError(f"{what}: there is no event {str(name)[:64]!r}; there are {known}")
    return frozenset(str(name) for name in names)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False

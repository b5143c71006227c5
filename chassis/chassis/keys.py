"""API keys that change while services run: given by settings or a file, and by the bucket `keys`.

Several are good at once, so that a key is replaced without a gap: add the new one, change who signs, take the old one
away. A record of the bucket wins over what is given, so that a key can be disabled for the whole cluster at once. What
it is not: a judge of tokens (`chassis.tokens`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from google.protobuf.message import DecodeError
from pydantic import SecretStr

from chassis.errors import SettingsError
from chassis.kv import Change, Deleted, Entry, Kv
from chassis.settings import ChassisSettings, read_keys
from contracts.access.v1 import access_pb2

log = structlog.get_logger(__name__)

POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is now."""

    secret: SecretStr
    project: str = ""
    not_after: float = 0.0
    """Unix seconds; 0: no end."""
    disabled: bool = False


class ApiKeys:
    """All keys a service knows."""

    def __init__(
        self,
        given: Mapping[str, SecretStr],
        projects: Mapping[str, str],
        wall_s: Callable[[], float],
    ) -> None:
        self._given = dict(given)
        self._projects = dict(projects)
        self._records: dict[str, access_pb2.KeyRecord] = {}
        self._wall_s = wall_s

    def get(self, name: str, /) -> SecretStr | None:
        """The secret; None: there is no such key, or it is good no more."""
        key = self._find(name)
        return None if key is None else key.secret

    def project_of(self, name: str) -> str:
        """The namespace of a key."""
        record = self._records.get(name)
        if record is not None and record.secret:
            return record.project
        return self._projects.get(name, "")

    def signing(self, project: str = "") -> tuple[str, SecretStr] | None:
        """The key that signs for a project: the first given one, else of the bucket by name; None: there is none."""
        for name in (*self._given, *sorted(self._records)):
            key = self._find(name)
            if key is not None and key.project == project:
                return name, key.secret
        return None

    def give(self, given: Mapping[str, SecretStr]) -> None:
        """What settings or files say now."""
        self._given = dict(given)

    def learn(self, change: Change) -> None:
        """What the bucket says now."""
        match change:
            case Entry(name, value):
                try:
                    self._records[name] = access_pb2.KeyRecord.FromString(value)
                except DecodeError:
                    log.error("the record of an API key cannot be read", api_key=name)  # noqa: TRY400
            case Deleted(name):
                self._records.pop(name, None)
            case _:
                pass

    async def follow_bucket(self, open_bucket: Callable[[], Awaitable[Kv]]) -> None:
        """Learn of every change until canceled."""
        async for change in (await open_bucket()).watch():
            self.learn(change)

    async def follow_files(self, settings: ChassisSettings) -> None:
        """Read the file and the directory again and again, and take over what changed, until canceled."""
        if settings.api_keys_file is None and settings.api_keys_directory is None:
            await asyncio.Event().wait()
            return
        fault = ""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                given = await asyncio.to_thread(_given_now, settings)
            except SettingsError as error:
                if str(error) != fault:
                    log.error("API keys stay as they are", fault=str(error))  # noqa: TRY400
                fault = str(error)
                continue
            fault = ""
            if given != self._given:
                log.info(
                    "API keys changed",
                    added=sorted(given.keys() - self._given.keys()),
                    removed=sorted(self._given.keys() - given.keys()),
                )
                self.give(given)

    def _find(self, name: str) -> ApiKey | None:
        record = self._records.get(name)
        secret = SecretStr(record.secret) if record and record.secret else self._given.get(name)
        if secret is None:
            return None
        if record is not None and record.disabled:
            return None
        if record is not None and record.not_after and self._wall_s() > record.not_after:
            return None
        return ApiKey(secret, self.project_of(name))


def _given_now(settings: ChassisSettings) -> dict[str, SecretStr]:
    return read_keys(
        settings.api_keys_file, settings.api_keys_directory, dev_keys=settings.dev_keys
    )

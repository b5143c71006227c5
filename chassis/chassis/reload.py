"""Settings that change while a service runs: the configuration file is looked at again and again.

What it is not: a change of all settings. A service is given the new ones and takes over those that it can change in
the middle of its work, its limits and its targets; the others count from the next start on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog
from pydantic import ValidationError

from chassis import configuration
from chassis.errors import SettingsError
from chassis.run import settings_error_text
from chassis.settings import ChassisSettings

log = structlog.get_logger(__name__)
S = TypeVar("S", bound=ChassisSettings)
POLL_S: Final = 2.0


async def follow_configuration(
    settings: S, apply: Callable[[S], Awaitable[None]], poll_s: float = POLL_S
) -> None:
    """Call `apply` with new settings whenever the file that ROOMWRIGHT_CONFIG names has changed; without one, wait.

    A file that is not there or not right changes nothing, and a warning says why. Runs until canceled.
    """
    path = os.environ.get(configuration.VARIABLE)
    if not path:
        await asyncio.Event().wait()
        return
    seen = _text(path)
    while True:
        await asyncio.sleep(poll_s)
        text = _text(path)
        if text == seen:
            continue
        seen = text
        try:
            found = type(settings)()
        except (ValidationError, SettingsError, ValueError) as error:
            log.warning(
                "the changed configuration is not right, what was stays",
                error=settings_error_text(error),
            )
            continue
        await apply(found)
        log.info("the changed configuration is taken over")


def _text(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""

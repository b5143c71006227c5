"""What known clients do badly: a table of rules, and the ClientConfiguration they make.

Rules add up. Fields of ClientInfo are compared without regard to case; what is not in the table gets
an empty configuration. Negotiation has its own knowledge of clients (codecs.ClientTraits).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from livekit.protocol import models

FIREFOX = frozenset({"firefox", "firefox mobile"})


@dataclass(frozen=True, slots=True)
class Rule:
    """Codecs that clients of one sort are told not to use at all, or not to publish."""

    matches: Callable[[models.ClientInfo], bool]
    disabled: tuple[str, ...] = ()
    not_published: tuple[str, ...] = ()


def client_configuration(info: models.ClientInfo) -> models.ClientConfiguration:
    """What a client is told of itself in join and reconnect."""
    configuration = models.ClientConfiguration()
    for rule in RULES:
        if rule.matches(info):
            for mime in rule.disabled:
                configuration.disabled_codecs.codecs.add(mime=mime)
            for mime in rule.not_published:
                configuration.disabled_codecs.publish.add(mime=mime)
    return configuration


def _is_safari(info: models.ClientInfo) -> bool:
    return info.browser.lower() == "safari"


def _is_newer_safari(info: models.ClientInfo) -> bool:
    return _is_safari(info) and _version(info.browser_version) > (18, 3)


def _has_poor_h264(info: models.ClientInfo) -> bool:
    os = info.os.lower()
    is_firefox = info.browser.lower() in FIREFOX and os in {"linux", "android"}
    return is_firefox or (os == "android" and info.device_model.lower() == "xiaomi 2201117ti")


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    return (
        int(major) if major.isdecimal() else 0,
        int(minor) if minor.isdecimal() else 0,
    )


RULES = (
    Rule(_is_safari, disabled=("video/AV1",)),
    Rule(_is_newer_safari, not_published=("video/VP9",)),
    Rule(_has_poor_h264, not_published=("video/H264",)),
)

"""`roomwright token`: prints an access token, and nothing else, on stdout."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Final

from chassis.errors import TokenError
from chassis.tokens import VIDEO_GRANT_NAMES, Grants, VideoGrant, sign
from roomwright import dev_settings
from roomwright.errors import CommandError


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "token",
        help="print an access token",
        description="Prints an access token for a room, signed with the first API key.",
        epilog=f"Grants: {', '.join(sorted(VIDEO_GRANT_NAMES))}.",
    )
    add = parser.add_argument
    add("--room", default="", help="the room it lets its bearer into")
    add("--identity", default="", help="who the bearer is; must be unique in a room")
    add("--name", default="", help="the name others see")
    add("--metadata", default="", help="the participant's metadata")
    add("--valid-for", default="6h", metavar="TIME", help="30s, 15m, 6h or 7d (default 6h)")
    add(
        "--grant",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="one more grant, as the token spells it: roomAdmin, canPublish=false, "
        "canPublishSources=camera,microphone; may be repeated",
    )
    add("--keys", metavar='"KEY: SECRET"', help="as for dev (default devkey: secret)")
    add("--config", type=Path, metavar="FILE", help="take the keys from a file made for dev")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the token."""
    settings = dev_settings.read({"keys": options.keys, "insecure_dev_keys": True}, options.config)
    key, secret = next(iter(settings.keys.items()))
    grants = Grants(
        identity=options.identity,
        name=options.name,
        metadata=options.metadata,
        video=video_grant(options.room, options.grant),
    )
    if grants.video.room_join and not options.identity:
        raise CommandError("a token that joins a room needs --identity")
    valid_for_s = seconds(options.valid_for)
    if not options.room and not options.grant:
        raise CommandError("a token needs --room and --identity to join, or --grant for the API")
    sys.stdout.write(sign(grants, key, secret, valid_for_s) + "\n")


def video_grant(room: str, given: list[str]) -> VideoGrant:
    """The grant for `room` (joining it, unless told otherwise) with NAME[=VALUE] additions."""
    claim: dict[str, Any] = {"room": room, "roomJoin": True} if room else {}
    for text in given:
        name, equals, value = text.partition("=")
        if name not in VIDEO_GRANT_NAMES:
            raise CommandError(
                f"--grant {name}: no such grant; there are {', '.join(sorted(VIDEO_GRANT_NAMES))}"
            )
        claim[name] = _value(name, value if equals else "true")
    try:
        grant = VideoGrant.from_claim(claim)
    except TokenError as error:
        raise CommandError(f"--grant: {str(error).rpartition('claim video.')[2]}") from None
    if claim.get("roomJoin") and not claim.get("room"):
        raise CommandError("a token that joins needs --room")
    return grant


def seconds(text: str) -> float:
    """A duration like 30s, 15m, 6h or 7d."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise CommandError(
            f"--valid-for {text!r}: write a number and a unit, like 30s, 15m, 6h, 7d"
        )
    return float(int(found[1]) * _UNITS[found[2]])


def _value(name: str, text: str) -> bool | str | list[str]:
    if name in ("room", "destinationRoom"):
        return text
    if name == "canPublishSources":
        return [source.strip() for source in text.split(",") if source.strip()]
    if text not in ("true", "false"):
        raise CommandError(f"--grant {name}: {text!r} is neither true nor false")
    return text == "true"


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

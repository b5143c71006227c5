"""`roomwright-signaling token`: a token that joins one room, signed with the first API key of this replica.

For trying an installation from a shell in its pod. What it is not: `roomwright token`, which knows every grant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from chassis.tokens import Grants, VideoGrant, sign
from signaling.settings import SignalingSettings


def main(arguments: Sequence[str]) -> None:
    """Print the token and nothing else on stdout; exits with a sentence when there is no key."""
    options = _parser().parse_args(arguments)
    try:
        keys = SignalingSettings().api_keys
    except ValidationError as error:
        reasons = "; ".join(problem["msg"] for problem in error.errors(include_input=False))
        sys.exit(f"the settings cannot be used: {reasons}")
    if not keys:
        sys.exit("there is no API key here: set SIGNALING_API_KEYS_FILE")
    key, secret = next(iter(keys.items()))
    grants = Grants(
        identity=options.identity,
        name=options.name,
        video=VideoGrant.from_claim({"room": options.room, "roomJoin": True}),
    )
    sys.stdout.write(sign(grants, key, secret, options.hours * 3600) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="roomwright-signaling")
    commands = parser.add_subparsers(dest="command", required=True)
    token = commands.add_parser("token", help="print a token that joins a room")
    token.add_argument("--room", required=True, type=_text, help="the room it lets its bearer into")
    token.add_argument("--identity", required=True, type=_text, help="who the bearer is")
    token.add_argument("--name", default="", help="the name others see")
    token.add_argument("--hours", type=_hours, default=6.0, help="how long it is valid (6)")
    return parser


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= 24 * 365:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of hours above 0 and up to 8760"
        )
    return hours

"""`roomwright events`: what happened in a room, asked of a server."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chassis.tokens import Grants, VideoGrant, sign
from roomwright import dev_settings
from roomwright.errors import CommandError
from roomwright.token_command import seconds

PAGE: Final = 1000
TIMEOUT_S: Final = 30.0


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "events",
        help="what happened in a room: who came when, published what, left why",
        description="Prints what happened in a room, or in all rooms of the key's project, as far back as it is kept "
        "(7 days).",
    )
    add = parser.add_argument
    add("--url", default="http://localhost:7880", help="the server (default http://localhost:7880)")
    add("--keys", metavar='"KEY: SECRET"', help="as for dev (default devkey: secret)")
    add("--config", type=Path, metavar="FILE", help="take the keys from a file made for dev")
    add("--room", default="", help="its name; without it, every room")
    add("--sid", default="", metavar="RM_...", help="one life of the room")
    add("--identity", default="", help="of this participant alone")
    add(
        "--event",
        action="append",
        default=[],
        metavar="NAME",
        help="room_started, ...; may be repeated",
    )
    add("--since", default="", metavar="TIME", help="not older than 30s, 15m, 2h or 7d")
    add("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the events, oldest first."""
    settings = dev_settings.read({"keys": options.keys, "insecure_dev_keys": True}, options.config)
    key, secret = next(iter(settings.keys.items()))
    video = (
        VideoGrant(room_admin=True, room=options.room)
        if options.room
        else VideoGrant(room_list=True)
    )
    token = sign(Grants(identity="roomwright events", video=video), key, secret, 600)
    request: dict[str, Any] = {
        "room": options.room,
        "room_sid": options.sid,
        "identity": options.identity,
        "events": options.event,
        "since": int(time.time() - seconds(options.since)) if options.since else 0,
        "limit": PAGE,
    }
    for event in _events(options.url, token, request):
        sys.stdout.write((json.dumps(event) if options.json else _line(event)) + "\n")


def _events(url: str, token: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while True:
        page = _asked(url, token, request)
        yield from page["events"]
        if page["page_token"] in ("", "0", 0):
            return
        request = {**request, "page_token": page["page_token"]}


def _asked(url: str, token: str, request: dict[str, Any]) -> Any:
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--url {url}: not of the form http://host:7880")
    asked = urllib.request.Request(
        f"{url.rstrip('/')}/twirp/roomwright.EventService/ListEvents",
        data=json.dumps(request).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read(500).decode(errors="replace")
        raise CommandError(f"{url} answered {error.code}: {text}") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{url} does not answer: {error}") from None


def _line(event: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(int(event["created_at"]), UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    track = " ".join(
        word.lower()
        for word in (event["track_source"], event["mime_type"], event["track_sid"])
        if word
    )
    parts = [at, event["room"], event["event"], event["identity"], track, event["reason"]]
    return "  ".join(part for part in parts if part)

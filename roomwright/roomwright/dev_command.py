"""`roomwright dev`: its flags, and what it says."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from chassis import logs
from chassis.run import run_loop
from roomwright import dev, dev_settings
from roomwright.dev_settings import KEYS_VARIABLE, LOG_LEVELS

DESCRIPTION = """\
Runs all services in one process beside a private nats-server, and prints a URL, a token and a link
to a page that two browser tabs can talk with. Listens on loopback only unless told otherwise.
Ctrl-C ends it: at once when nobody is in a call, else after a few seconds for them to leave; a
second Ctrl-C ends their calls now.
"""


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "dev",
        help="run everything on this machine",
        description=DESCRIPTION,
        epilog="Every flag can stand in the --config file under its name: `udp_port: 7982`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, help="HTTP and WebSocket (default 7880)")
    add(
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="listen on this IP address; may be repeated (default 127.0.0.1 and ::1)",
    )
    add(
        "--node-ip",
        metavar="ADDRESS",
        help="the address clients send media to (default: as bound, or found for 0.0.0.0)",
    )
    add("--udp-port", type=int, metavar="PORT", help="media over UDP (default 7882)")
    add("--tcp-port", type=int, metavar="PORT", help="media over TCP (default 7881)")
    add(
        "--keys",
        metavar='"KEY: SECRET"',
        help=f"API keys, separated by commas; also {KEYS_VARIABLE} (default devkey: secret)",
    )
    add("--data-dir", metavar="DIR", help="what nats-server keeps (default .roomwright)")
    add("--web-dir", metavar="DIR", help="the built page (default web/dist of the checkout)")
    add(
        "--webhook-url",
        dest="webhook_urls",
        action="append",
        metavar="URL",
        help="tell this URL what happens in rooms; may be repeated",
    )
    add("--config", type=Path, metavar="FILE", help="settings in YAML; flags win over it")
    add(
        "--insecure-dev-keys",
        action="store_true",
        default=None,
        help="accept devkey and other short secrets on addresses beyond loopback",
    )
    add("--log-level", choices=LOG_LEVELS, help="how much to log (default warning)")
    add("--log-json", action="store_true", default=None, help="log in JSON, as services alone do")
    add(
        "--otlp-endpoint",
        metavar="URL",
        help="send the trace of every join and API call there over OTLP (gRPC)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run until Ctrl-C."""
    flags = {name: value for name, value in vars(options).items() if name not in ("run", "config")}
    settings = dev_settings.read(flags, options.config)
    logs.configure(json=settings.log_json, level=settings.log_level)
    run_loop(dev.run(settings, say))


def say(line: str) -> None:
    """Progress and results, for people; logs go to stderr."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more (`roomwright dev | head`): no reason to end calls.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""`roomwright`: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from roomwright import (
    backup_command,
    dev_command,
    events_command,
    keys_command,
    token_command,
    webhooks_command,
)
from roomwright.errors import CommandError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; what a person can correct is said in one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="roomwright",
        description="Rooms for real-time audio, video and data, for LiveKit's client SDKs.",
        epilog="Start here: `roomwright dev`. Every command explains itself with --help.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    dev_command.add_to(commands)
    token_command.add_to(commands)
    events_command.add_to(commands)
    keys_command.add_to(commands)
    webhooks_command.add_to(commands)
    backup_command.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except CommandError as error:
        sys.exit(f"roomwright: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

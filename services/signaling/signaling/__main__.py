"""`roomwright-signaling`, and its command `token`."""

import sys

from chassis.run import run
from signaling import token_command
from signaling.app import build
from signaling.settings import SignalingSettings


def main() -> None:
    """Serve until told to stop; with arguments, run a command."""
    if len(sys.argv) > 1:
        token_command.main(sys.argv[1:])
    else:
        run(build, SignalingSettings)


if __name__ == "__main__":
    main()

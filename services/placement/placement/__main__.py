"""`roomwright-placement`, and its commands `make-secrets` and `delete-secrets`."""

import sys

from chassis.run import run
from placement.app import build
from placement.settings import PlacementSettings


def main() -> None:
    """Serve until told to stop; with arguments, run a command."""
    if len(sys.argv) > 1:
        # Imported here: the Kubernetes client costs 40 MB and half a second, which only a cluster needs.
        from placement import secrets_command

        secrets_command.main(sys.argv[1:])
    else:
        run(build, PlacementSettings)


if __name__ == "__main__":
    main()

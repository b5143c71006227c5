"""`roomwright-sfu`."""

from chassis.run import run
from sfu.app import build
from sfu.settings import SfuSettings


def main() -> None:
    """Serve until told to stop."""
    run(build, SfuSettings)


if __name__ == "__main__":
    main()

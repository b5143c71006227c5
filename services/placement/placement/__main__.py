"""`roomwright-placement`."""

from chassis.run import run
from placement.app import build
from placement.settings import PlacementSettings


def main() -> None:
    """Serve until told to stop."""
    run(build, PlacementSettings)


if __name__ == "__main__":
    main()

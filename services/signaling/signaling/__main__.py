"""`roomwright-signaling`."""

from chassis.run import run
from signaling.app import build
from signaling.settings import SignalingSettings


def main() -> None:
    """Serve until told to stop."""
    run(build, SignalingSettings)


if __name__ == "__main__":
    main()

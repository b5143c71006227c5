"""`roomwright-webhook`."""

from chassis.run import run
from webhook.app import build
from webhook.settings import WebhookSettings


def main() -> None:
    """Serve until told to stop."""
    run(build, WebhookSettings)


if __name__ == "__main__":
    main()

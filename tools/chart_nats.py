"""The users and permissions in the chart's NATS configuration, from the one table in `chassis.nats_permissions`.

python tools/chart_nats.py           # write the file
python tools/chart_nats.py --check   # exit 1 when it is not fresh
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from chassis.nats_permissions import server_users

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "charts" / "roomwright" / "files" / "nats-users.conf"


def rendered() -> str:
    """What the file must hold."""
    return "# Made by tools/chart_nats.py from chassis/nats_permissions.py.\n" + server_users()


def main() -> None:
    """Write or check the file."""
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != rendered():
            sys.exit(f"not fresh: {TARGET.relative_to(ROOT)}; run `python tools/chart_nats.py`")
        return
    TARGET.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main()

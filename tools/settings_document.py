"""The tables of `docs/operators/configuration.md`: the services' settings, and what the names of a livekit.yaml mean.

What it is not: the text around them, which is written by hand and kept.

    python tools/settings_document.py           # write
    python tools/settings_document.py --check   # exit 1 when it is not fresh
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chassis.configuration import ALL, COUNTERPARTS, INSTEAD

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "operators" / "configuration.md"
SOURCES: Final = {
    "every service": ROOT / "chassis" / "chassis" / "settings.py",
    **{
        name: ROOT / "services" / name / name / "settings.py"
        for name in ("signaling", "sfu", "placement", "webhook")
    },
}
MARK: Final = "<!-- made by tools/settings_document.py -->"


def tables() -> str:
    """What stands below the mark."""
    lines = [MARK, "", "## The names of a livekit.yaml", "", "| there | here |", "|---|---|"]
    lines.append("| `port`, `bind_addresses` | `signaling.http_addresses` |")
    for path, counterpart in COUNTERPARTS.items():
        service = "" if counterpart.service == ALL else f"{counterpart.service}."
        lines.append(f"| `{path}` | `{service}{counterpart.name}` |")
    lines += [
        "",
        "Without effect, and named in a warning, as is every other name of such a section:",
    ]
    lines += ["", "| there | instead |", "|---|---|"]
    lines += [f"| `{path}` | {instead} |" for path, instead in INSTEAD.items()]
    for service, source in SOURCES.items():
        lines += ["", f"## Settings of {service}", "", "| name | default | what |", "|---|---|---|"]
        lines += [f"| `{name}` | {default} | {text} |" for name, default, text in settings(source)]
    return "\n".join(lines) + "\n"


def settings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Name, default and words of each setting of the module's settings class."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    body = next(
        node for node in classes if node.name.endswith("Settings") and _is_settings(node)
    ).body
    for place, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        following = body[place + 1] if place + 1 < len(body) else None
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        yield node.target.id, _default(node.value), text.replace("|", "\\|")


def _is_settings(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base) in ("BaseSettings", "ChassisSettings") for base in node.bases)


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        given = [keyword.value for keyword in value.keywords if keyword.arg == "default"]
        value = given[0] if given else None
    if isinstance(value, ast.Call) and value.args:  # SecretStr("")
        value = value.args[0]
    if value is None or ast.unparse(value) in ("''", "None", "()"):
        return ""
    text = ast.unparse(value)
    return f"`{text}`" if text[0] in "'(0123456789-TF" else ""


def main() -> int:
    """Write the file, or say that it is not fresh."""
    found = DOCUMENT.read_text(encoding="utf-8")
    wanted = found.partition(MARK)[0] + tables()
    if "--check" not in sys.argv:
        DOCUMENT.write_text(wanted, encoding="utf-8")
    elif found != wanted:
        sys.stderr.write(f"{DOCUMENT.name} is not fresh: python tools/settings_document.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

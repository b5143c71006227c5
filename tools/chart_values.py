"""The chart's values from one source: `values.yaml` becomes `values.schema.json` and `docs/operators/values.md`.

The comment above a key is its documentation; `# @schema {...}` in it adds JSON schema where the default's own type
does not say enough. A key without a comment is described at the same place of an earlier service's block. What it is
not: a check of values that exclude each other; the templates refuse those.

    python tools/chart_values.py           # write both files
    python tools/chart_values.py --check   # exit 1 when one is not fresh
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "charts" / "roomwright"
SOURCE: Final = CHART / "values.yaml"
SCHEMA: Final = CHART / "values.schema.json"
DOCUMENT: Final = ROOT / "docs" / "operators" / "values.md"
SERVICES: Final = ("signaling", "placement", "sfu", "webhook", "nats")
_MARK: Final = "@schema "


class ValuesError(Exception):
    """The source breaks its own rules; the message names the line."""


@dataclass(frozen=True, slots=True)
class Value:
    """One key of the chart: where it is, what it is for, what may stand there."""

    path: tuple[str, ...]
    text: str
    default: object
    extra: Mapping[str, Any]
    """What `@schema` adds."""
    children: tuple[Value, ...] = field(default=())
    """The keys below it; none when the value is written on one line."""


def read(text: str) -> tuple[Value, ...]:
    """Every value of the source. Raises `ValuesError`."""
    node = yaml.compose(text)
    if not isinstance(node, yaml.MappingNode):
        raise ValuesError("values.yaml is not a mapping")
    return tuple(_read(node, (), text.splitlines(), {}))


def schema(values: tuple[Value, ...]) -> dict[str, Any]:
    """The JSON schema (draft 7, which helm reads): every key known, every other refused."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the roomwright chart",
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _schema_of(value) for value in values},
    }


def document(values: tuple[Value, ...]) -> str:
    """The page for operators."""
    lines = [
        "# Values of the chart",
        "",
        "Made from `charts/roomwright/values.yaml` by `python tools/chart_values.py`; every key is also checked by "
        "`values.schema.json`, which refuses unknown ones.",
        "",
        "## General",
        "",
        *_table(tuple(value for value in values if not value.children)),
    ]
    for value in values:
        if value.children:
            lines += ["", f"## {value.path[0]}", "", value.text, "", *_table(value.children)]
    return "\n".join(lines) + "\n"


def rendered(text: str) -> dict[Path, str]:
    """What each generated file must hold for this source."""
    values = read(text)
    return {
        SCHEMA: json.dumps(schema(values), indent=2, ensure_ascii=False) + "\n",
        DOCUMENT: document(values),
    }


def stale(text: str) -> list[Path]:
    """The generated files that differ from what the source says."""
    return [
        path
        for path, content in rendered(text).items()
        if not path.exists() or path.read_text(encoding="utf-8") != content
    ]


def main() -> None:
    """Write or check the generated files."""
    text = SOURCE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        if paths := stale(text):
            names = ", ".join(str(path.relative_to(ROOT)) for path in paths)
            sys.exit(f"not fresh: {names}; run `python tools/chart_values.py`")
        return
    for path, content in rendered(text).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def _read(
    node: yaml.MappingNode,
    above: tuple[str, ...],
    lines: list[str],
    known: dict[tuple[str, ...], tuple[str, Mapping[str, Any]]],
) -> Iterator[Value]:
    for key, content in node.value:
        path = (*above, str(key.value))
        line = key.start_mark.line
        text, extra = _comment(lines, line) or _inherited(path, line, known)
        known[path] = (text, extra)
        children: tuple[Value, ...] = ()
        if isinstance(content, yaml.MappingNode) and not content.flow_style:
            children = tuple(_read(content, path, lines, known))
        yield Value(path, text, _plain(content), extra, children)


def _comment(lines: list[str], line: int) -> tuple[str, Mapping[str, Any]] | None:
    """What the comment right above the line says, and its schema; None without one."""
    found: list[str] = []
    indent = len(lines[line]) - len(lines[line].lstrip())
    while line > 0 and lines[line - 1].startswith(" " * indent + "#"):
        line -= 1
        found.insert(0, lines[line].strip().lstrip("#").strip())
    words = [text for text in found if not text.startswith(_MARK)]
    extra: dict[str, Any] = {}
    for mark in (text for text in found if text.startswith(_MARK)):
        extra |= yaml.safe_load(mark.removeprefix(_MARK))
    return (" ".join(words), extra) if words else None


def _inherited(
    path: tuple[str, ...],
    line: int,
    known: Mapping[tuple[str, ...], tuple[str, Mapping[str, Any]]],
) -> tuple[str, Mapping[str, Any]]:
    for service in SERVICES if path[0] in SERVICES else ():
        if (service, *path[1:]) in known:
            return known[(service, *path[1:])]
    raise ValuesError(
        f"values.yaml line {line + 1}: {'.'.join(path)} has no comment that says what it is for"
    )


def _plain(node: yaml.Node) -> object:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _schema_of(value: Value) -> dict[str, Any]:
    own: dict[str, Any] = {"description": value.text, **_type_of(value)}
    if value.children:
        own["properties"] = {child.path[-1]: _schema_of(child) for child in value.children}
    return {**own, **value.extra}


def _type_of(value: Value) -> dict[str, Any]:
    match value.default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case dict():
            if not value.children and "additionalProperties" not in value.extra:
                raise ValuesError(
                    f"{'.'.join(value.path)}: say in @schema what the mapping may hold"
                )
            return {"type": "object", "additionalProperties": False}
        case list():
            if "items" not in value.extra:
                raise ValuesError(f"{'.'.join(value.path)}: say in @schema what the list may hold")
            return {"type": "array"}
        case None if "type" in value.extra:
            return {}
        case _:
            raise ValuesError(f"{'.'.join(value.path)}: say its type in @schema")


def _table(values: tuple[Value, ...]) -> list[str]:
    rows = [row for value in values for row in _rows(value)]
    return ["| value | default | |", "|---|---|---|", *rows]


def _rows(value: Value) -> Iterator[str]:
    path = ".".join(value.path)
    if value.children:
        yield f"| **`{path}`** | | {_cell(value.text)} |"
        for child in value.children:
            yield from _rows(child)
        return
    default = json.dumps(value.default, ensure_ascii=False)
    choices = [str(choice) for choice in value.extra.get("enum", ()) if choice is not None]
    text = value.text + (
        f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    )
    yield f"| `{path}` | `{_cell(default)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()

"""What the tables of features and SDKs name is there, and each row says what it must."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEATURES = ROOT / "docs" / "features.md"
SDKS = ROOT / "docs" / "sdks.md"
NAMED = re.compile(r"`([\w./-]+\.(?:py|rs))::(\w+)`")


def rows(document: Path) -> list[list[str]]:
    """The cells of every row of every table, without the headings."""
    lines = [line for line in document.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("feature", "SDK")]


@pytest.mark.parametrize("document", [FEATURES, SDKS], ids=lambda it: it.stem)
def test_every_test_named_in_a_table_exists(document: Path) -> None:
    named = NAMED.findall(document.read_text())
    assert len(named) > 10
    for path, name in named:
        file = ROOT / path
        assert file.exists(), f"{document.name} names {path}"
        kind = "fn" if path.endswith(".rs") else "def"
        assert re.search(rf"\b{kind} {name}\(", file.read_text()), f"{path} has no {name}"


def test_every_feature_has_a_state_and_a_working_one_its_test() -> None:
    features = rows(FEATURES)
    assert len(features) > 100
    for words, state, shown_by in features:
        assert state == "works" or state.startswith(("partly: ", "not yet, because ")), words
        assert state != "works" or NAMED.search(shown_by), f"{words}: works, shown by nothing"


def test_every_sdk_says_how_it_was_shown_and_by_what() -> None:
    sdks = rows(SDKS)
    for name in ("web", "Python", "Node", "Rust", "Go", "Swift", "Android", "Flutter", "Unity"):
        assert any(row[0].startswith(name) for row in sdks), name
    for *_, how, by in sdks:
        assert how.startswith(("run", "same", "replayed")), how
        assert NAMED.search(by), how

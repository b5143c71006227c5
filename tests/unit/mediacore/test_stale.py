"""A compiled module that does not match its sources is refused."""

from pathlib import Path

import pytest

from mediacore import SOURCE_DIGEST, stale


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name in ("Cargo.toml", "Cargo.lock", "binding/build.rs"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    for crate in stale.CRATES:
        (tmp_path / crate / "src" / "deep").mkdir(parents=True)
        (tmp_path / crate / "Cargo.toml").write_text(crate)
        (tmp_path / crate / "src" / "lib.rs").write_text("pub mod deep;")
    return tmp_path


def digest(media: Path) -> str:
    value = stale.source_digest(media)
    assert value is not None
    return value


def test_equal_sources_are_accepted(media: Path) -> None:
    stale.check(digest(media), media)


@pytest.mark.parametrize("name", ["core/src/lib.rs", "core/src/deep/new.rs", "Cargo.lock"])
def test_changed_or_new_source_is_refused_with_the_remedy(media: Path, name: str) -> None:
    before = digest(media)
    (media / name).write_text("changed")
    with pytest.raises(stale.StaleBuildError, match="run make setup"):
        stale.check(before, media)


def test_moved_source_changes_the_digest(media: Path) -> None:
    before = digest(media)
    (media / "core/src/lib.rs").rename(media / "core/src/other.rs")
    assert digest(media) != before


def test_files_that_are_not_built_do_not_count(media: Path) -> None:
    before = digest(media)
    (media / "core/src/notes.md").write_text("x")
    (media / "core/tests").mkdir()
    (media / "core/tests/x.rs").write_text("x")
    assert digest(media) == before


def test_an_installed_wheel_has_nothing_to_compare(tmp_path: Path) -> None:
    stale.check("anything", tmp_path)


def test_override_allows_a_stale_module(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIACORE_STALE", "allow")
    stale.check("anything", media)


def test_the_module_and_python_compute_the_same_digest() -> None:
    present = stale.source_digest(Path(stale.__file__).resolve().parents[2])
    assert present in (None, SOURCE_DIGEST)

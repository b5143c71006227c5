"""The form of a backup: what is written is read, and what is not whole is refused."""

import gzip
from pathlib import Path

import pytest

from roomwright import backup, backup_command
from roomwright.errors import CommandError

RECORDS = [{"kind": "room", "name": "lobby", "record": "AAA="}, {"kind": "key", "name": "k"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl.gz"
    backup.write(path, RECORDS, "2026-11-24T12:00:00Z")
    return path


def test_what_is_written_is_read(file: Path) -> None:
    assert backup.read(file) == RECORDS
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_backup_of_nothing_is_one(tmp_path: Path) -> None:
    backup.write(tmp_path / "a", [], "now")
    assert backup.read(tmp_path / "a") == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"lobby", b"hobby"),
        lambda text: text[: text.index(b"kind")],
        lambda text: b"\n".join(text.splitlines()[:-1]) + b"\n",
        lambda text: b"\n".join([*text.splitlines()[:2], *text.splitlines()[3:]]) + b"\n",
    ],
    ids=["changed", "cut off", "without its end", "without a record"],
)
def test_what_is_not_whole_is_refused(file: Path, change: object) -> None:
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()))))  # type: ignore[operator]
    with pytest.raises(CommandError, match="is cut off or damaged"):
        backup.read(file)


def test_what_is_no_backup_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CommandError, match="cut off or damaged"):
        backup.read(file)
    file.write_bytes(b"something else")
    with pytest.raises(CommandError, match="cannot be read: it is no backup"):
        backup.read(file)
    file.write_bytes(gzip.compress(b'{"a": 1}\n'))
    with pytest.raises(CommandError, match="is no backup of Roomwright"):
        backup.read(file)
    file.write_bytes(gzip.compress(b'{"roomwright_backup": 2}\n'))
    with pytest.raises(CommandError, match="of version 2, this is for 1"):
        backup.read(file)
    with pytest.raises(CommandError, match="No such file"):
        backup.read(tmp_path / "none")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be written: No such file"):
        backup.write(tmp_path / "none" / "a", [], "now")


def test_only_the_newest_files_of_our_names_are_kept(tmp_path: Path) -> None:
    names = [f"roomwright-2026112{day}T031700Z.jsonl.gz" for day in range(5)]
    for name in (*names, "mine.jsonl.gz"):
        (tmp_path / name).touch()
    backup_command._remove_older(tmp_path, 2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["mine.jsonl.gz", *names[3:]]

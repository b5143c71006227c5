"""A queue in a directory: in order, bounded, continued by the next process, torn ends left out."""

import os
from pathlib import Path

import pytest

from chassis.errors import SettingsError
from sfu.spool import NOTE_EVERY, DiskSpool, MemorySpool, Spool


def payload(number: int) -> bytes:
    return b"%04d" % number * 5


def payloads(start: int, end: int) -> list[bytes]:
    return [payload(number) for number in range(start, end)]


def crash(spool: DiskSpool) -> None:
    """The process ends: the lock is gone, nothing is noted."""
    os.close(spool._lock)


@pytest.fixture(params=["memory", "disk"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Spool:
    if request.param == "memory":
        return MemorySpool(100_000)
    return DiskSpool(tmp_path, 100_000, segment_bytes=100)


def test_payloads_come_out_as_they_went_in(spool: Spool) -> None:
    assert spool.append(payloads(0, 50)) == 50
    seen: list[bytes] = []
    for round_number in range(7):
        batch = spool.read(7)
        assert len(batch) == 7
        for each in batch[:6]:
            seen.append(each)
            spool.remove()
        spool.append([payload(50 + round_number)])
    for each in spool.read(99):
        seen.append(each)
        spool.remove()
    assert seen == payloads(0, 57)
    assert (spool.waiting, spool.read(9)) == (0, [])


def test_a_full_one_refuses_the_newest_and_has_room_again_when_some_are_gone(
    tmp_path: Path,
) -> None:
    for spool in (MemorySpool(400), DiskSpool(tmp_path, 400)):
        taken = spool.append(payloads(0, 50))
        assert 10 <= taken < 50
        assert spool.append([payload(99)]) == 0
        assert spool.read(99) == payloads(0, taken)
        while spool.waiting:
            spool.remove()
        assert spool.append([payload(99)]) == 1
        assert spool.read(9) == [payload(99)]


def test_the_next_process_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path, 100_000, segment_bytes=100)
    first.append(payloads(0, 30))
    first.read(30)
    for _ in range(11):
        first.remove()
    first.close()
    second = DiskSpool(tmp_path, 100_000, segment_bytes=100)
    assert second.waiting == 19
    second.append(payloads(30, 33))
    assert second.read(99) == payloads(11, 33)


def test_after_a_crash_nothing_is_missing_and_few_come_twice(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path, 100_000)
    first.append(payloads(0, 200))
    first.read(200)
    for _ in range(NOTE_EVERY + 5):
        first.remove()
    crash(first)
    second = DiskSpool(tmp_path, 100_000)
    assert second.read(999) == payloads(NOTE_EVERY, 200)


def test_a_torn_end_is_left_out_and_does_not_hide_what_is_appended_later(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path, 100_000)
    first.append(payloads(0, 3))
    crash(first)
    (segment,) = tmp_path.glob("*.facts")
    segment.write_bytes(segment.read_bytes()[:-5])
    second = DiskSpool(tmp_path, 100_000)
    assert second.waiting == 2
    second.append([payload(9)])
    assert second.read(99) == [payload(0), payload(1), payload(9)]


def test_an_emptied_spool_leaves_no_segments(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, 100_000, segment_bytes=100)
    for _ in range(3):
        spool.append(payloads(0, 20))
        for _ in spool.read(20):
            spool.remove()
        assert list(tmp_path.glob("*.facts")) == []
    spool.close()
    assert DiskSpool(tmp_path, 100_000).waiting == 0


def test_a_directory_has_one_user(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, 1000)
    with pytest.raises(SettingsError, match="used by another process"):
        DiskSpool(tmp_path, 1000)
    spool.close()
    DiskSpool(tmp_path, 1000)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot use the spool directory"):
        DiskSpool(tmp_path / "file" / "spool", 1000)

"""Speaker levels: smoothed, rounded up to eighths, told only when they change."""

import pytest

from sfu.core.speakers import Speaker, Speakers


def test_loud_speaker_is_told_once_and_not_repeated() -> None:
    speakers = Speakers()
    first = speakers.observe([("a", 0, 1.0)], 0.0)
    assert [(s.sid, s.is_active) for s in first] == [("a", True)]
    assert first[0].level == 0.75  # 2/3 after the first window, rounded up to eighths
    levels = [speakers.observe([("a", 0, 1.0)], 0.4 * turn) for turn in range(1, 10)]
    assert [change.level for window in levels for change in window] == [1.0]


def test_mostly_silent_window_does_not_count() -> None:
    assert Speakers().observe([("a", 0, 0.39)], 0.0) == []
    assert Speakers().observe([("a", 127, 1.0)], 0.0) == []


def test_speaker_who_falls_silent_is_told_inactive() -> None:
    speakers = Speakers()
    speakers.observe([("a", 10, 1.0)], 0.0)
    changes: list[Speaker] = []
    for turn in range(1, 8):
        changes += speakers.observe([("a", 127, 0.0)], 0.4 * turn)
    assert changes[-1] == Speaker("a", 0.0, is_active=False)
    assert speakers.current("a") is None


def test_speaker_nobody_hears_of_expires() -> None:
    speakers = Speakers()
    speakers.observe([("a", 10, 1.0)], 0.0)
    due = speakers.next_timeout()
    assert due == pytest.approx(0.8)
    assert due is not None
    assert speakers.expire(due - 0.01) == []
    assert speakers.expire(due) == [Speaker("a", 0.0, is_active=False)]
    assert speakers.next_timeout() is None


def test_loudest_track_of_a_participant_counts() -> None:
    one, two = Speakers(), Speakers()
    assert one.observe([("a", 40, 1.0), ("a", 5, 1.0)], 0) == two.observe([("a", 5, 1.0)], 0)

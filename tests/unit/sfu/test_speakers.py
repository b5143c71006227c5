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


def test_who_heard_nothing_since_learns_who_speaks_and_who_stopped() -> None:
    speakers = Speakers()
    speakers.observe([("a", 0, 1.0), ("b", 0, 1.0)], 0.0)
    speakers.observe([("b", 0, 1.0)], 0.7)
    speakers.expire(0.9)
    assert {(s.sid, s.is_active) for s in speakers.since(0.5)} == {("a", False), ("b", True)}
    assert {(s.sid, s.is_active) for s in speakers.since(1.0)} == {("b", True)}
    speakers.observe([("a", 0, 1.0)], 1.2)
    assert {(s.sid, s.is_active) for s in speakers.since(0.5)} == {("a", True), ("b", True)}


@pytest.mark.parametrize(
    ("level", "share", "told"),
    [
        (0, 1.0, 0.75),  # 2/3 of full scale
        (20, 1.0, 0.125),  # 2/3 of a tenth
        (35, 1.0, None),  # 2/3 of the threshold
        (31, 1.0, 0.125),
        (0, 0.4, 0.375),  # weighed down by the silent part: 2/3 of 0.4 is 0.27
        (0, 0.39, None),
    ],
)
def test_levels_are_weighed_smoothed_and_rounded_up(
    level: int, share: float, told: float | None
) -> None:
    changes = Speakers().observe([("a", level, share)], 0.0)
    assert [change.level for change in changes] == ([] if told is None else [told])

"""At most one write per key and window, always of the latest value, in the order of changes."""

from sfu.core.pace import WINDOW, Pace


def test_changes_within_a_window_are_one_write() -> None:
    pace: Pace[str] = Pace()
    pace.change("a", 0.0)
    pace.change("a", 0.3)
    assert pace.next_timeout() == WINDOW
    assert pace.take(WINDOW - 0.01, 9) == []
    assert pace.take(WINDOW, 9) == ["a"]
    pace.done("a", WINDOW)
    assert (pace.waiting, pace.next_timeout()) == (0, None)


def test_a_change_during_the_write_is_another_write_a_window_later() -> None:
    pace: Pace[str] = Pace()
    pace.change("a", 0.0)
    pace.take(1.0, 9)
    pace.change("a", 1.1)
    assert pace.take(9.0, 9) == []
    pace.done("a", 1.2)
    assert pace.next_timeout() == 1.2 + WINDOW


def test_what_failed_is_written_again() -> None:
    pace: Pace[str] = Pace()
    pace.change("a", 0.0)
    pace.take(1.0, 9)
    pace.failed("a", 1.0)
    assert pace.waiting == 1
    assert pace.take(1.0 + WINDOW, 9) == ["a"]


def test_keys_are_written_in_the_order_of_their_changes_and_so_many_at_once() -> None:
    pace: Pace[str] = Pace()
    for number, key in enumerate("abcd"):
        pace.change(key, number / 10)
    assert pace.take(0.2 + WINDOW, 2) == ["a", "b"]
    assert pace.take(0.2 + WINDOW, 2) == ["c"]
    pace.hurry()
    assert pace.take(0.2, 2) == ["d"]

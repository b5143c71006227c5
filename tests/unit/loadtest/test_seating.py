"""Rooms are filled in order, by role, and free places first."""

from loadtest.scenario import Media
from loadtest.seating import Seating


def seating(*roles: tuple[str, object]) -> Seating:
    media = Media.model_validate({"roles": [{"name": name, "count": n} for name, n in roles]})
    return Seating(media, "run")


def test_rooms_are_filled_one_after_the_other_by_role() -> None:
    rooms = seating(("teacher", 1), ("student", 2))
    seats = [rooms.take() for _ in range(4)]
    assert [(seat.room, seat.role) for seat in seats] == [
        ("run-0", "teacher"),
        ("run-0", "student"),
        ("run-0", "student"),
        ("run-1", "teacher"),
    ]


def test_a_free_place_is_taken_before_a_new_one() -> None:
    rooms = seating(("teacher", 1), ("student", 2))
    seats = [rooms.take() for _ in range(5)]
    rooms.give_back(seats[3])
    rooms.give_back(seats[0])
    assert [rooms.take(), rooms.take()] == [seats[0], seats[3]]
    assert rooms.take().number == 5


def test_the_rest_are_all_in_one_room() -> None:
    room = seating(("presenter", 1), ("viewer", "rest"))
    seats = [room.take() for _ in range(50)]
    assert {seat.room for seat in seats} == {"run-0"}
    assert [seat.role for seat in seats] == ["presenter"] + ["viewer"] * 49

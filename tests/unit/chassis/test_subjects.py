"""Names on the bus."""

from chassis import subjects


def test_facts_of_one_room_stay_in_one_partition() -> None:
    first = subjects.event_subject("a room. with > odd * name", "room_started")
    second = subjects.event_subject("a room. with > odd * name", "room_finished")
    assert first.split(".")[:2] == second.split(".")[:2]
    assert len(first.split(".")) == 3

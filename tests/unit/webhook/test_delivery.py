"""The delivery machine: order in a room, no waiting between rooms, nothing lost."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.core.delivery import Answer, Delivery, GiveUp, Policy, Send

POLICY = Policy(in_flight=3, first_delay_s=1, last_delay_s=8, down_last_delay_s=4, down_after=3)


def machine(policy: Policy = POLICY) -> Delivery:
    made = Delivery(policy)
    made.begin(0, 0)
    return made


def arrive(delivery: Delivery, *facts: tuple[int, str], now: float = 0, at: float = 0) -> None:
    for sequence, room in facts:
        delivery.arrived(0, sequence, room, at, now)


def test_a_room_is_sent_one_fact_at_a_time_in_order() -> None:
    delivery = machine()
    arrive(delivery, (1, "a"), (2, "a"))
    assert delivery.due(0, 0) == [Send(1)]
    assert delivery.due(0, 0) == []
    delivery.answered(1, Answer.TAKEN, 0, 0)
    assert delivery.due(0, 0) == [Send(2)]


def test_rooms_do_not_wait_for_each_other() -> None:
    delivery = machine()
    arrive(delivery, (1, "a"), (2, "b"), (3, "a"))
    assert delivery.due(0, 0) == [Send(1), Send(2)]
    delivery.answered(1, Answer.FAILED, 0, 0)
    delivery.answered(2, Answer.TAKEN, 0, 0)
    assert delivery.due(0.5, 0) == []
    assert delivery.next_timeout() == 1
    assert delivery.due(1, 0) == [Send(1)]
    delivery.answered(1, Answer.FAILED, 1, 0)
    assert delivery.next_timeout() == 3


def test_no_more_requests_at_a_time_than_allowed() -> None:
    delivery = machine()
    arrive(delivery, *((n, f"r{n}") for n in range(1, 6)))
    assert len(delivery.due(0, 0)) == 3
    assert delivery.next_timeout() is None
    delivery.answered(1, Answer.TAKEN, 0, 0)
    assert delivery.due(0, 0) == [Send(4)]


def test_a_silent_target_is_asked_with_one_fact_ever_more_rarely() -> None:
    delivery = machine()
    arrive(delivery, *((n, f"r{n}") for n in range(1, 6)))
    for effect in delivery.due(0, 0):
        delivery.answered(effect.sequence, Answer.UNREACHABLE, 0, 0, error="no answer")
    assert delivery.is_down
    assert delivery.last_error == "no answer"
    assert delivery.due(0.9, 0) == []
    assert delivery.due(1, 0) == [Send(1)]
    delivery.answered(1, Answer.UNREACHABLE, 1, 0)
    assert delivery.next_timeout() == 3
    assert delivery.due(3, 0) == [Send(1)]
    delivery.answered(1, Answer.TAKEN, 3, 0)
    assert not delivery.is_down
    assert delivery.due(3, 0) == [Send(2), Send(3), Send(4)]


def test_requests_that_fail_together_are_one_sign() -> None:
    delivery = machine(Policy(in_flight=64, down_last_delay_s=60))
    arrive(delivery, *((n, f"r{n}") for n in range(1, 65)))
    for effect in delivery.due(0, 0):
        delivery.answered(effect.sequence, Answer.UNREACHABLE, 0, 0)
    assert delivery.next_timeout() == 1


def test_a_target_says_how_long_to_wait() -> None:
    delivery = machine()
    arrive(delivery, (1, "a"))
    delivery.due(0, 0)
    delivery.answered(1, Answer.UNREACHABLE, 0, 0, retry_after_s=30)
    assert delivery.due(29, 0) == []
    assert delivery.due(30, 0) == [Send(1)]


def test_a_refused_fact_is_given_up_and_the_next_goes() -> None:
    delivery = machine(Policy(refusals=2))
    arrive(delivery, (1, "a"), (2, "a"))
    delivery.due(0, 0)
    assert delivery.answered(1, Answer.REFUSED, 0, 0, error="answered 400") == []
    delivery.due(1, 0)
    given_up = delivery.answered(1, Answer.REFUSED, 1, 0, error="answered 400")
    assert given_up == [GiveUp(1, "answered 400", 2)]
    assert delivery.due(100, 0) == []
    assert delivery.progress(0).pending == (1, 2)
    delivery.buried(1, 100)
    assert delivery.due(100, 0) == [Send(2)]


def test_facts_of_a_silent_target_are_given_up_by_age() -> None:
    delivery = machine(Policy(give_up_after_s=10, down_after=1))
    arrive(delivery, (1, "a"), at=100)
    arrive(delivery, (2, "b"), at=105)
    for effect in delivery.due(0, 100):
        delivery.answered(effect.sequence, Answer.UNREACHABLE, 0, 100, error="no answer")
    assert delivery.due(50, 112) == [GiveUp(1, "no answer", 1), Send(2)]


def test_progress_is_what_is_read_and_what_of_it_waits() -> None:
    delivery = machine()
    arrive(delivery, (1, "a"), (2, "b"))
    delivery.skipped(0, 3)
    delivery.due(0, 0)
    delivery.answered(2, Answer.TAKEN, 0, 0)
    assert (delivery.progress(0).read, delivery.progress(0).pending) == (3, (1,))


def test_a_shard_that_ends_is_forgotten_with_its_answers() -> None:
    delivery = machine()
    arrive(delivery, (1, "a"), (2, "a"))
    delivery.due(0, 0)
    delivery.end(0)
    assert delivery.answered(1, Answer.FAILED, 0, 0) == []
    assert delivery.waiting == 0
    assert delivery.due(100, 0) == []


ANSWERS = st.sampled_from(list(Answer))


@given(
    rooms=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40),
    answers=st.lists(ANSWERS, max_size=120),
    picks=st.randoms(use_true_random=False),
)
def test_every_fact_is_taken_or_given_up_once_and_in_its_rooms_order(
    rooms: list[str], answers: list[Answer], picks: object
) -> None:
    delivery = machine(Policy(in_flight=4, down_after=2, refusals=3))
    room_of = dict(enumerate(rooms, start=1))
    arrive(delivery, *room_of.items())
    done: dict[str, list[int]] = defaultdict(list)
    under_way: list[int] = []
    now = 0.0
    script = iter(answers)
    for _ in range(2000):
        effects = delivery.due(now, 0)
        under_way += [effect.sequence for effect in effects if isinstance(effect, Send)]
        assert len(under_way) <= 4
        assert len({room_of[sequence] for sequence in under_way}) == len(under_way)
        if under_way:
            sequence = under_way.pop(picks.randrange(len(under_way)))  # type: ignore[attr-defined]
            answer = next(script, Answer.TAKEN)
            followed = delivery.answered(sequence, answer, now, 0)
            if answer is Answer.TAKEN or followed:
                done[room_of[sequence]].append(sequence)
            if followed:
                delivery.buried(sequence, now)
        elif (due_at := delivery.next_timeout()) is not None:
            assert due_at >= now
            now = due_at
        else:
            break
    assert delivery.waiting == 0
    assert delivery.progress(0).pending == ()
    for room, sequences in done.items():
        assert sequences == [sequence for sequence, name in room_of.items() if name == room]


@pytest.mark.parametrize("attempts", [1, 5, 40, 5000])
def test_the_delay_grows_to_its_last_value(attempts: int) -> None:
    delivery = machine(Policy(last_delay_s=8))
    arrive(delivery, (1, "a"))
    now = 0.0
    for _ in range(attempts):
        now = delivery.next_timeout() or now
        assert delivery.due(now, 0) == [Send(1)]
        delivery.answered(1, Answer.FAILED, now, 0)
    assert delivery.next_timeout() == now + min(2.0 ** min(attempts - 1, 10), 8)

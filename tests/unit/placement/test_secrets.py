"""The Secrets of an installation: made once, added to, never changed."""

import itertools
import random

import pytest

from chassis.settings import MIN_SECRET_CHARACTERS, parse_keys
from placement.core.secrets import (
    MADE_BY,
    MADE_BY_LABEL,
    Add,
    Leave,
    Make,
    Present,
    Refuse,
    decide,
    internal_entries,
    keys_entries,
    nats_entries,
    random_text,
)

CHOOSE = random.Random(4).choice
OURS = {MADE_BY_LABEL: MADE_BY}


def test_secret_that_is_not_there_is_made_with_every_entry() -> None:
    made = decide(nats_entries(["sfu", "admin"], CHOOSE), None)
    assert isinstance(made, Make)
    assert set(made.entries) == {"sfu", "admin"}
    assert made.entries["sfu"] != made.entries["admin"]


@pytest.mark.parametrize("labels", [{}, OURS])
def test_secret_with_everything_in_it_is_left_alone(labels: dict[str, str]) -> None:
    present = Present(frozenset({"token", "another"}), labels)
    assert decide(internal_entries(CHOOSE), present) == Leave()


def test_entries_of_a_later_release_are_added_to_a_secret_of_ours() -> None:
    present = Present(frozenset({"sfu"}), OURS)
    decision = decide(nats_entries(["sfu", "egress"], CHOOSE), present)
    assert isinstance(decision, Add)
    assert set(decision.entries) == {"egress"}


def test_somebody_elses_secret_that_lacks_entries_is_refused() -> None:
    present = Present(frozenset({"sfu"}), {})
    assert decide(nats_entries(["sfu", "egress"], CHOOSE), present) == Refuse(("egress",))


def test_keys_file_is_what_services_read() -> None:
    text = keys_entries(CHOOSE)["keys.yaml"]()
    ((key, secret),) = parse_keys(text).items()
    assert key.startswith("API")
    assert len(secret) >= max(43, MIN_SECRET_CHARACTERS)


def test_random_text_begins_with_a_letter_so_that_no_reader_takes_it_for_a_number() -> None:
    digits = itertools.cycle("7")

    def choose(characters: str) -> str:
        return next(digits) if "7" in characters else characters[0]

    assert random_text(4, choose) == "a777"

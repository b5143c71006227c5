"""Identifiers."""

import itertools

from chassis import ids


def test_sid_is_prefix_and_chosen_symbols() -> None:
    symbols = itertools.cycle("abc")
    assert ids.new_sid("RM_", lambda _: next(symbols)) == "RM_abcabcabcabc"


def test_alphabet_has_57_symbols_and_no_ambiguous_one() -> None:
    assert len(set(ids.ALPHABET)) == len(ids.ALPHABET) == 57
    assert not set(ids.ALPHABET) & set("01IOl")

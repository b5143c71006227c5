"""A stage's ids: of the wire's form, unique, and owned by their stage."""

from sfu.core.media_events import maker_of
from sfu.ids import StageIds


def test_engine_ids_are_unique_and_carry_their_owner() -> None:
    first, second = StageIds(1), StageIds(2)
    made = [first.engine_id() for _ in range(3)] + [second.engine_id() for _ in range(3)]
    assert len(set(made)) == 6
    assert [maker_of(engine_id) for engine_id in made] == [1, 1, 1, 2, 2, 2]
    assert max(made) < 2**63


def test_ice_credentials_have_the_lengths_of_rfc_8445() -> None:
    ids = StageIds(1)
    ufrag, password = ids.ice_credentials()
    assert 4 <= len(ufrag) <= 256
    assert 22 <= len(password) <= 256
    assert ids.ice_credentials() != (ufrag, password)


def test_numbers_include_both_ends() -> None:
    ids = StageIds(1)
    assert {ids.number(3, 4) for _ in range(100)} == {3, 4}


def test_sids_have_twelve_symbols() -> None:
    assert len(StageIds(1).sid("TR_AM")) == len("TR_AM") + 12

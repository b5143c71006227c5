"""What is too large to be taken over, and that 0 means no limit."""

import pytest

from sfu.core.profile import ProfileLimits

LIMITS = ProfileLimits(max_metadata_bytes=4, max_attributes_bytes=4, max_name_bytes=4)


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"name": "ééé"}, "name is 6 bytes, the limit is 4"),
        ({"metadata": "12345"}, "metadata is 5 bytes, the limit is 4"),
        ({"attributes": {"ab": "c", "d": "e"}}, "attributes are 5 bytes, the limit is 4"),
    ],
)
def test_excess_says_what_and_by_how_much(profile: dict[str, object], words: str) -> None:
    assert LIMITS.excess(**profile) == words  # type: ignore[arg-type]


def test_what_just_fits_is_taken() -> None:
    assert LIMITS.excess(name="1234", metadata="1234", attributes={"ab": "cd"}) is None


def test_zero_is_no_limit() -> None:
    unlimited = ProfileLimits(0, 0, 0)
    assert unlimited.excess(name="n" * 999, metadata="m" * 999, attributes={"k": "v" * 999}) is None

"""When wished negotiations are due."""

import pytest

from sfu.core.negotiation import Debounce


def test_negotiations_are_gathered() -> None:
    debounce = Debounce()
    debounce.request(0.0)
    assert debounce.take(0.0)
    debounce.request(0.1)
    assert debounce.next_timeout() == pytest.approx(0.25)
    debounce.request(0.14)
    assert debounce.next_timeout() == pytest.approx(0.25)
    assert not debounce.take(0.2)
    assert debounce.take(0.25)
    debounce.request(1.0)
    assert debounce.next_timeout() == pytest.approx(1.01)
    debounce.request(1.0, force=True)
    assert debounce.take(1.0)
    assert debounce.next_timeout() is None

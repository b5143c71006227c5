"""What tests of sessions share: a scripted room whose descriptions are small JSON texts."""

import pytest

from tests.support.scripted_room import (
    FakePublisherNegotiation,
    FakeSubscriberNegotiation,
    World,
)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty room with fake negotiation."""
    monkeypatch.setattr("sfu.core.connections.PublisherNegotiation", FakePublisherNegotiation)
    monkeypatch.setattr("sfu.core.connections.SubscriberNegotiation", FakeSubscriberNegotiation)
    return World()

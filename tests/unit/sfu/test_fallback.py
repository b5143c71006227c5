"""What ICE falls back to, and when a session is told so."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.fallback import Choices, Fallbacks, Preference
from sfu.core.ice_servers import IceServers, TurnServer
from sfu.core.media_events import Connected, Failed
from tests.support.scripted_room import Client, World

RR = models.ReconnectReason
TLS = TurnServer("turn.example", 443, "tls")


def fallbacks(*, tcp: bool = True, relay: bool = False) -> Fallbacks:
    return Fallbacks(Choices(has_tcp=tcp, has_relay=relay))


def test_one_failure_of_an_old_connection_changes_nothing() -> None:
    assert fallbacks().note_failure("a", 0, lived=90) is Preference.ANY


def test_two_failures_within_a_minute_lead_to_tcp() -> None:
    kept = fallbacks()
    kept.note_failure("a", 0, lived=None)
    assert kept.note_failure("a", 60, lived=None) is Preference.TCP
    assert kept.of("a", 61) is Preference.TCP
    assert kept.of("b", 61) is Preference.ANY


def test_two_failures_further_apart_change_nothing() -> None:
    kept = fallbacks()
    kept.note_failure("a", 0, lived=None)
    assert kept.note_failure("a", 61, lived=None) is Preference.ANY


def test_one_short_lived_connection_leads_to_tcp() -> None:
    assert fallbacks().note_failure("a", 0, lived=89) is Preference.TCP


def test_relay_comes_after_tcp_where_there_is_one() -> None:
    kept = fallbacks(relay=True)
    kept.note_failure("a", 0, lived=10)
    assert kept.note_failure("a", 1, lived=10) is Preference.RELAY


def test_tcp_is_the_end_without_a_relay() -> None:
    kept = fallbacks()
    for turn in range(4):
        kept.note_failure("a", turn, lived=10)
    assert kept.of("a", 5) is Preference.TCP


@pytest.mark.parametrize("relay", [False, True])
def test_client_without_tcp_goes_to_the_relay_or_stays(relay: bool) -> None:
    found = fallbacks(relay=relay).note_failure("a", 0, lived=10, may_use_tcp=False)
    assert found is (Preference.RELAY if relay else Preference.ANY)


def test_preference_is_forgotten_after_five_minutes() -> None:
    kept = fallbacks()
    kept.note_failure("a", 0, lived=10)
    assert kept.of("a", 300) is Preference.TCP
    assert kept.of("a", 301) is Preference.ANY


def test_wanted_transport_that_is_not_there_is_replaced_by_the_nearest() -> None:
    assert fallbacks(tcp=False).prefer("a", Preference.RELAY, 0) is Preference.ANY
    assert fallbacks().prefer("a", Preference.RELAY, 0) is Preference.TCP
    assert fallbacks(relay=True).prefer("a", Preference.RELAY, 0) is Preference.RELAY


# ---------------------------------------------------------------------------------- in a session


def preference_of(world: World, client: Client) -> Preference:
    return world.session(client).connections.preference


@pytest.mark.parametrize("reason", [RR.RR_PUBLISHER_FAILED, RR.RR_SUBSCRIBER_FAILED])
def test_resume_after_a_short_lived_connection_offers_tcp_only(world: World, reason: int) -> None:
    a = world.join("a", connect=True)
    world.media(Connected(a.pcs["publisher"]))
    a.answer()
    world.advance(30)
    again = world.resume(a, reason=reason)
    assert preference_of(world, again) is Preference.TCP
    offers = world.session(again).connections.offers
    assert [line.split()[2] for line in offers.candidates] == ["tcp"]  # type: ignore[union-attr]


def test_resume_after_a_lost_socket_says_nothing_of_media(world: World) -> None:
    a = world.join("a", connect=True)
    again = world.resume(a, reason=RR.RR_SIGNAL_DISCONNECTED)
    assert preference_of(world, again) is Preference.ANY


def test_resume_after_a_long_call_offers_everything(world: World) -> None:
    a = world.join("a", connect=True)
    world.advance(91)
    again = world.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    assert preference_of(world, again) is Preference.ANY


def test_failure_that_server_and_client_saw_counts_once(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.advance(91)
    a.send(ping=1)
    world.media(Failed(a.primary, "test"))
    world.advance(2)
    again = world.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    assert preference_of(world, again) is Preference.ANY


def test_second_failure_within_a_minute_counts(world: World) -> None:
    a = world.join("a", connect=True)
    world.advance(91)
    b = world.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    world.advance(20)
    c = world.resume(b, reason=RR.RR_SUBSCRIBER_FAILED)
    assert preference_of(world, c) is Preference.TCP


def test_client_that_lost_its_whole_network_keeps_udp(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.advance(20)
    world.media(Failed(a.primary, "test"))
    world.advance(2)
    assert a.closed is not None
    assert preference_of(world, a) is Preference.ANY


def test_failed_media_of_a_client_that_signals_leads_to_tcp(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    world.advance(20)
    a.send(ping=1)
    world.media(Failed(a.primary, "test"))
    world.advance(2)
    assert preference_of(world, a) is Preference.TCP


def test_new_session_of_the_identity_starts_with_tcp_and_without_fast_publish(
    world: World,
) -> None:
    a = world.join("a", connect=True)
    world.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    anew = world.join("a")
    join = anew.last("join")
    assert isinstance(join, rtc.JoinResponse)
    assert not join.fast_publish
    assert preference_of(world, anew) is Preference.TCP
    other = world.join("b").last("join")
    assert isinstance(other, rtc.JoinResponse)
    assert other.fast_publish


def test_slow_signaling_keeps_udp(world: World) -> None:
    a = world.join("a", connect=True)
    a.send(ping_req=rtc.Ping(timestamp=1, rtt=1600))
    assert world.session(a).signal_rtt_ms == 1600
    again = world.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    assert preference_of(world, again) is Preference.ANY


def test_go_clients_keep_udp(world: World) -> None:
    a = world.join("a", connect=True, sdk="GO")
    again = world.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    assert preference_of(world, again) is Preference.ANY


def test_relay_is_forced_on_the_client_in_reconnect_and_join(world: World) -> None:
    relayed = World(stage_settings={"ice_servers": IceServers(turn=(TLS,))})
    a = relayed.join("a", connect=True)
    again = relayed.resume(a, reason=RR.RR_SUBSCRIBER_FAILED)
    again.connect()
    third = relayed.resume(again, reason=RR.RR_SUBSCRIBER_FAILED)
    enabled = models.ClientConfigSetting.ENABLED
    assert again.inbox[0].reconnect.client_configuration.force_relay != enabled
    assert third.inbox[0].reconnect.client_configuration.force_relay == enabled
    # A relay's own candidates are UDP on our side.
    assert len(relayed.session(third).connections.candidates) == 2
    join = relayed.join("a").last("join")
    assert isinstance(join, rtc.JoinResponse)
    assert join.client_configuration.force_relay == enabled
    assert not join.fast_publish

"""SimulateScenario: what each variant does to the session, where the node allows it."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.effects import ABNORMAL
from sfu.core.fallback import Preference
from sfu.core.media_commands import AddRemoteCandidate, RestartIce, SetBandwidthCap
from tests.support.scripted_room import Client, World

Action = rtc.LeaveRequest.Action
UDP = '{"candidate": "candidate:1 1 udp 2130706431 10.0.0.1 5000 typ host", "sdpMid": "0"}'
TCP = (
    '{"candidate": "candidate:2 1 tcp 1671430143 10.0.0.1 9 typ host tcptype active",'
    ' "sdpMid": "0"}'
)


def simulate(client: Client, **scenario: object) -> None:
    client.send(simulate=rtc.SimulateScenario(**scenario))  # type: ignore[arg-type]


def test_nothing_is_simulated_unless_allowed(world: World) -> None:
    quiet = World(stage_settings={"simulate_allowed": False})
    a = quiet.join("a", connect=True)
    a.clear()
    simulate(a, server_leave=True)
    simulate(a, speaker_update=1)
    simulate(a, node_failure=True)
    assert a.inbox == []
    assert a.closed is None


def test_speaker_update_ends_after_its_seconds(world: World) -> None:
    a = world.join("a", connect=True)
    a.clear()
    simulate(a, speaker_update=3)
    world.advance(2.9)
    began = a.last("speakers_changed")
    assert isinstance(began, rtc.SpeakersChanged)
    assert [(s.sid, s.active) for s in began.speakers] == [(a.sid, True)]
    assert began.speakers[0].level == pytest.approx(0.9)
    world.advance(0.2)
    ended = a.last("speakers_changed")
    assert isinstance(ended, rtc.SpeakersChanged)
    assert [(s.sid, s.level, s.active) for s in ended.speakers] == [(a.sid, 0.0, False)]


@pytest.mark.parametrize("scenario", ["node_failure", "migration"])
def test_lost_node_says_nothing_and_then_knows_no_session(world: World, scenario: str) -> None:
    a = world.join("a", connect=True)
    a.clear()
    simulate(a, **{scenario: True})
    assert "leave" not in a.cases()
    assert a.close_code == ABNORMAL
    again = world.resume(a)
    assert again.cases() == ["leave"]
    assert again.inbox[0].leave.action == Action.RECONNECT


def test_server_leave_ends_the_session(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, server_leave=True)
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert (leave.reason, leave.action) == (
        models.DisconnectReason.SERVER_SHUTDOWN,
        Action.DISCONNECT,
    )
    assert not a.is_present


def test_leave_request_full_reconnect_has_the_client_join_anew(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, leave_request_full_reconnect=True)
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == Action.RECONNECT
    assert a.closed is not None
    assert not a.is_present


@pytest.mark.parametrize(
    "scenario",
    [
        "node_failure",
        "migration",
        "server_leave",
        "leave_request_full_reconnect",
        "disconnect_signal_on_resume",
        "disconnect_signal_on_resume_no_messages",
    ],
)
def test_flag_that_is_false_asks_for_nothing(world: World, scenario: str) -> None:
    a = world.join("a", connect=True)
    simulate(a, **{scenario: False})
    assert a.closed is None
    again = world.resume(a)
    assert again.closed is None


def test_disconnect_on_resume_closes_the_socket_after_its_messages(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, disconnect_signal_on_resume=True)
    first = world.resume(a)
    assert first.cases()[:4] == ["reconnect", "update", "room_update", "refresh_token"]
    assert (first.closed, first.close_code) == ("simulated", ABNORMAL)
    second = world.resume(a)
    assert second.closed is None


def test_disconnect_on_resume_is_forgotten_after_five_seconds(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, disconnect_signal_on_resume=True)
    world.advance(5.1)
    assert world.resume(a).closed is None


def test_silent_disconnect_spoils_three_resumes(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, disconnect_signal_on_resume_no_messages=True)
    spoiled = [world.resume(a) for _ in range(3)]
    assert [(client.cases(), client.closed) for client in spoiled] == [([], "simulated")] * 3
    fourth = world.resume(a)
    assert fourth.cases()[0] == "reconnect"
    assert fourth.closed is None


def test_silent_disconnect_is_forgotten_after_five_seconds(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, disconnect_signal_on_resume_no_messages=True)
    world.advance(5.1)
    assert world.resume(a).cases()[0] == "reconnect"


def test_switch_to_tcp_filters_candidates_and_restarts_ice(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    a.offer()
    simulate(a, switch_candidate_protocol=rtc.CandidateProtocol.TCP)
    connections = world.session(a).connections
    assert len(world.told(RestartIce)) == 1
    assert [line.split()[2] for line in connections.offers.candidates] == ["tcp"]  # type: ignore[union-attr]
    for target in (rtc.SignalTarget.PUBLISHER, rtc.SignalTarget.SUBSCRIBER):
        for candidate in (UDP, TCP):
            a.send(trickle=rtc.TrickleRequest(candidateInit=candidate, target=target))
    a.answer()
    assert [c.candidate.split()[2] for c in world.told(AddRemoteCandidate)] == ["tcp", "tcp"]
    a.offer(ufrag="restarted")
    assert [line.split()[2] for line in connections.answers.candidates] == ["tcp"]  # type: ignore[union-attr]


def test_switch_back_to_udp_gives_every_candidate(world: World) -> None:
    a = world.join("a", connect=True)
    a.answer()
    simulate(a, switch_candidate_protocol=rtc.CandidateProtocol.TCP)
    simulate(a, switch_candidate_protocol=rtc.CandidateProtocol.UDP)
    assert len(world.session(a).connections.candidates) == 2


def test_switch_to_tls_stays_at_tcp_without_a_turn_server(world: World) -> None:
    a = world.join("a", connect=True)
    simulate(a, switch_candidate_protocol=rtc.CandidateProtocol.TLS)
    assert world.session(a).connections.preference is Preference.TCP


@pytest.mark.parametrize(("single", "role"), [(False, "subscriber"), (True, "publisher")])
def test_subscriber_bandwidth_caps_the_sending_connection(
    world: World, single: bool, role: str
) -> None:
    request = rtc.JoinRequest()
    request.connection_settings.subscriber_allow_pause = True
    a = world.join("a", single=single, connect=True, request=request)
    simulate(a, subscriber_bandwidth=200_000)
    simulate(a, subscriber_bandwidth=0)
    pc = a.pcs[role]
    assert world.told(SetBandwidthCap) == [
        SetBandwidthCap(pc, 200_000, True),
        SetBandwidthCap(pc, None, True),
    ]

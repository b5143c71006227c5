"""One file for all services: whose setting each name is, what has no effect, what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from chassis import configuration
from chassis.configuration import ALL, COUNTERPARTS, SERVICES
from chassis.errors import SettingsError
from chassis.settings import ChassisSettings
from placement.settings import PlacementSettings
from sfu.settings import SfuSettings
from signaling.settings import SignalingSettings
from webhook.settings import WebhookSettings

SETTINGS = {
    ALL: ChassisSettings,
    "signaling": SignalingSettings,
    "sfu": SfuSettings,
    "placement": PlacementSettings,
    "webhook": WebhookSettings,
}
SECRET = "s" * 32
LIVEKIT = f"""
port: 7890
bind_addresses: ["", "::1"]
logging: {{level: warn}}
region: eu
keys: {{devkey: {SECRET}}}
redis: {{address: "redis:6379", username: hush}}
rtc:
  udp_port: 7900-7910
  tcp_port: 7901
  node_ip: {{ipv4: 192.0.2.1, ipv6: "2001:db8::1"}}
  port_range_start: 50000
  use_external_ip: true
  pli_throttle: {{low_quality: 500ms}}
  stun_servers: ["stun.example.com:3478"]
  turn_servers: [{{host: turn.example.com, port: 443, protocol: tls, username: u, credential: c}}]
audio: {{active_red_encoding: true}}
video: {{codec_regression_threshold: 3}}
room:
  auto_create: false
  enabled_codecs: [{{mime: audio/opus}}, {{mime: video/vp8}}]
  max_participants: 50
  empty_timeout: 60
  departure_timeout: 5
  enable_remote_unmute: true
  room_configurations: {{webinar: {{max_participants: 500}}}}
  playout_delay: {{enabled: true}}
webhook:
  urls: ["https://example.com/hook"]
  api_key: devkey
  filter_params: {{exclude_events: [track_published]}}
turn: {{enabled: true}}
node_selector: {{kind: random, cpu_load_limit: 0.5}}
limit: {{num_tracks: -1, subscription_limit_video: 4, max_metadata_size: 1000}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.yaml"
    monkeypatch.setenv(configuration.VARIABLE, str(path))
    return path


def test_each_counterpart_is_a_setting_of_its_service() -> None:
    for path, counterpart in COUNTERPARTS.items():
        assert counterpart.name in SETTINGS[counterpart.service].model_fields, path
    assert set(SERVICES) == set(SETTINGS) - {ALL}


def test_a_livekit_yaml_is_understood(file: Path) -> None:
    file.write_text(LIVEKIT)
    signaling, sfu = SignalingSettings(), SfuSettings()
    placement, webhook = PlacementSettings(), WebhookSettings()
    for settings in (signaling, sfu, placement, webhook):
        assert (settings.region, settings.log_level) == ("eu", "warning")
        assert settings.api_keys["devkey"].get_secret_value() == SECRET
    assert signaling.http_addresses == ("0.0.0.0:7890", "[::1]:7890")
    assert signaling.auto_create is False
    assert sfu.udp_addresses == ("0.0.0.0:7900",)
    assert sfu.tcp_addresses == ("0.0.0.0:7901",)
    assert sfu.node_ip == "192.0.2.1,2001:db8::1"
    assert sfu.stun_servers == sfu.client_stun_servers == ("stun.example.com:3478",)
    assert (sfu.turn_servers[0].host, sfu.turn_servers[0].username) == ("turn.example.com", "u")
    assert sfu.enabled_codecs == ("audio/opus", "video/vp8")
    assert (sfu.empty_timeout_s, sfu.departure_timeout_s, sfu.max_participants) == (60, 5, 50)
    assert (sfu.active_red_encoding, sfu.codec_regression_threshold) == (True, 3)
    assert sfu.room_presets["webinar"].max_participants == 500
    assert (sfu.track_limit, sfu.subscription_limit_video, sfu.max_metadata_bytes) == (0, 4, 1000)
    assert (placement.node_selector, placement.node_sort_by) == ("any", "random")
    assert placement.cpu_load_limit == 0.5
    assert (webhook.urls, webhook.exclude_events) == (
        ("https://example.com/hook",),
        ("track_published",),
    )


def test_what_has_no_effect_is_named_with_what_to_use_instead() -> None:
    warnings = configuration.read(LIVEKIT, "livekit.yaml").warnings
    assert len(warnings) == 7
    text = "\n".join(warnings)
    assert "livekit.yaml: redis.address has no effect here; the bus is NATS: nats_url" in text
    assert "rtc.port_range_start has no effect here; one UDP port carries all" in text
    assert "turn.enabled has no effect here; run a TURN server" in text
    assert "rtc.pli_throttle has no effect here" in text
    assert "room.playout_delay has no effect here" in text
    assert "hush" not in text


def test_the_environment_wins_over_the_file_and_our_name_over_theirs(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("room: {empty_timeout: 60}\nsfu: {empty_timeout_s: 70, max_participants: 3}\n")
    monkeypatch.setenv("SFU_MAX_PARTICIPANTS", "4")
    settings = SfuSettings()
    assert (settings.empty_timeout_s, settings.max_participants) == (70, 4)
    assert SfuSettings(empty_timeout_s=80).empty_timeout_s == 80
    assert SignalingSettings().auto_create is True


def test_own_settings_have_their_place(file: Path) -> None:
    file.write_text(
        "nats_replicas: 3\nsignaling: {joins_burst_per_address: 5}\nwebhook: {timeout_s: 3}\n"
        "placement:\nsfu:\n"
    )
    assert SignalingSettings().joins_burst_per_address == 5
    assert WebhookSettings().timeout_s == 3
    assert {settings().nats_replicas for settings in SETTINGS.values()} == {3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"config.yaml: not YAML in line 1"),
        ("- a", "must be settings with names"),
        ("signaling: 5", "signaling must be settings with names"),
        ("room: 5", "room must be settings with names"),
        ("nats_ulr: x", "no setting nats_ulr; is it nats_url?"),
        ("signaling: {auto_creat: true}", "no setting signaling.auto_creat; is it auto_create?"),
        ("zzz: 1", "no setting zzz; see docs/operators/configuration.md"),
        ("port: 70000", "port: not a port"),
        ("bind_addresses: everywhere", "bind_addresses: not a list"),
        ("rtc: {udp_port: many}", "rtc.udp_port: not a port"),
        ("rtc: {turn_servers: [{host: h, port: 1, secret: hush}]}", "secret: write the server in"),
        ("room: {enabled_codecs: 5}", "room.enabled_codecs: not of the form"),
        ("keys: hush", "keys: not of the form"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        SignalingSettings()
    assert "hush" not in str(caught.value)


def test_a_wrong_value_is_the_services_own_error(file: Path) -> None:
    file.write_text("room: {empty_timeout: soon}")
    with pytest.raises(ValidationError, match="empty_timeout_s"):
        SfuSettings()
    assert SignalingSettings().auto_create  # no concern of signaling's


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(configuration.VARIABLE, "/nowhere/config.yaml")
    with pytest.raises(SettingsError, match=r"/nowhere/config\.yaml: FileNotFoundError"):
        ChassisSettings()


def test_no_file_is_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(configuration.VARIABLE, raising=False)
    assert configuration.read("").values == {}
    assert ChassisSettings().nats_replicas == 1

"""What Python gives the engine is checked when it is made, and prints no secret."""

import pytest

from mediacore import (
    Binding,
    Codec,
    EngineConfig,
    ExtensionIds,
    PeerConnectionConfig,
    ReceiverConfig,
    RemoteTransport,
    SourceConfig,
)


@pytest.mark.parametrize("address", ["", "localhost:1", "127.0.0.1", "::1:80", "127.0.0.1:99999"])
def test_address_that_is_not_ip_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address is an IP address and a port"):
        Binding(address)


@pytest.mark.parametrize("advertise", [None, "203.0.113.5", "203.0.113.5:30000"])
def test_advertised_address_may_keep_or_change_the_port(advertise: str | None) -> None:
    Binding("127.0.0.1:7882", advertise)


@pytest.mark.parametrize("advertise", ["example.org", "", "2001:db8::1"])
def test_useless_advertised_address_is_refused(advertise: str) -> None:
    with pytest.raises(ValueError, match="advertise"):
        Binding("127.0.0.1:7882", advertise)


def test_engine_without_address_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an address"):
        EngineConfig([])


def test_passwords_are_not_printed() -> None:
    config = PeerConnectionConfig("ufrag", "s3cret-s3cret-s3cret-1")
    remote = RemoteTransport("ufrag", "s3cret-s3cret-s3cret-1", "sha-256 AA")
    for text in (repr(config), repr(remote)):
        assert "s3cret" not in text
        assert "ufrag" in text


def test_values_print_what_they_are() -> None:
    assert repr(ExtensionIds(mid=4)) == "ExtensionIds(mid=4)"
    assert repr(Binding("[::1]:7882")) == 'Binding("[::1]:7882")'
    assert repr(Codec("video/VP8", 96, 90000)) == 'Codec("video/VP8", 96, 90000)'


def test_wrong_codec_kind_and_source_are_refused() -> None:
    with pytest.raises(ValueError, match="payload type"):
        Codec("video/VP8", 128, 90000)
    with pytest.raises(ValueError, match="kind"):
        ReceiverConfig("screen", "0", [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames_per_second"):
        SourceConfig("audio", "audio/opus", 48000, float("nan"), 1, 100)
    with pytest.raises(ValueError, match="payload_bytes"):
        SourceConfig("audio", "audio/opus", 48000, 50, 1, 31)
    with pytest.raises(OverflowError):
        ExtensionIds(mid=256)

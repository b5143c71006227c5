"""Which clients are told not to use which codecs."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.devices import client_configuration
from sfu.core.media_commands import CreatePeerConnection
from tests.support.scripted_room import World

XIAOMI = models.ClientInfo(os="Android", device_model="Xiaomi 2201117TI")


def safari(version: str) -> models.ClientInfo:
    return models.ClientInfo(browser="Safari", browser_version=version)


def firefox(os: str, browser: str = "Firefox") -> models.ClientInfo:
    return models.ClientInfo(browser=browser, os=os)


@pytest.mark.parametrize(
    ("device", "disabled", "not_published"),
    [
        (models.ClientInfo(browser="Chrome", os="Linux"), [], []),
        (safari("17.6"), ["video/AV1"], []),
        (safari("18.3"), ["video/AV1"], []),
        (safari("18.4"), ["video/AV1"], ["video/VP9"]),
        (safari("26.0.1"), ["video/AV1"], ["video/VP9"]),
        (safari(""), ["video/AV1"], []),
        (firefox("Linux"), [], ["video/H264"]),
        (firefox("Android", "Firefox Mobile"), [], ["video/H264"]),
        (firefox("macOS"), [], []),
        (XIAOMI, [], ["video/H264"]),
        (models.ClientInfo(os="Android", device_model="Pixel 9"), [], []),
    ],
)
def test_codecs_a_device_does_badly_are_disabled(
    device: models.ClientInfo, disabled: list[str], not_published: list[str]
) -> None:
    codecs = client_configuration(device).disabled_codecs
    assert [codec.mime for codec in codecs.codecs] == disabled
    assert [codec.mime for codec in codecs.publish] == not_published


def test_join_leaves_disabled_codecs_out_of_those_to_publish(world: World) -> None:
    join = world.join("a", device=safari("18.4")).last("join")
    assert isinstance(join, rtc.JoinResponse)
    offered = {codec.mime for codec in join.enabled_publish_codecs}
    assert not offered & {"video/AV1", "video/VP9"}
    assert {"video/VP8", "video/H264", "audio/opus"} <= offered
    assert join.client_configuration == client_configuration(safari("18.4"))


def test_resume_says_the_configuration_again(world: World) -> None:
    a = world.join("a", device=safari("18.4"), connect=True)
    again = world.resume(a)
    assert again.inbox[0].reconnect.client_configuration == client_configuration(safari("18.4"))


@pytest.mark.parametrize(
    ("device", "disabled", "lite"),
    [
        (models.ClientInfo(browser="Chrome"), False, True),
        (models.ClientInfo(browser="Chrome"), True, False),
        (firefox("Linux"), False, False),
    ],
)
def test_ice_lite_unless_the_client_cannot_or_will_not(
    world: World, device: models.ClientInfo, disabled: bool, lite: bool
) -> None:
    request = rtc.JoinRequest()
    request.connection_settings.disable_ice_lite = disabled
    world.join("a", device=device, request=request)
    assert [made.ice_lite for made in world.told(CreatePeerConnection)] == [lite]

"""The parts of `roomwright dev` that need no process."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from chassis.tokens import verify
from roomwright import dev
from roomwright.dev_settings import DevSettings
from roomwright.errors import CommandError


def test_link_has_url_and_token_in_the_fragment_alone() -> None:
    settings = DevSettings()
    token = dev.make_token(settings, "ann")
    link = urlsplit(dev.page_link("http://localhost:7880", "ws://localhost:7880", token))
    assert (link.path, link.query) == ("/app/", "")
    assert parse_qs(link.fragment) == {"url": ["ws://localhost:7880"], "token": [token]}


def test_printed_token_joins_the_demo_room() -> None:
    settings = DevSettings()
    grants = verify(dev.make_token(settings, "ann"), settings.keys)
    assert (grants.identity, grants.video.room, grants.video.room_join) == ("ann", "demo", True)


def test_media_listens_where_http_does() -> None:
    values = dev.media_settings(DevSettings(udp_port=1, tcp_port=2), ["127.0.0.1", "::1"])
    assert values == {
        "udp_addresses": ("127.0.0.1:1", "[::1]:1"),
        "tcp_addresses": ("127.0.0.1:2", "[::1]:2"),
        "node_ip": "",
    }


def test_given_node_ip_is_told_to_clients() -> None:
    values = dev.media_settings(DevSettings(node_ip="192.0.2.7"), ["0.0.0.0"])
    assert values["node_ip"] == "192.0.2.7"


def test_page_directory_must_hold_a_page(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"there is no index.html"):
        dev.web_directory(DevSettings(web_dir=tmp_path))
    (tmp_path / "index.html").write_text("")
    assert dev.web_directory(DevSettings(web_dir=tmp_path)) == tmp_path

"""The chart's values: one documented source, and what is made from it."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from livekit.protocol import room

from chassis.roles import MEMBERS
from placement.settings import PlacementSettings
from sfu.settings import SfuSettings, TurnServerSettings
from signaling.settings import SignalingSettings
from tools import chart_nats
from tools.chart_values import SOURCE, ValuesError, read, schema, stale
from webhook.settings import WebhookSettings

VALUES = SOURCE.read_text(encoding="utf-8")


def check(changes: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(schema(read(VALUES))).validate(changes)


def test_schema_and_page_are_fresh() -> None:
    assert stale(VALUES) == [], "run `python tools/chart_values.py`"


def test_nats_users_are_fresh() -> None:
    assert chart_nats.TARGET.read_text(encoding="utf-8") == chart_nats.rendered(), (
        "run `python tools/chart_nats.py`"
    )


def test_changed_source_makes_both_files_stale() -> None:
    changed = VALUES.replace("# Level of the services' JSON logs.", "# How much the services say.")
    assert {path.name for path in stale(changed)} == {"values.schema.json", "values.md"}


def test_defaults_satisfy_the_schema() -> None:
    check(yaml.safe_load(VALUES))


def test_unknown_key_is_refused_at_every_depth() -> None:
    for changes in ({"signalling": {}}, {"sfu": {"expose": {"udp": {"prot": 1}}}}):
        with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
            check(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"sfu": {"expose": {"type": "nodePort"}}},
        {"sfu": {"expose": {"udp": {"port": 70000}}}},
        {"signaling": {"replicas": "2"}},
        {"secrets": {"keys": {"values": {"key": "short"}}}},
        {"ipFamilies": []},
        {"placement": {"settings": {"nodeSortBy": "luck"}}},
    ],
)
def test_value_of_the_wrong_kind_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(changes)


def test_key_without_documentation_is_an_error_that_names_its_line() -> None:
    with pytest.raises(ValuesError, match=r"line 3: nats\.port has no comment"):
        read("# NATS.\nnats:\n  port: 1\n")


def test_service_block_inherits_documentation_from_an_earlier_one() -> None:
    source = "# One.\nsignaling:\n  # Pods.\n  replicas: 2\n# Two.\nsfu:\n  replicas: 1\n"
    _, sfu = read(source)
    assert sfu.children[0].text == "Pods."


@pytest.mark.parametrize(
    ("service", "settings"),
    [
        ("signaling", SignalingSettings),
        ("placement", PlacementSettings),
        ("sfu", SfuSettings),
        ("webhook", WebhookSettings),
    ],
)
def test_every_setting_of_the_chart_is_one_of_the_service(service: str, settings: Any) -> None:
    names = [_snake(key) for key in yaml.safe_load(VALUES)[service]["settings"]]
    assert [name for name in names if name not in settings.model_fields] == []


def test_turn_server_of_the_chart_can_say_what_the_service_takes_but_no_plain_credential() -> None:
    server = schema(read(VALUES))["properties"]["sfu"]["properties"]["settings"]["properties"]
    told = {_snake(key) for key in server["turnServers"]["items"]["properties"]}
    assert told == set(TurnServerSettings.model_fields) - {"credential"}


def test_role_of_the_chart_can_say_what_the_services_take() -> None:
    roles = schema(read(VALUES))["properties"]["roles"]
    assert set(roles["additionalProperties"]["properties"]) == set(MEMBERS)


def test_room_preset_of_the_chart_can_say_what_a_configuration_takes() -> None:
    settings = schema(read(VALUES))["properties"]["sfu"]["properties"]["settings"]["properties"]
    told = settings["roomPresets"]["additionalProperties"]["properties"]
    fields = room.RoomConfiguration.DESCRIPTOR.fields
    assert set(told) == {name for field in fields for name in (field.name, field.json_name)}


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)

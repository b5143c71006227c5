"""The document of all settings is fresh and leaves none out."""

from chassis.settings import ChassisSettings
from placement.settings import PlacementSettings
from sfu.settings import SfuSettings
from signaling.settings import SignalingSettings
from tools import settings_document
from webhook.settings import WebhookSettings


def test_the_document_is_fresh() -> None:
    text = settings_document.DOCUMENT.read_text(encoding="utf-8")
    assert text.endswith(settings_document.tables())


def test_each_setting_is_in_its_table() -> None:
    classes = (ChassisSettings, SignalingSettings, SfuSettings, PlacementSettings, WebhookSettings)
    for settings_class, path in zip(classes, settings_document.SOURCES.values(), strict=True):
        told = {name for name, _, _ in settings_document.settings(path)}
        inherited = (
            set() if settings_class is ChassisSettings else set(ChassisSettings.model_fields)
        )
        assert set(settings_class.model_fields) - inherited <= told | {"grpc_address"}

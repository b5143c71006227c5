"""`make e2e` says in one sentence what is missing, before it builds anything."""

from pathlib import Path

import pytest

from tools import e2e


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing is missing."""
    for name in ("kubectl", "helm", "go", "chromium"):
        tool = tmp_path / name
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    config = tmp_path / "config"
    config.touch()
    return {"PATH": str(tmp_path), "KUBECONFIG": str(config), "BUILD": "b", "LOAD": "l"}


def test_nothing_is_missing(machine: dict[str, str]) -> None:
    assert e2e.missing(machine, building=True) == ""


@pytest.mark.parametrize("name", ["KUBECONFIG", "BUILD", "LOAD"])
def test_an_unset_variable_is_named_in_one_sentence(machine: dict[str, str], name: str) -> None:
    told = e2e.missing({**machine, name: ""}, building=True)
    assert told.startswith(f"{name} is not set: ")
    assert "\n" not in told


@pytest.mark.parametrize("tool", ["kubectl", "helm", "go", "chromium"])
def test_a_missing_tool_is_named_with_what_to_do(machine: dict[str, str], tool: str) -> None:
    (Path(machine["PATH"]) / tool).unlink()
    told = e2e.missing(machine, building=True)
    assert told.lower().startswith(f"{tool} is missing: ")


def test_a_kubeconfig_that_is_not_there_is_named(machine: dict[str, str]) -> None:
    assert "/nowhere" in e2e.missing({**machine, "KUBECONFIG": "/nowhere"}, building=True)


def test_with_images_in_the_cluster_no_commands_are_needed(machine: dict[str, str]) -> None:
    assert e2e.missing({**machine, "BUILD": "", "LOAD": ""}, building=False) == ""

"""What stands in more than one file agrees: services, images, chart, skaffold."""

import re
from pathlib import Path
from typing import Any

import yaml

from tools import images

ROOT = Path(__file__).parents[2]
SKAFFOLD: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((images.CHART / "values.yaml").read_text())


def test_skaffold_builds_what_make_images_builds() -> None:
    artifacts = {
        (it["image"], it["docker"]["target"], it["docker"]["dockerfile"], it["context"])
        for it in SKAFFOLD["build"]["artifacts"]
    }
    built = images.service_images("x", "", revision="r")
    assert artifacts == {
        (image.name.removesuffix(":x"), image.target, "Dockerfile", ".") for image in built
    }


def test_skaffold_gives_every_built_image_to_the_chart() -> None:
    (release,) = SKAFFOLD["deploy"]["helm"]["releases"]
    assert (ROOT / release["chartPath"]).resolve() == images.CHART.resolve()
    templates = release["setValueTemplates"]
    for service in images.SERVICES:
        name = f"roomwright_{service}"
        assert templates[f"{service}.image.repository"] == f"{{{{.IMAGE_REPO_{name}}}}}"
        assert templates[f"{service}.image.tag"] == f"{{{{.IMAGE_TAG_{name}}}}}"
    for path in (*templates, *release["setValues"]):
        place: Any = VALUES
        for key in path.split("."):
            assert key in place, f"the chart has no value {path}"
            place = place[key]


def test_skaffold_names_only_keys_of_its_schema() -> None:
    """Structure by hand: the published schema (v4beta13) is not part of the repository."""
    assert SKAFFOLD["apiVersion"] == "skaffold/v4beta13"
    assert SKAFFOLD["kind"] == "Config"
    assert set(SKAFFOLD) <= {
        "apiVersion",
        "kind",
        "metadata",
        "build",
        "deploy",
        "portForward",
        "profiles",
    }
    assert set(SKAFFOLD["build"]) <= {"artifacts", "tagPolicy", "local"}
    for artifact in SKAFFOLD["build"]["artifacts"]:
        assert set(artifact) == {"image", "context", "docker"}
        assert set(artifact["docker"]) == {"dockerfile", "target"}
    for forward in SKAFFOLD["portForward"]:
        assert set(forward) == {"resourceType", "resourceName", "namespace", "port", "localPort"}


def test_the_chart_names_the_images_that_are_built() -> None:
    for service in images.SERVICES:
        assert VALUES[service]["image"]["repository"] == f"roomwright-{service}"


def test_the_makefile_names_only_tools_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for module in re.findall(r"-m (tools\.\w+)", makefile):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module

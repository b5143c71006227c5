"""What is built, under which names, by which command."""

import re
from pathlib import Path

import pytest

from tools import images

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_every_service_has_an_image_named_after_it() -> None:
    services = {path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml")}
    assert set(images.SERVICES) == services
    built = images.service_images("1.2.3", "registry.example/rw", revision="abc")
    assert [image.name for image in built] == [
        f"registry.example/rw/roomwright-{service}:1.2.3" for service in images.SERVICES
    ]


@pytest.mark.parametrize("target", [*images.SERVICES, "nats-stand-in"])
def test_the_dockerfile_has_the_target(target: str) -> None:
    assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.MULTILINE)


def test_images_start_from_two_bases_only() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    outside = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - stages
    assert outside == {
        "docker.io/library/python:3.12-slim-bookworm",
        "docker.io/library/debian:bookworm-slim",
    }


def test_every_package_of_an_image_is_locked_by_hash() -> None:
    for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines():
        if line.startswith("RUN ") and "requirements/" in line:
            assert "--require-hashes" in line
    for service in images.SERVICES:
        assert f"requirements/{service}.txt" in DOCKERFILE


def test_what_the_dockerfile_copies_is_let_through_by_dockerignore() -> None:
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert any(Path(source).match(pattern) or source == pattern for pattern in allowed), source


def test_a_given_builder_gets_tag_directory_and_arguments() -> None:
    image = images.Image("roomwright-sfu:dev", "sfu", ("VERSION=dev",))
    rest = ["--target", "sfu", "--build-arg", "VERSION=dev"]
    assert images.build_command(image, "./build it") == [
        "./build",
        "it",
        "roomwright-sfu:dev",
        str(images.ROOT),
        *rest,
    ]
    docker = ["docker", "build", "-t", "roomwright-sfu:dev", *rest, str(images.ROOT)]
    assert images.build_command(image, "") == docker


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"repository": "nats", "tag": "2.12-alpine"}, "docker.io/library/nats:2.12-alpine"),
        ({"repository": "natsio/nats-box", "tag": "1"}, "docker.io/natsio/nats-box:1"),
        ({"registry": "quay.io", "repository": "a/b", "tag": "1"}, "quay.io/a/b:1"),
        ({"registry": "", "repository": "ghcr.io/a/b", "tag": "1"}, "ghcr.io/a/b:1"),
        ({"registry": "docker.io", "repository": "nats", "tag": "1"}, "docker.io/library/nats:1"),
    ],
)
def test_a_stand_in_has_the_name_a_node_looks_for(value: dict[str, str], name: str) -> None:
    assert images.full_name(value) == name
    assert images.stand_in_images({"nats": {"image": value}})[0].name == name

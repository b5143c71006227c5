"""Builds the images: one per service, and stand-ins of third-party ones for clusters without a registry.

`BUILD` is a command that is called as `BUILD TAG DIRECTORY ARGUMENTS...`; without it, `docker build` is used.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("signaling", "placement", "sfu", "webhook")
DEFAULT_TAG = "dev"
REGISTRY = "docker.io/library"
"""What a name without a registry means to a node."""
CHART = ROOT / "charts" / "roomwright"


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its full name, and how the Dockerfile makes it."""

    name: str
    target: str
    arguments: tuple[str, ...] = ()
    """Further `--build-arg` values, as `NAME=value`."""


def service_images(
    tag: str, registry: str, *, contracts: str = "this", revision: str = ""
) -> list[Image]:
    """The images of our own services."""
    arguments = [f"VERSION={tag}", f"REVISION={revision or git_revision()}"]
    if contracts != "this":
        arguments.append(f"CONTRACTS={contracts}")
    prefix = f"{registry}/" if registry else ""
    return [
        Image(f"{prefix}roomwright-{service}:{tag}", service, tuple(arguments))
        for service in SERVICES
    ]


def stand_in_images(values: Mapping[str, object] | None = None) -> list[Image]:
    """Stand-ins under exactly the names that the chart's values give to images of others."""
    if values is None:
        values = yaml.safe_load((CHART / "values.yaml").read_text())
    nats = values["nats"]
    assert isinstance(nats, dict)
    return [Image(full_name(nats["image"]), "nats-stand-in")]


def full_name(image: Mapping[str, object]) -> str:
    """The name under which a node looks an image up: registry, repository and tag, all spelt out."""
    registry, repository = str(image.get("registry") or ""), str(image["repository"])
    if not registry:
        first = repository.partition("/")[0]
        has_registry = "/" in repository and ("." in first or ":" in first)
        registry = "" if has_registry else "docker.io"
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return f"{registry}/{repository}:{image['tag']}".lstrip("/")


def build_command(image: Image, build: str) -> list[str]:
    """The command that builds one image; `build` is `BUILD`, or empty for docker."""
    rest = ["--target", image.target]
    for argument in image.arguments:
        rest += ["--build-arg", argument]
    if build:
        return [*shlex.split(build), image.name, str(ROOT), *rest]
    return ["docker", "build", "-t", image.name, *rest, str(ROOT)]


def build(images: Sequence[Image], command: str = "") -> dict[str, float]:
    """Build all; seconds by name. Ends the program with one line when one fails."""
    costs = {}
    for image in images:
        print(f"==> image {image.name}", flush=True)
        begin = time.monotonic()
        try:
            done = subprocess.run(build_command(image, command), check=False)
        except FileNotFoundError as missing:
            sys.exit(
                f"images: {missing.filename} is missing: install docker, or name another builder with BUILD='...'"
            )
        if done.returncode != 0:
            sys.exit(f"images: {image.name} was not built; the builder's output above says why")
        costs[image.name] = time.monotonic() - begin
    return costs


def size_bytes(name: str) -> int | None:
    """How large a built image is, by whichever engine here knows it; None when none does."""
    for engine in ("docker", "podman"):
        if shutil.which(engine):
            asked = [engine, "image", "inspect", "--format", "{{.Size}}", name]
            told = subprocess.run(asked, capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.strip().isdigit():
                return int(told.stdout)
    return None


def git_revision() -> str:
    """The commit that is built, `-dirty` when the tree differs from it."""
    asked = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def main() -> None:
    """Build what the command line asks for, and say what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--tag", default=DEFAULT_TAG)
    add("--registry", default=REGISTRY, help="host and path before the name")
    add(
        "--stand-ins",
        action="store_true",
        default=os.environ.get("STAND_INS") == "1",
        help="also images of others, from package binaries (or STAND_INS=1)",
    )
    add("--contracts", choices=("this", "next"), default="this", help="next: for version tests")
    options = parser.parse_args()
    if not (ROOT / "web" / "dist" / "index.html").exists():
        sys.exit("images: web/dist is missing: run `make images`, which builds the page first")
    images = service_images(options.tag, options.registry, contracts=options.contracts)
    if options.stand_ins:
        images += stand_in_images()
    costs = build(images, os.environ.get("BUILD", ""))
    for name, seconds in costs.items():
        size = size_bytes(name)
        shown = "size unknown" if size is None else f"{size / 1e6:6.0f} MB"
        print(f"    {seconds:6.1f} s  {shown}  {name}", flush=True)


if __name__ == "__main__":
    main()

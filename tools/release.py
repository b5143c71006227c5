"""Everything of a release, into dist/: images for both machines, the chart, SBOMs, NOTICE, checksums.

Images need `docker buildx` with builders (or emulation) for amd64 and arm64; `--no-images` makes the rest without it.
With `--registry` images and chart are pushed there; without, they are files.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import yaml

from tools import images

ROOT = images.ROOT
DIST = ROOT / "dist"
PLATFORMS = "linux/amd64,linux/arm64"
_LOCKED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)
_COPYLEFT = re.compile(r"\b(A|L)?GPL|GNU (Affero |Lesser |Library )?General Public", re.IGNORECASE)
_CLASSIFIER = "License :: OSI Approved :: "


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """One package of others that a release holds."""

    name: str
    version: str
    kind: str
    """The package URL's type: pypi, cargo or npm."""
    license: str = "unknown"
    hashes: tuple[str, ...] = field(default=(), compare=False)
    """SHA-256 of its archives, in hexadecimal; several where one is chosen by machine."""

    @property
    def purl(self) -> str:
        """Its package URL (purl-spec): how tools recognize it."""
        name = self.name.replace("@", "%40") if self.kind == "npm" else self.name
        return f"pkg:{self.kind}/{name}@{self.version}"


def python_components(service: str) -> list[Component]:
    """The locked Python packages of a service's image."""
    text = (ROOT / "requirements" / f"{service}.txt").read_text()
    found = list(_LOCKED.finditer(text))
    ends = [*(it.start() for it in found[1:]), len(text)]
    return [
        Component(
            it["name"],
            it["version"],
            "pypi",
            python_license(it["name"]),
            tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", text[it.start() : end])),
        )
        for it, end in zip(found, ends, strict=True)
    ]


def python_license(name: str) -> str:
    """What an installed package says of its license; `unknown` for one that is not installed."""
    try:
        told = distribution(name).metadata.json
    except PackageNotFoundError:
        return "unknown"
    classified = [
        line.removeprefix(_CLASSIFIER)
        for line in told.get("classifier", [])
        if line.startswith(_CLASSIFIER)
    ]
    short = str(told.get("license", "")).strip()
    if "\n" in short or len(short) > 60:  # some put the whole text there
        short = ""
    expression = str(told.get("license_expression", ""))
    return expression or " AND ".join(classified) or short or "unknown"


def rust_components() -> list[Component]:
    """The crates that are linked into the media core."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    for machine in ("x86_64", "aarch64"):
        command += ["--filter-platform", f"{machine}-unknown-linux-gnu"]
    told = subprocess.run(command, cwd=ROOT / "media", capture_output=True, text=True, check=False)
    if told.returncode != 0:
        sys.exit(f"release: cargo metadata failed: {told.stderr.strip()}")
    return crates(json.loads(told.stdout), (ROOT / "media" / "Cargo.lock").read_text())


def crates(graph: dict[str, object], lock: str) -> list[Component]:
    """The crates that `mediacore-binding` needs at run time, out of `cargo metadata`."""
    packages = {it["id"]: it for it in graph["packages"]}  # type: ignore[attr-defined]
    nodes = {it["id"]: it for it in graph["resolve"]["nodes"]}  # type: ignore[index]
    left = [key for key, it in packages.items() if it["name"] == "mediacore-binding"]
    seen: set[str] = set()
    while left:
        key = left.pop()
        if key in seen:
            continue
        seen.add(key)
        left += [
            needed["pkg"]
            for needed in nodes[key]["deps"]
            if any(it["kind"] is None for it in needed["dep_kinds"])
        ]
    checksums = {
        (it[0], it[1]): it[2]
        for it in re.findall(
            r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "([0-9a-f]{64})"', lock
        )
    }
    found = []
    for key in seen:
        it = packages[key]
        if it["source"] is None:  # ours
            continue
        checksum = checksums.get((it["name"], it["version"]))
        hashes = (checksum,) if checksum else ()
        terms = (it["license"] or "unknown").replace("/", " OR ")
        found.append(Component(it["name"], it["version"], "cargo", terms, hashes))
    return sorted(found)


def page_components() -> list[Component]:
    """The npm packages that are bundled into the page."""
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    return sorted(
        Component(
            path.rpartition("node_modules/")[2], it["version"], "npm", it.get("license", "unknown")
        )
        for path, it in lock["packages"].items()
        if path and not it.get("dev") and not it.get("optional")
    )


def components(service: str) -> list[Component]:
    """Everything of others that is locked into a service's image; Debian's packages are the base image's own."""
    found = python_components(service)
    if service == "sfu":
        found += rust_components()
    if service == "signaling":
        found += page_components()
    return sorted(found)


def sbom(service: str, version: str, parts: Iterable[Component]) -> dict[str, object]:
    """A CycloneDX 1.6 document: the same bytes for the same locks."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"roomwright-{service}",
                "name": f"roomwright-{service}",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": part.purl,
                "name": part.name,
                "version": part.version,
                "purl": part.purl,
                "licenses": [{"license": {"name": part.license}}],
                # CycloneDX has hashes for one file; a package with an archive per machine lists them apart.
                **(
                    {"hashes": [{"alg": "SHA-256", "content": part.hashes[0]}]}
                    if len(part.hashes) == 1
                    else {}
                ),
                **(
                    {
                        "properties": [
                            {"name": "roomwright:archive:sha256", "value": digest}
                            for digest in part.hashes
                        ]
                    }
                    if len(part.hashes) > 1
                    else {}
                ),
            }
            for part in sorted(set(parts))
        ],
    }


def notice(parts: Iterable[Component]) -> str:
    """The text that goes with the images: who wrote what is in them, and which parts are under the GPL."""
    every = sorted(set(parts))
    # Of a choice of licenses the permissive one is taken.
    copyleft = [part for part in every if all(map(_COPYLEFT.search, part.license.split(" OR ")))]
    lines = [
        "Roomwright",
        "Licensed under the Apache License, Version 2.0 (see LICENSE).",
        "",
        "Parts under a GNU license",
        "-------------------------",
        "The images are based on Debian, whose packages include programs and libraries under the GPL and the LGPL",
        "(among them bash, coreutils, dpkg and the GNU C library); each one's terms and authors are in",
        "/usr/share/doc/<package>/copyright of the image, its source at https://sources.debian.org.",
        *(f"{part.name} {part.version} ({part.kind}): {part.license}" for part in copyleft),
        *(
            ()
            if copyleft
            else ("No package that is locked into the images is under a GNU license.",)
        ),
        "",
        "Parts of others",
        "---------------",
        *(f"{part.name} {part.version} ({part.kind}): {part.license}" for part in every),
        "",
        "NATS, which the chart installs beside the services, is an image of its own, licensed under Apache-2.0.",
        "",
    ]
    return "\n".join(lines)


def checksums(folder: Path) -> str:
    """SHA-256 of every file, as `sha256sum -c` reads it."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "SHA256SUMS"
    )


def image_command(image: images.Image, platforms: str, epoch: str, push: bool) -> list[str]:
    """buildx for one image and all machines: pushed, or an OCI archive in dist/."""
    output = f"type=image,name={image.name},push=true,rewrite-timestamp=true"
    if not push:
        archive = DIST / f"{image.name.rpartition('/')[2].replace(':', '-')}.oci.tar"
        output = f"type=oci,dest={archive},rewrite-timestamp=true"
    command = ["docker", "buildx", "build", "--platform", platforms, "--target", image.target]
    for argument in (*image.arguments, f"SOURCE_DATE_EPOCH={epoch}"):
        command += ["--build-arg", argument]
    return [*command, "--output", output, str(ROOT)]


def run(*command: str) -> str:
    """A command's output; ends the program with its error when it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"release: {' '.join(command[:4])} ... failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()


def main() -> None:
    """Make the release."""
    chart = yaml.safe_load((images.CHART / "Chart.yaml").read_text())
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--version", default=str(chart["appVersion"]))
    add("--registry", default="", help="push images and chart there, as host/path")
    add("--platforms", default=PLATFORMS)
    add("--no-images", action="store_true", help="only what needs no docker buildx")
    options = parser.parse_args()
    for tool, advice in (
        ("helm", "install Helm 3 from https://helm.sh"),
        ("cargo", "install Rust with rustup from https://rustup.rs"),
        *(() if options.no_images else (("docker", "install docker with buildx"),)),
    ):
        if shutil.which(tool) is None:
            sys.exit(f"release: {tool} is missing: {advice}.")
    version, registry = options.version, options.registry
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    everything: list[Component] = []
    for service in images.SERVICES:
        parts = components(service)
        everything += parts
        document = json.dumps(sbom(service, version, parts), indent=1) + "\n"
        (DIST / f"roomwright-{service}-{version}.cdx.json").write_text(document)
    (DIST / "NOTICE").write_text(notice(everything))
    unknown = sorted({it.name for it in everything if it.license == "unknown"})
    if unknown:
        sys.exit(
            f"release: no license is known of {', '.join(unknown)}: find it before you ship it"
        )
    packing = ("--version", version, "--app-version", version, "--destination", str(DIST))
    run("helm", "package", str(images.CHART), *packing)
    if not options.no_images:
        epoch = run("git", "log", "-1", "--format=%ct")
        for image in images.service_images(version, registry or "docker.io/library"):
            run(*image_command(image, options.platforms, epoch, push=bool(registry)))
    if registry:
        run("helm", "push", str(DIST / f"roomwright-{version}.tgz"), f"oci://{registry}/charts")
    (DIST / "SHA256SUMS").write_text(checksums(DIST))
    for path in sorted(DIST.iterdir()):
        print(f"    {path.stat().st_size / 1e3:10.0f} kB  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

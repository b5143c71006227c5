"""What goes with a release: the list of its parts, their licenses, checksums."""

import json
from pathlib import Path

import pytest

from tools import images, release
from tools.release import Component

LOCK = """
[[package]]
name = "aes"
version = "1.0.0"
source = "registry"
checksum = "{sum}"
""".replace("{sum}", "a" * 64)


def test_every_locked_python_package_is_a_component_with_its_hashes() -> None:
    for service in images.SERVICES:
        parts = release.python_components(service)
        lock = (images.ROOT / "requirements" / f"{service}.txt").read_text()
        assert len(parts) == lock.count("==") - lock.count("python_full_version ==")
        assert all(part.hashes for part in parts)
        assert all(part.license != "unknown" for part in parts)


def test_crates_are_those_linked_into_the_module_and_not_its_build_or_ours() -> None:
    def package(name: str, source: str | None) -> dict[str, object]:
        return {
            "id": name,
            "name": name,
            "version": "1.0.0",
            "source": source,
            "license": "MIT/Apache-2.0",
        }

    def needs(name: str, *edges: tuple[str, str | None]) -> dict[str, object]:
        deps = [{"pkg": to, "dep_kinds": [{"kind": kind}]} for to, kind in edges]
        return {"id": name, "deps": deps}

    graph = {
        "packages": [
            package("mediacore-binding", None),
            package("mediacore-core", None),
            package("aes", "registry"),
            package("cc", "registry"),
            package("proptest", "registry"),
        ],
        "resolve": {
            "nodes": [
                needs("mediacore-binding", ("mediacore-core", None), ("cc", "build")),
                needs("mediacore-core", ("aes", None), ("proptest", "dev")),
                needs("aes"),
                needs("cc"),
                needs("proptest"),
            ]
        },
    }
    assert release.crates(graph, LOCK) == [Component("aes", "1.0.0", "cargo", "MIT OR Apache-2.0")]
    assert release.crates(graph, LOCK)[0].hashes == ("a" * 64,)


def test_the_page_lists_what_is_bundled_and_no_build_tools() -> None:
    names = {part.name for part in release.page_components()}
    assert "livekit-client" in names
    assert not names & {"typescript", "esbuild"}


def test_the_sbom_names_each_part_once_by_its_package_url() -> None:
    part = Component("@scope/x", "2", "npm", "MIT", ("b" * 64,))
    document = json.loads(json.dumps(release.sbom("signaling", "1", [part, part])))
    assert document["bomFormat"] == "CycloneDX"
    (listed,) = document["components"]
    assert listed["purl"] == "pkg:npm/%40scope/x@2"
    assert listed["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ("GPL-3.0-only", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("AGPL-3.0-or-later", True),
        ("MIT OR LGPL-2.1-or-later", False),  # a choice: the other is taken
        ("MIT AND LGPL-2.1-or-later", True),
        ("Apache-2.0", False),
    ],
)
def test_the_notice_names_what_is_under_a_gnu_license(terms: str, named: bool) -> None:
    text = release.notice([Component("thing", "1", "pypi", terms)])
    gnu, _, others = text.partition("Parts of others")
    assert ("thing 1" in gnu) is named
    assert "thing 1" in others


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "SHA256SUMS").write_text("old")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert release.checksums(tmp_path) == f"{empty}  a\n"


def test_images_are_built_for_both_machines_and_pushed_only_when_a_registry_is_named() -> None:
    image = images.Image("r/roomwright-sfu:1", "sfu", ("VERSION=1",))
    pushed = release.image_command(image, release.PLATFORMS, "7", push=True)
    assert "linux/amd64,linux/arm64" in pushed
    assert "SOURCE_DATE_EPOCH=7" in pushed
    assert any("push=true" in word for word in pushed)
    kept = release.image_command(image, release.PLATFORMS, "7", push=False)
    assert not any("push" in word for word in kept)
    assert any("roomwright-sfu-1.oci.tar" in word for word in kept)

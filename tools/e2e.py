"""The end-to-end tests: build the images, load them into the cluster of KUBECONFIG, install the chart, test, uninstall.

Two commands say how this cluster gets images: `BUILD`, called as `BUILD TAG DIRECTORY ARGUMENTS...`, and `LOAD`,
called as `LOAD TAG...`. Further arguments are pytest's.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from tools import images

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def missing(environment: Mapping[str, str], *, building: bool) -> str:
    """One sentence that says what is not there; empty when nothing is missing."""
    path = environment.get("PATH")
    for tool, advice in (
        ("kubectl", "install it from https://kubernetes.io/docs/tasks/tools"),
        ("helm", "install Helm 3 from https://helm.sh"),
        ("go", "install it from https://go.dev; it fetches the definitions of other APIs"),
    ):
        if shutil.which(tool, path=path) is None:
            return f"{tool} is missing: {advice}."
    config = environment.get("KUBECONFIG", "")
    if not config:
        return (
            "KUBECONFIG is not set: name the file of a cluster that these tests may install into."
        )
    if not all(Path(part).exists() for part in config.split(os.pathsep)):
        return f"KUBECONFIG names a file that is not there ({config})."
    if building:
        for name, shape in (("BUILD", "TAG DIRECTORY ARGUMENTS..."), ("LOAD", "TAG...")):
            if not environment.get(name):
                return (
                    f"{name} is not set: give the command that is called as `{name} {shape}`, "
                    "or say that the images are in the cluster with ARGS=--no-build."
                )
    if not any(shutil.which(name, path=path) for name in CHROMIUM):
        return "Chromium is missing: on Debian, `apt-get install chromium`."
    return ""


def chart_version() -> str:
    """The tag that the chart takes without any values."""
    return str(yaml.safe_load((images.CHART / "Chart.yaml").read_text())["appVersion"])


def main() -> None:
    """Run it all; end with pytest's own exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--no-build", action="store_true", help="the cluster has the images already")
    add(
        "--keep",
        action="store_true",
        help="leave the release installed, and use it again next time",
    )
    options, rest = parser.parse_known_args()
    lacking = missing(os.environ, building=not options.no_build)
    if lacking:
        sys.exit(f"e2e: {lacking}")
    reached = subprocess.run(
        ["kubectl", "get", "nodes", "-o", "name"], capture_output=True, text=True, check=False
    )
    if reached.returncode != 0:
        sys.exit(f"e2e: the cluster of KUBECONFIG does not answer: {reached.stderr.strip()}")
    if not _answers("--raw", "/apis/metrics.k8s.io/v1beta1/nodes"):
        sys.exit(
            "e2e: the cluster does not tell what pods use, and autoscaling needs it: install metrics-server."
        )
    tag = chart_version()
    next_tag = f"{tag}-next"
    costs: dict[str, float] = {}
    if not options.no_build:
        build_and_load(tag, next_tag, costs)
    environment = {**os.environ, "E2E_TAG": tag, "E2E_NEXT_TAG": next_tag}
    if options.keep:
        environment["E2E_KEEP"] = "1"
    begin = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/e2e", *rest]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    costs["tests, with install and uninstall"] = time.monotonic() - begin
    for name, seconds in costs.items():
        print(f"    {seconds:6.1f} s  {name}", flush=True)
    print(f"    {sum(costs.values()):6.1f} s  in all", flush=True)
    sys.exit(done.returncode)


def _answers(*arguments: str) -> bool:
    """`kubectl get` of this works."""
    command = ["kubectl", "get", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build_and_load(tag: str, next_tag: str, costs: dict[str, float]) -> None:
    """The images of now, those with the next release's contracts, and stand-ins of others."""
    ours = images.service_images(tag, images.REGISTRY)
    following = images.service_images(next_tag, images.REGISTRY, contracts="next")
    wanted = [*ours, *following, *images.stand_in_images()]
    costs.update(
        (f"build {name}", seconds)
        for name, seconds in images.build(wanted, os.environ["BUILD"]).items()
    )
    begin = time.monotonic()
    load = [*shlex.split(os.environ["LOAD"]), *(image.name for image in wanted)]
    if subprocess.run(load, check=False).returncode != 0:
        sys.exit("e2e: the images did not load into the cluster; the output of LOAD above says why")
    costs["load the images"] = time.monotonic() - begin


if __name__ == "__main__":
    main()

"""Renders every branch of the chart and checks it: `python -m tools.chart check`. Needs helm, and no cluster.

A branch is a file of values, `charts/roomwright/ci/*-values.yaml`. Each is rendered twice (the same bytes), and every
object of it is held against the schemas of the Kubernetes API. `ci/refused.yaml` lists values that must be refused, and
what is said then. Objects of other APIs are checked by the end-to-end tests, against a server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import yaml

from tools import chart_nats, chart_values

CHART: Final = chart_values.CHART
BRANCHES: Final = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
REFUSED: Final = CHART / "ci" / "refused.yaml"
NAMESPACE: Final = "rooms"
RELEASE: Final = "calls"
KUBERNETES: Final = "1.37.0"
OTHER_APIS: Final = (
    "keda.sh",
    "monitoring.coreos.com",
    "cert-manager.io",
    "gateway.networking.k8s.io",
)
"""Groups whose schemas are not Kubernetes' own."""

Object = dict[str, Any]


class HelmFailed(Exception):
    """helm refused; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Values that cannot work, and a part of the sentence that says so."""

    values: Object
    says: str


def refusals() -> list[Refusal]:
    """The table of what must be refused."""
    table = yaml.safe_load(REFUSED.read_text(encoding="utf-8"))
    return [Refusal(row["values"], row["says"]) for row in table]


def render(values: Path, namespace: str = NAMESPACE) -> str:
    """The manifests, hooks and tests among them. Raises `HelmFailed`."""
    return _helm(
        *("template", RELEASE, str(CHART), "--namespace", namespace),
        *("--kube-version", KUBERNETES, "--values", str(values)),
    )


def objects(manifests: str) -> list[Object]:
    """The objects in a rendering."""
    return [found for found in yaml.safe_load_all(manifests) if found]


def said_to(refusal: Refusal) -> str:
    """What helm says to values that cannot work. Raises `ValueError` when it takes them."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        yaml.safe_dump(refusal.values, values)
        values.flush()
        try:
            render(Path(values.name))
        except HelmFailed as error:
            return str(error)
    raise ValueError(f"taken, and should be refused: {refusal.values}")


def faults_of(manifests: str) -> Iterator[str]:
    """What the schemas of the Kubernetes API find wrong, and names that stand twice."""
    seen: set[tuple[str, str]] = set()
    for found in objects(manifests):
        name = (found["kind"], found["metadata"]["name"])
        if name in seen:
            yield f"{'/'.join(name)} stands twice"
        seen.add(name)
        if found["apiVersion"].partition("/")[0] in OTHER_APIS:
            continue
        try:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{'/'.join(name)}: {error.message}"


def faults() -> Iterator[str]:
    """Everything wrong with the chart that can be found without a cluster."""
    text = chart_values.SOURCE.read_text(encoding="utf-8")
    yield from (f"{path.name} is not fresh" for path in chart_values.stale(text))
    if chart_nats.TARGET.read_text(encoding="utf-8") != chart_nats.rendered():
        yield f"{chart_nats.TARGET.name} is not fresh"
    for branch in BRANCHES:
        try:
            _helm("lint", "--strict", "--quiet", str(CHART), "--values", str(branch))
            first, second = render(branch), render(branch)
        except HelmFailed as error:
            yield f"{branch.name}: {error}"
            continue
        if first != second:
            yield f"{branch.name}: two renderings differ"
        yield from (f"{branch.name}: {fault}" for fault in faults_of(first))
    for refusal in refusals():
        try:
            said = said_to(refusal)
        except ValueError as error:
            yield str(error)
            continue
        if refusal.says not in said:
            yield f"{refusal.values} is refused, but not by {refusal.says!r}: {said}"


def main() -> None:
    """Check; exit 1 with one line for each fault."""
    if sys.argv[1:] != ["check"]:
        sys.exit("usage: python -m tools.chart check")
    if shutil.which("helm") is None:
        sys.exit("helm is missing: install Helm 3 from https://helm.sh")
    found = list(faults())
    for fault in found:
        print(fault)
    print(f"{len(BRANCHES)} branches, {len(refusals())} refusals, {len(found)} faults")
    sys.exit(1 if found else 0)


def _helm(*arguments: str) -> str:
    done = subprocess.run(("helm", *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HelmFailed((done.stderr or done.stdout).strip())
    return done.stdout


if __name__ == "__main__":
    main()

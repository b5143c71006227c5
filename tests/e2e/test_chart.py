"""Every branch of the chart against a real API server, as a dry run, other APIs' objects included.

The definitions of those APIs (KEDA, the Prometheus operator, cert-manager, Gateway API) are read out of their Go
modules, kept under `.roomwright/`, and installed for the time of these tests unless the cluster has them.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tools import chart

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".roomwright" / "definitions"
NAMESPACE = "rw-chart"
MODULES = {
    "github.com/kedacore/keda/v2@v2.21.0": "config/crd/bases/keda.sh_scaledobjects.yaml",
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml"
    ),
    "github.com/cert-manager/cert-manager@v1.21.2": "deploy/crds/cert-manager.io_certificates.yaml",
    "sigs.k8s.io/gateway-api@v1.4.0": (
        "config/crd/standard/gateway.networking.k8s.io_{httproutes,gateways}.yaml"
    ),
}
"""Go module and version, and the files in it; braces list alternatives."""
RESTRICTED = ("load-balancer-values", "turn-only-values")
"""Branches that a namespace with Pod Security `restricted` takes; elsewhere the sfu, and it alone, needs host ports."""


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("kubectl", *arguments), input=stdin, capture_output=True, text=True, check=False
    )


def definitions() -> Iterator[Path]:
    """Files with the definitions, fetched once."""
    for module, pattern in MODULES.items():
        folder = CACHE / module.replace("/", "_")
        names = expand(Path(pattern).name)
        if not all((folder / name).exists() for name in names):
            assert shutil.which("go"), "go is missing: it fetches the definitions of other APIs"
            told = subprocess.run(
                ("go", "mod", "download", "-json", module),
                capture_output=True,
                text=True,
                check=False,
            )
            assert told.returncode == 0, told.stdout + told.stderr
            source = Path(json.loads(told.stdout)["Dir"]) / Path(pattern).parent
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copyfile(source / name, folder / name)
        yield from (folder / name for name in names)


def expand(pattern: str) -> list[str]:
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    choices, _, after = rest.partition("}")
    return [before + choice + after for choice in choices.split(",")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def namespace() -> AsyncIterator[str]:
    """A namespace for the dry runs, and the definitions of the other APIs."""
    files = await asyncio.to_thread(lambda: list(definitions()))
    made = []
    for file in files:
        definition = f"crd/{yaml.safe_load(file.read_text())['metadata']['name']}"
        if kubectl("get", definition).returncode == 0:
            continue
        done = kubectl("create", "-f", str(file))
        assert done.returncode == 0, done.stderr
        made.append(definition)
    for definition in made:
        done = kubectl("wait", "--for=condition=Established", definition, "--timeout=60s")
        assert done.returncode == 0, done.stderr
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted")
    yield NAMESPACE
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    for definition in made:
        kubectl("delete", definition)


@pytest.mark.parametrize("branch", chart.BRANCHES, ids=lambda path: path.stem)
async def test_branch_is_the_same_each_time_and_taken_by_the_api_server(
    branch: Path, namespace: str
) -> None:
    manifests, again = chart.render(branch, namespace), chart.render(branch, namespace)
    assert manifests == again
    assert list(chart.faults_of(manifests)) == []
    done = kubectl(
        *("apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "-f", "-"),
        stdin=manifests,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("server dry run") == len(chart.objects(manifests))
    warned = [line for line in done.stderr.splitlines() if "violate PodSecurity" in line]
    assert len(warned) == (0 if branch.stem in RESTRICTED else 1), done.stderr
    assert all("hostPort" in line for line in warned)


@pytest.mark.parametrize("refusal", chart.refusals(), ids=lambda refusal: refusal.says)
async def test_values_that_cannot_work_are_refused_with_the_reason(
    refusal: chart.Refusal,
) -> None:
    assert refusal.says in chart.said_to(refusal)


async def test_branches_hold_an_object_of_every_api_that_the_chart_can_use() -> None:
    groups = {
        found["apiVersion"].partition("/")[0]
        for branch in chart.BRANCHES
        for found in chart.objects(chart.render(branch))
    }
    assert set(chart.OTHER_APIS) <= groups

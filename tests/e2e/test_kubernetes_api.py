"""Placement against a real API server, under exactly the rules that the chart gives it.

The sfu's pods are played by pods that do nothing; load balancers by whoever writes a Service's status here. Nothing of
a release is needed, and everything is in a namespace of its own, but for one Node that is not a machine.
"""

import asyncio
import base64
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from structlog.testing import capture_logs

from chassis.clock import SystemClock
from chassis.errors import Unavailable
from contracts.placement.v1.placement_pb2 import MediaAddress
from placement import secrets_command
from placement.kubernetes import (
    DELETION_COST,
    POD_LABEL,
    KubernetesCluster,
    MediaServiceSettings,
)

T = TypeVar("T")

LABELS = {
    "app.kubernetes.io/name": "roomwright",
    "app.kubernetes.io/instance": "api-test",
    "app.kubernetes.io/component": "sfu",
}
PAUSE = "registry.k8s.io/pause:3.10"
SECRET_NAMES = ["r-keys", "r-internal", "r-nats"]
ROOT = Path(__file__).resolve().parents[2]


def chart_rules(kind: str, name: str, *values: str) -> tuple[client.V1PolicyRule, ...]:
    """The rules of a Role or ClusterRole, as the chart renders them for a release `r`."""
    command = ["helm", "template", "r", str(ROOT / "charts/roomwright"), "--namespace", "ns"]
    rendered = subprocess.run([*command, *values], check=True, capture_output=True, text=True)
    (role,) = (
        document
        for document in yaml.safe_load_all(rendered.stdout)
        if document and (document["kind"], document["metadata"]["name"]) == (kind, name)
    )
    rules = [client.V1PolicyRule.from_dict(rule) for rule in role["rules"]]
    assert all(rules)
    return tuple(rule for rule in rules if rule)


@dataclass
class Stage:
    """A namespace with a Deployment of pods that do nothing, and accounts with few rights."""

    namespace: str
    admin: client.CoreV1Api
    apps: client.AppsV1Api
    rbac: client.RbacAuthorizationV1Api
    host: str

    def configuration(self) -> client.Configuration:
        configuration = client.Configuration()
        config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return configuration

    def account(
        self, name: str, *rules: client.V1PolicyRule, cluster: tuple[client.V1PolicyRule, ...] = ()
    ) -> client.Configuration:
        """A new service account with these rules and no others: how it reaches the API."""
        metadata = client.V1ObjectMeta(name=name)
        self.admin.create_namespaced_service_account(
            self.namespace, client.V1ServiceAccount(metadata=metadata)
        )
        subject = client.RbacV1Subject(kind="ServiceAccount", name=name, namespace=self.namespace)
        group = "rbac.authorization.k8s.io"
        self.rbac.create_namespaced_role(
            self.namespace, client.V1Role(metadata=metadata, rules=list(rules))
        )
        self.rbac.create_namespaced_role_binding(
            self.namespace,
            client.V1RoleBinding(
                metadata=metadata,
                subjects=[subject],
                role_ref=client.V1RoleRef(api_group=group, kind="Role", name=name),
            ),
        )
        if cluster:
            wide = client.V1ObjectMeta(name=f"{self.namespace}-{name}")
            self.rbac.create_cluster_role(client.V1ClusterRole(metadata=wide, rules=list(cluster)))
            self.rbac.create_cluster_role_binding(
                client.V1ClusterRoleBinding(
                    metadata=wide,
                    subjects=[subject],
                    role_ref=client.V1RoleRef(
                        api_group=group, kind="ClusterRole", name=str(wide.name)
                    ),
                )
            )
        token = self.admin.create_namespaced_service_account_token(
            name,
            self.namespace,
            client.AuthenticationV1TokenRequest(
                spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)
            ),
        )
        assert token.status is not None
        configuration = self.configuration()
        configuration.cert_file = configuration.key_file = None
        configuration.api_key = {"BearerToken": f"Bearer {token.status.token}"}
        configuration.retries = 0
        return configuration

    def pods(self) -> dict[str, client.V1Pod]:
        selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
        listed = self.admin.list_namespaced_pod(self.namespace, label_selector=selector)
        return {
            str(pod.metadata.name): pod
            for pod in listed.items
            if pod.metadata and pod.metadata.deletion_timestamp is None
        }

    def services(self) -> dict[str, client.V1Service]:
        listed = self.admin.list_namespaced_service(self.namespace, label_selector=POD_LABEL)
        return {str(s.metadata.name): s for s in listed.items if s.metadata}

    def scale(self, replicas: int) -> None:
        self.apps.patch_namespaced_deployment_scale(
            "sfu",
            self.namespace,
            {"spec": {"replicas": replicas}},
            _content_type="application/merge-patch+json",
        )


@dataclass
class Heard:
    """What placement's other parts would be told and tell."""

    loads: dict[str, int] = field(default_factory=dict)
    unschedulable: frozenset[str] = frozenset()

    def set_unschedulable(self, pods: frozenset[str]) -> None:
        self.unschedulable = pods


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("set KUBECONFIG to a cluster's: this test needs a real Kubernetes API")
    configuration = client.Configuration()
    config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    api = client.ApiClient(configuration)
    namespace = f"rw-api-test-{secrets.token_hex(3)}"
    made = Stage(
        namespace,
        client.CoreV1Api(api),
        client.AppsV1Api(api),
        client.RbacAuthorizationV1Api(api),
        configuration.host,
    )
    made.admin.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=namespace)))
    try:
        made.apps.create_namespaced_deployment(namespace, _deployment())
        yield made
    finally:
        made.admin.delete_namespace(namespace)
        for role in made.rbac.list_cluster_role().items:
            name = str(role.metadata.name) if role.metadata else ""
            if name.startswith(namespace):
                made.rbac.delete_cluster_role_binding(name)
                made.rbac.delete_cluster_role(name)


@pytest.fixture(scope="module")
def placement_account(stage: Stage) -> client.Configuration:
    exposed = ("--set", "sfu.expose.type=loadBalancer")
    return stage.account(
        "placement",
        *chart_rules("Role", "r-placement", *exposed),
        cluster=chart_rules("ClusterRole", "ns-r-placement", *exposed),
    )


def _deployment() -> client.V1Deployment:
    ports = [
        client.V1ContainerPort(name="media-udp", container_port=17882, protocol="UDP"),
        client.V1ContainerPort(name="media-tcp", container_port=17881),
    ]
    container = client.V1Container(
        name="pause", image=PAUSE, image_pull_policy="IfNotPresent", ports=ports
    )
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name="sfu"),
        spec=client.V1DeploymentSpec(
            replicas=3,
            selector=client.V1LabelSelector(match_labels=LABELS),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels=LABELS),
                spec=client.V1PodSpec(
                    containers=[container],
                    termination_grace_period_seconds=1,
                    automount_service_account_token=False,
                ),
            ),
        ),
    )


async def eventually(look: Callable[[], T], is_right: Callable[[T], bool], within_s: float) -> T:
    """What is seen once it is right; the last look is told when it never is."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        seen = await asyncio.to_thread(look)
        if is_right(seen):
            return seen
        assert loop.time() < until, f"after {within_s} s still: {seen}"
        await asyncio.sleep(0.2)


@asynccontextmanager
async def running(
    stage: Stage, configuration: client.Configuration, heard: Heard, *, owns_services: bool = True
) -> AsyncIterator[KubernetesCluster]:
    """One replica of placement, as far as Kubernetes sees it."""
    settings = MediaServiceSettings(annotations={"example.com/kind": "udp"})
    cluster = KubernetesCluster(
        client.CoreV1Api(client.ApiClient(configuration)),
        SystemClock(),
        namespace=stage.namespace,
        pod_labels=LABELS,
        service_settings=settings if owns_services else None,
        loads=lambda: heard.loads,
        on_unschedulable=heard.set_unschedulable,
    )
    task = asyncio.create_task(cluster.run())
    try:
        await eventually(lambda: cluster.is_known, bool, 20)
        yield cluster
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def have_services(stage: Stage) -> dict[str, client.V1Service]:
    def look() -> tuple[set[str], dict[str, client.V1Service]]:
        return set(stage.pods()), stage.services()

    _, services = await eventually(look, lambda s: len(s[0]) == 3 and s[0] == set(s[1]), 30)
    return services


async def test_each_pod_has_one_service_of_its_own_with_two_replicas_at_work(
    stage: Stage, placement_account: client.Configuration
) -> None:
    with capture_logs() as logs:
        async with (
            running(stage, placement_account, Heard()),
            running(stage, placement_account, Heard()),
        ):
            services = await have_services(stage)
            await asyncio.sleep(2)
            assert set(await asyncio.to_thread(stage.services)) == set(services)
    pods = stage.pods()
    for name, service in services.items():
        metadata, spec = service.metadata, service.spec
        assert metadata is not None
        assert spec is not None
        assert (spec.type, spec.external_traffic_policy) == ("LoadBalancer", "Local")
        assert spec.publish_not_ready_addresses
        assert spec.selector == {POD_LABEL: name}
        assert [(p.protocol, p.port) for p in spec.ports or []] == [("UDP", 17882), ("TCP", 17881)]
        assert (metadata.annotations or {})["example.com/kind"] == "udp"
        pod = pods[name].metadata
        assert pod is not None
        assert (pod.labels or {})[POD_LABEL] == name
        assert [owner.uid for owner in metadata.owner_references or []] == [pod.uid]
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


async def test_deleted_service_is_made_again_and_goes_with_its_pod(
    stage: Stage, placement_account: client.Configuration
) -> None:
    async with running(stage, placement_account, Heard()):
        name, service = next(iter((await have_services(stage)).items()))
        assert service.metadata is not None
        old = service.metadata.uid
        stage.admin.delete_namespaced_service(name, stage.namespace)

        def uid() -> str | None:
            found = stage.services().get(name)
            return found.metadata.uid if found and found.metadata else None

        await eventually(uid, lambda found: found not in (None, old), 20)
        stage.admin.delete_namespaced_pod(name, stage.namespace)
        await eventually(stage.services, lambda found: name not in found, 30)
        await have_services(stage)


async def test_addresses_are_the_load_balancers_with_their_ports(
    stage: Stage, placement_account: client.Configuration
) -> None:
    async with running(stage, placement_account, Heard()) as cluster:
        name = next(iter(await have_services(stage)))
        assert await cluster.find_addresses(name, "") == []
        stage.admin.patch_namespaced_service_status(
            name,
            stage.namespace,
            {
                "status": {
                    "loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"hostname": "localhost"}]}
                }
            },
            _content_type="application/merge-patch+json",
        )
        async with asyncio.timeout(10):
            while not (found := await cluster.find_addresses(name, "")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    expected = MediaAddress(
        ip="203.0.113.9",
        source=MediaAddress.SOURCE_LOAD_BALANCER,
        udp_port=17882,
        tcp_port=17881,
    )
    assert found[0] == expected
    assert [address.ip for address in found[1:]] in ([], ["::1"])


async def test_pods_of_a_cordoned_machine_are_told_and_its_external_addresses_found(
    stage: Stage, placement_account: client.Configuration
) -> None:
    machine = f"{stage.namespace}-node"
    taint = client.V1Taint(key="roomwright.io/test", effect="NoExecute")
    stage.admin.create_node(
        client.V1Node(
            metadata=client.V1ObjectMeta(name=machine), spec=client.V1NodeSpec(taints=[taint])
        )
    )
    try:
        external = [
            {"type": "InternalIP", "address": "10.9.9.9"},
            {"type": "ExternalIP", "address": "203.0.113.7"},
            {"type": "ExternalIP", "address": "2001:db8::7"},
        ]
        merge: dict[str, Any] = {"_content_type": "application/merge-patch+json"}
        stage.admin.patch_node_status(machine, {"status": {"addresses": external}}, **merge)
        stage.admin.create_namespaced_pod(stage.namespace, _pod_on(machine))
        heard = Heard()
        async with running(stage, placement_account, heard, owns_services=False) as cluster:
            found = await cluster.find_addresses("on-it", machine)
            assert [(a.ip, a.source) for a in found] == [
                ("203.0.113.7", MediaAddress.SOURCE_NODE_EXTERNAL_IP),
                ("2001:db8::7", MediaAddress.SOURCE_NODE_EXTERNAL_IP),
            ]
            await eventually(lambda: heard.unschedulable, lambda seen: not seen, 5)
            stage.admin.patch_node(machine, {"spec": {"unschedulable": True}}, **merge)
            await eventually(lambda: heard.unschedulable, lambda seen: seen == {"on-it"}, 10)
            stage.admin.patch_node(machine, {"spec": {"unschedulable": None}}, **merge)
            await eventually(lambda: heard.unschedulable, lambda seen: not seen, 10)
    finally:
        stage.admin.delete_node(machine)
        with suppress(ApiException):
            stage.admin.delete_namespaced_pod("on-it", stage.namespace, grace_period_seconds=0)


def _pod_on(machine: str) -> client.V1Pod:
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name="on-it", labels={**LABELS, "alone": "yes"}),
        spec=client.V1PodSpec(
            node_name=machine,
            containers=[client.V1Container(name="pause", image=PAUSE)],
            tolerations=[client.V1Toleration(operator="Exists")],
        ),
    )


async def test_scale_down_takes_the_emptiest_pod(
    stage: Stage, placement_account: client.Configuration
) -> None:
    async with running(stage, placement_account, heard := Heard(), owns_services=False):
        pods = await eventually(stage.pods, lambda p: len(p) == 3 and _all_ready(p), 60)
        names = sorted(pods)
        # The middle one: neither the first nor the last by name or age.
        heard.loads = {names[0]: 40, names[1]: 2, names[2]: 40}

        def costs() -> dict[str, str]:
            return {
                name: (pod.metadata.annotations or {}).get(DELETION_COST, "")
                for name, pod in stage.pods().items()
                if pod.metadata
            }

        wanted = {name: str(load) for name, load in heard.loads.items()}
        await eventually(costs, lambda seen: seen == wanted, 20)
        stage.scale(2)
        left = await eventually(stage.pods, lambda pods: len(pods) == 2, 30)
        stage.scale(3)
    assert set(left) == {names[0], names[2]}


def _all_ready(pods: dict[str, client.V1Pod]) -> bool:
    return all(
        any(c.type == "Ready" and c.status == "True" for c in (p.status.conditions or []))
        for p in pods.values()
        if p.status
    )


class Gate:
    """A TCP relay in front of the API server that can be shut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._writers: list[asyncio.StreamWriter] = []
        self.is_open = True

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def shut(self) -> None:
        self.is_open = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def close(self) -> None:
        self.shut()
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        out_reader, out_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, out_writer]
        await asyncio.gather(_copy(reader, out_writer), _copy(out_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_api_server_away_is_said_once_and_what_was_missed_is_made_up_for(
    stage: Stage, placement_account: client.Configuration
) -> None:
    host, _, port = stage.host.removeprefix("https://").partition(":")
    gate = Gate(host, int(port or 443))
    through = stage.configuration()
    through.cert_file = through.key_file = None
    through.api_key = dict(placement_account.api_key)
    through.retries = 0
    through.host = f"https://127.0.0.1:{await gate.start()}"
    through.tls_server_name = host
    through.assert_hostname = host  # type: ignore[assignment]  # a name is what urllib3 takes
    try:
        async with running(stage, through, Heard()) as cluster:
            name = next(iter(await have_services(stage)))
            before = await cluster.find_addresses(name, "")
            with capture_logs() as logs:
                gate.shut()
                await asyncio.to_thread(
                    stage.admin.delete_namespaced_service, name, stage.namespace
                )
                await asyncio.sleep(5)
                assert await cluster.find_addresses(name, "") == before
                failures = [entry["what"] for entry in logs if entry["log_level"] == "warning"]
                assert sorted(failures) == ["nodes", "pods", "services"]
                gate.is_open = True
                await eventually(stage.services, lambda seen: name in seen, 30)
            again = [entry for entry in logs if entry["event"].endswith("works again")]
            assert "services" in [entry["what"] for entry in again]
    finally:
        gate.close()


async def test_without_a_cluster_role_placement_goes_on_without_nodes(stage: Stage) -> None:
    account = await asyncio.to_thread(
        stage.account, "no-cluster-role", *chart_rules("Role", "r-placement")
    )
    with capture_logs() as logs:
        async with running(stage, account, Heard(), owns_services=False) as cluster:
            assert await cluster.find_addresses("any", "any") == []
    forbidden = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["what"] for entry in forbidden] == ["nodes"]
    assert "cannot list resource" in forbidden[0]["error"]


async def test_addresses_are_unavailable_before_the_cluster_was_seen(stage: Stage) -> None:
    configuration = stage.configuration()
    configuration.host, configuration.retries = "https://127.0.0.1:1", 0
    cluster = KubernetesCluster(
        client.CoreV1Api(client.ApiClient(configuration)),
        SystemClock(),
        namespace=stage.namespace,
        pod_labels=LABELS,
        service_settings=None,
        loads=dict,
        on_unschedulable=Heard().set_unschedulable,
    )
    with pytest.raises(Unavailable, match="not heard from the Kubernetes API"):
        await cluster.find_addresses("sfu-1", "")


def _run(api: client.CoreV1Api, *arguments: str) -> None:
    secrets_command.main(arguments, api)


async def test_secrets_are_made_once_added_to_and_deleted(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    account = await asyncio.to_thread(
        stage.account, "make-secrets", *chart_rules("Role", "r-make-secrets")
    )
    maker = client.CoreV1Api(client.ApiClient(account))
    make = ["make-secrets", "--namespace", stage.namespace, "--label", "of=me"]
    names = ["--keys", "r-keys", "--internal", "r-internal", "--nats", "r-nats"]

    def values() -> dict[str, dict[str, str]]:
        return {
            name: {
                entry: base64.b64decode(value).decode()
                for entry, value in (
                    stage.admin.read_namespaced_secret(name, stage.namespace).data or {}
                ).items()
            }
            for name in SECRET_NAMES
        }

    both = [asyncio.to_thread(_run, maker, *make, *names) for _ in range(2)]
    await asyncio.gather(*both)
    made = values()
    assert set(made["r-nats"]) == {"placement", "sfu", "signaling", "admin"}
    _run(maker, *make, *names, "--nats-user", "sfu", "--nats-user", "egress")
    assert values() == {
        **made,
        "r-nats": {**made["r-nats"], "egress": values()["r-nats"]["egress"]},
    }
    metadata = stage.admin.read_namespaced_secret("r-keys", stage.namespace).metadata
    assert metadata is not None
    assert (metadata.labels or {})["of"] == "me"

    with pytest.raises(SystemExit, match="its role lacks a rule"):
        _run(maker, "delete-secrets", "--namespace", stage.namespace, "r-keys")
    account = await asyncio.to_thread(
        stage.account, "delete-secrets", *chart_rules("Role", "r-delete-secrets")
    )
    deleter = client.CoreV1Api(client.ApiClient(account))
    stage.admin.delete_namespaced_secret("r-internal", stage.namespace)
    stage.admin.create_namespaced_secret(
        stage.namespace, client.V1Secret(metadata=client.V1ObjectMeta(name="r-internal"))
    )
    with pytest.raises(SystemExit, match="r-internal was not made by this command and lacks token"):
        _run(maker, *make, "--internal", "r-internal")
    _run(deleter, "delete-secrets", "--namespace", stage.namespace, *SECRET_NAMES)
    left = {
        str(secret.metadata.name)
        for secret in stage.admin.list_namespaced_secret(stage.namespace).items
        if secret.metadata
    }
    assert left & set(SECRET_NAMES) == {"r-internal"}
    printed = capsys.readouterr()
    for value in (value for entries in made.values() for value in entries.values()):
        assert value not in printed.out + printed.err

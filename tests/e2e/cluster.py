"""A Kubernetes cluster as tests need it: commands, pods, nodes, volumes, and death without warning.

A privileged pod on every node (the "node tool") does what the Kubernetes API cannot: kill a process without SIGTERM,
and make directories for volumes. It lives in a namespace of its own, in the placement image, which is there anyway.
"""

import asyncio
import json
import shutil
from dataclasses import dataclass
from typing import Any

import aiohttp

Json = dict[str, Any]

TOOL_NAMESPACE = "rw-e2e-tools"
OURS = "roomwright-e2e"
"""Label of everything cluster-wide that these tests make."""
TOOL = "node-tool"
VOLUMES = "/var/tmp/roomwright-e2e"
HEALTH_PORT = 8080
COMMAND_TIMEOUT_S = 600

_KILL = """
import os, signal, sys
from pathlib import Path
killed = 0
for folder in Path("/proc").iterdir():
    try:
        if folder.name.isdigit() and sys.argv[1] in (folder / "cgroup").read_text():
            os.kill(int(folder.name), signal.SIGKILL)
            killed += 1
    except OSError:
        pass
sys.exit(0 if killed else "no process of the container was found")
"""
_MAKE_DIRECTORY = """
import os, shutil, sys
shutil.rmtree(sys.argv[1], ignore_errors=True)
os.makedirs(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A Kubernetes node."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as it was when it was looked at."""

    name: str
    namespace: str
    node: str
    ip: str
    host_ip: str
    image: str
    ready: bool
    deleting: bool
    restarts: int
    container_id: str
    """Of its first container, without the runtime's name; empty before it runs."""


class Cluster:
    """The cluster that KUBECONFIG names."""

    async def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command; what it printed. Raises with its error when it fails."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                out, err = await process.communicate(stdin.encode() if stdin is not None else None)
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if process.returncode != 0:
            raise AssertionError(f"{' '.join(command)[:400]}\n{out.decode()}{err.decode()}")
        return out.decode()

    async def get(self, *arguments: str) -> Json:
        """`kubectl get ... -o json`."""
        found: Json = json.loads(await self.run("kubectl", "get", *arguments, "-o", "json"))
        return found

    async def version(self) -> Json:
        """What the API server says it is."""
        found: Json = json.loads(await self.run("kubectl", "version", "-o", "json"))[
            "serverVersion"
        ]
        return found

    async def apply(self, namespace: str, *manifests: Json) -> None:
        """`kubectl apply` of objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        await self.run("kubectl", "apply", "-n", namespace, "-f", "-", stdin=text)

    async def nodes(self) -> list[Node]:
        """The nodes that are ready and take pods, by name."""
        found = []
        for item in (await self.get("nodes"))["items"]:
            conditions = {it["type"]: it["status"] for it in item["status"]["conditions"]}
            if conditions.get("Ready") != "True" or item["spec"].get("unschedulable"):
                continue
            addresses = {it["type"]: it["address"] for it in reversed(item["status"]["addresses"])}
            address = addresses.get("ExternalIP") or addresses["InternalIP"]
            found.append(Node(item["metadata"]["name"], address))
        return sorted(found, key=lambda node: node.name)

    async def pods(self, namespace: str, selector: str) -> list[Pod]:
        """All pods that a label selector names, by name; finished ones are left out."""
        listed = (await self.get("pods", "-n", namespace, "-l", selector))["items"]
        return sorted(
            (_pod(it) for it in listed if it["status"].get("phase") not in ("Succeeded", "Failed")),
            key=lambda pod: pod.name,
        )

    async def http(self, pod: Pod, path: str, port: int = HEALTH_PORT) -> str:
        """GET from a pod, through the Kubernetes API: pod addresses need not be reachable from here."""
        where = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}:{port}/proxy{path}"
        return await self.run("kubectl", "get", "--raw", where)

    async def kill(self, pod: Pod) -> None:
        """SIGKILL every process of a pod's first container: no warning, no farewell."""
        assert pod.container_id, f"{pod.name} does not run"
        await self._on_node(pod.node, _KILL, pod.container_id)

    async def make_volumes(self, prefix: str, size: str, count: int, storage_class: str) -> None:
        """PersistentVolumes as directories of nodes, for a cluster that provides none."""
        await self.drop_volumes(prefix)  # of a run that was cut off: they still name its claims
        nodes = await self.nodes()
        volumes = []
        for number in range(count):
            node = nodes[number % len(nodes)]
            path = f"{VOLUMES}/{prefix}-{number}"
            await self._on_node(node.name, _MAKE_DIRECTORY, path)
            # Without the affinity a pod could start on another node, with an empty directory.
            term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
            spec = {
                "capacity": {"storage": size},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": storage_class,
                "hostPath": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
            }
            metadata = {"name": f"{prefix}-{number}", "labels": {OURS: prefix}}
            volumes.append(
                {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
            )
        await self.apply("default", *volumes)

    async def drop_volumes(self, prefix: str) -> None:
        """The PersistentVolumes of `make_volumes`; their directories are emptied when they are made again."""
        selector = f"{OURS}={prefix}"
        await self.run("kubectl", "delete", "persistentvolume", "-l", selector)

    async def provides_volumes(self) -> bool:
        """A default StorageClass is there."""
        note = "storageclass.kubernetes.io/is-default-class"
        classes = (await self.get("storageclass"))["items"]
        return any(it["metadata"].get("annotations", {}).get(note) == "true" for it in classes)

    async def make_namespace(self, name: str) -> None:
        """An empty namespace whose pods may have host ports; what an earlier run left in it goes."""
        found = json.loads(
            await self.run("kubectl", "get", "namespace", name, "--ignore-not-found", "-o", "json")
            or "{}"
        )
        if found:
            assert OURS in found["metadata"].get("labels", {}), (
                f"namespace {name} is there and was not made by these tests: name another with E2E_NAMESPACE"
            )
            await self.drop_namespace(name)
        labels = {OURS: name, "pod-security.kubernetes.io/enforce": "privileged"}
        metadata = {"name": name, "labels": labels}
        await self.apply("default", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    async def drop_namespace(self, name: str) -> None:
        """The namespace and all in it."""
        await self.run("kubectl", "delete", "namespace", name, "--ignore-not-found")

    async def listed(self, namespace: str) -> set[str]:
        """`kind/name` of everything in a namespace but what Kubernetes itself puts there."""
        told = await self.run(
            "kubectl", "api-resources", "--verbs=list", "--namespaced", "-o", "name"
        )
        kinds = sorted(set(told.split()) - _OF_KUBERNETES)
        found = await self.run("kubectl", "get", ",".join(kinds), "-n", namespace, "-o", "name")
        return set(found.split()) - {
            "configmap/kube-root-ca.crt",
            "serviceaccount/default",
        }

    async def start_tools(self, image: str) -> None:
        """The node tools, running on every node."""
        await self.make_namespace(TOOL_NAMESPACE)
        container = {
            "name": TOOL,
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
            "securityContext": {"privileged": True, "runAsUser": 0, "runAsGroup": 0},
            "volumeMounts": [{"name": "volumes", "mountPath": VOLUMES}],
        }
        volume = {"name": "volumes", "hostPath": {"path": VOLUMES, "type": "DirectoryOrCreate"}}
        labels = {"app": TOOL}
        spec = {
            "hostPID": True,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [volume],
        }
        template = {"metadata": {"labels": labels}, "spec": spec}
        daemons = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": TOOL},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
        await self.apply(TOOL_NAMESPACE, daemons)
        status = ("rollout", "status", f"daemonset/{TOOL}", "--timeout=60s")
        await self.run("kubectl", "-n", TOOL_NAMESPACE, *status)

    async def _on_node(self, node: str, script: str, *arguments: str) -> None:
        tools = await self.pods(TOOL_NAMESPACE, f"app={TOOL}")
        tool = next((pod for pod in tools if pod.node == node and pod.ready), None)
        assert tool is not None, f"no node tool runs on {node}"
        command = ("exec", tool.name, "--", "python3", "-c", script, *arguments)
        await self.run("kubectl", "-n", TOOL_NAMESPACE, *command)


_OF_KUBERNETES = {
    "events",
    "events.events.k8s.io",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "controllerrevisions.apps",
    "pods.metrics.k8s.io",
}


async def reaches(url: str) -> bool:
    """An HTTP server answers at `url` from here."""
    try:
        async with aiohttp.ClientSession() as http, http.get(url, timeout=_SHORT) as answer:
            return answer.status < 500
    except (aiohttp.ClientError, TimeoutError):
        return False


def missing_tools() -> list[str]:
    """Commands the tests need and do not find."""
    return [tool for tool in ("kubectl", "helm") if shutil.which(tool) is None]


def _pod(item: Json) -> Pod:
    meta, spec, status = item["metadata"], item["spec"], item["status"]
    conditions = {it["type"]: it["status"] for it in status.get("conditions", [])}
    containers = status.get("containerStatuses") or [{}]
    return Pod(
        name=meta["name"],
        namespace=meta["namespace"],
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        host_ip=status.get("hostIP", ""),
        image=spec["containers"][0]["image"],
        ready=conditions.get("Ready") == "True",
        deleting="deletionTimestamp" in meta,
        restarts=int(containers[0].get("restartCount", 0)),
        container_id=containers[0].get("containerID", "").rpartition("//")[2],
    )


_SHORT = aiohttp.ClientTimeout(total=3)

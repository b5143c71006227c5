"""The chart, installed on a cluster: what tests look at, break and repair, by helm and kubectl.

Everything is asynchronous, so that calls of the same test go on while kubectl works.
"""

import asyncio
import base64
import json
import os
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import nats
import websockets
import yaml
from livekit import api

from contracts.events.v1 import events_pb2
from loadtest.ports import free_port
from tests.e2e.cluster import Cluster, Json, Pod
from tests.support.server import join_token
from tools.images import CHART

INSTALL_TIMEOUT_S = 240
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
HTTP_PORT = 7880
NATS_PORT = 4222


@dataclass(slots=True)
class Release:
    """One release of the chart in one namespace."""

    cluster: Cluster
    name: str
    namespace: str
    tag: str
    """Of the images that are under test."""
    next_tag: str
    """Of the same images with the contracts of a release to come."""
    url: str = ""
    """What SDKs connect to: a node's address and the port of a NodePort Service."""
    values: tuple[str, ...] = ()
    """Flags that every upgrade gets, as `--set a=b`."""
    costs: dict[str, float] = field(default_factory=dict)
    """Seconds each helm command took, in order."""
    notes: str = ""
    """What helm printed at the last install or upgrade."""
    _keys: tuple[str, str] = ("", "")
    _nats_replicas: int = 1

    # ---- what clients need: `tests.support.server.Server` ----

    @property
    def http_url(self) -> str:
        """What server SDKs and browsers open."""
        return self.url.replace("ws", "http", 1)

    @property
    def page_url(self) -> str:
        """Where the page and the browser's harness are served."""
        return f"{self.http_url}/app"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which tools find the server, the load test for one."""
        key, secret = self._keys
        return {"LIVEKIT_URL": self.url, "LIVEKIT_API_KEY": key, "LIVEKIT_API_SECRET": secret}

    def token(self, room: str, identity: str, **grants: object) -> str:
        """A token by the published server SDK, signed with the release's own key."""
        key, secret = self._keys
        return join_token(key, secret, room, identity, **grants)

    @asynccontextmanager
    async def server_api(self) -> AsyncIterator[api.LiveKitAPI]:
        """The published server SDK, pointed at the release."""
        client = api.LiveKitAPI(self.http_url, *self._keys)
        try:
            yield client
        finally:
            await client.aclose()

    async def try_join(self, room: str, identity: str) -> tuple[int, str]:
        """The status of one attempt to open the signaling socket (101: open), and the text of a refusal."""
        headers = {"Authorization": f"Bearer {self.token(room, identity)}"}
        url = f"{self.url}/rtc?protocol=16&auto_subscribe=1"
        try:
            async with websockets.connect(url, additional_headers=headers):
                return 101, ""
        except websockets.InvalidStatus as refused:
            return refused.response.status_code, (refused.response.body or b"").decode()

    # ---- helm ----

    async def install(self, *flags: str) -> None:
        """`helm install --wait`, then find its address and keys. `flags`: as `--set a=b`; none are needed."""
        await self._helm("install", str(CHART), *flags)
        await self.attach()

    async def is_installed(self) -> bool:
        """helm knows the release, and it is in good order."""
        listed = await self.cluster.run("helm", "list", "-n", self.namespace, "-o", "json")
        return any(
            it["name"] == self.name and it["status"] == "deployed" for it in json.loads(listed)
        )

    async def upgrade(self, *flags: str, wait: bool = True) -> None:
        """`helm upgrade`; without `wait`, it comes back while pods are being exchanged."""
        await self._helm("upgrade", str(CHART), *self.values, *flags, wait=wait)

    async def rollback(self, *, wait: bool = True) -> None:
        """`helm rollback` to the revision before this one."""
        await self._helm("rollback", wait=wait)

    async def uninstall(self) -> str:
        """`helm uninstall --wait`; what it said."""
        return await self._helm("uninstall", wait=True)

    async def test(self) -> str:
        """`helm test`; raises with what the test pod said when it fails."""
        begin = time.monotonic()
        command = ("helm", "test", self.name, "-n", self.namespace, "--timeout", "120s")
        try:
            told = await self.cluster.run(*command)
        except AssertionError as error:
            # The pod of a test that passed is gone; a failed one is kept.
            selector = f"{INSTANCE}={self.name},{COMPONENT}=test"
            raise AssertionError(f"{error}\n{await self.kubectl('logs', '-l', selector)}") from None
        self._cost("helm test", begin)
        return told

    def noted(self, part: str) -> list[str]:
        """The command line of the notes that has `part` in it, as words."""
        lines = [line for line in self.notes.splitlines() if part in line]
        assert len(lines) == 1, f"the notes have {len(lines)} lines with {part!r}"
        return shlex.split(lines[0])

    async def manifests(self, *flags: str) -> list[Json]:
        """What the chart renders, hooks included."""
        version = (await self.cluster.version())["gitVersion"]
        told = await self.cluster.run(
            *("helm", "template", self.name, str(CHART), "-n", self.namespace),
            *("--kube-version", version, *flags),
        )
        return [item for item in yaml.safe_load_all(told) if item]

    # ---- looking ----

    def workload(self, component: str) -> str:
        """`kind/name` of what runs a component: signaling, placement, sfu or nats."""
        kind = "statefulset" if component == "nats" else "deployment"
        return f"{kind}/{self.name}-{component}"

    async def pods(self, component: str, *, ready: bool = True) -> list[Pod]:
        """Pods of a component that are not being deleted; `ready`: only those that take work."""
        found = await self.cluster.pods(
            self.namespace, f"{INSTANCE}={self.name},{COMPONENT}={component}"
        )
        return [pod for pod in found if not pod.deleting and (pod.ready or not ready)]

    async def all_pods(self, component: str) -> list[Pod]:
        """Every pod of a component, ending ones too."""
        return await self.cluster.pods(
            self.namespace, f"{INSTANCE}={self.name},{COMPONENT}={component}"
        )

    async def home_of(self, room: str) -> Pod:
        """The sfu pod that hosts a room: the one whose metrics count participants while only this room runs."""
        for pod in await self.pods("sfu", ready=False):
            if await self.metric(pod, "livekit_participant_total") > 0:
                return pod
        raise AssertionError(f"no sfu pod says that it hosts anybody (room {room})")

    async def metric(self, pod: Pod, name: str) -> float:
        """The sum of a metric's samples on a pod's /metrics, over all labels; 0 when there are none."""
        total = 0.0
        for line in (await self.cluster.http(pod, "/metrics")).splitlines():
            sample, _, value = line.rpartition(" ")
            if sample == name or sample.startswith(name + "{"):
                total += float(value)
        return total

    async def empty(self) -> None:
        """Every room is deleted, and no node counts rooms or participants: figures of a test are its own."""
        async with self.server_api() as server:
            for room in (await server.room.list_rooms(api.ListRoomsRequest())).rooms:
                await server.room.delete_room(api.DeleteRoomRequest(room=room.name))

        async def is_so() -> bool:
            names = ("roomwright_sfu_rooms", "livekit_participant_total")
            pods = await self.pods("sfu")
            return not any([await self.metric(pod, name) for pod in pods for name in names])

        await eventually(is_so, "no rooms", 60)

    async def busiest(self, component: str, metric: str) -> Pod:
        """The pod of a component whose metric is greatest, and above 0."""
        values = {pod: await self.metric(pod, metric) for pod in await self.pods(component)}
        pod = max(values, key=lambda it: values[it])
        assert values[pod] > 0, f"{metric} is 0 on every {component} pod"
        return pod

    async def facts(
        self, sid: str, last: str, timeout_s: float = 30.0
    ) -> list[events_pb2.RoomEvent]:
        """Facts of the room with this sid in the EVENTS stream, in order, up to the first named `last`."""
        found: list[events_pb2.RoomEvent] = []
        password = (await self.secret("nats"))["admin"]
        async with self.forwarded(f"pod/{self.name}-nats-0", NATS_PORT) as port:
            bus = await nats.connect(f"nats://127.0.0.1:{port}", user="admin", password=password)
            try:
                async with asyncio.timeout(timeout_s):
                    reader = await bus.jetstream().subscribe("events.>", ordered_consumer=True)
                    while not found or found[-1].name != last:
                        event = events_pb2.RoomEvent.FromString((await reader.next_msg(None)).data)
                        if event.room_sid == sid:
                            found.append(event)
            except TimeoutError:
                names = [event.name for event in found]
                raise AssertionError(f"no {last} among the facts of {sid}: {names}") from None
            finally:
                await bus.close()
        return found

    async def secret(self, part: str) -> dict[str, str]:
        """A Secret of the release, decoded."""
        data = (await self.get("secret", f"{self.name}-{part}"))["data"]
        return {name: base64.b64decode(value).decode() for name, value in data.items()}

    @asynccontextmanager
    async def forwarded(self, what: str, port: int) -> AsyncIterator[int]:
        """A port of this machine that leads to `port` of a pod or Service, `kind/name`."""
        local = free_port()
        process = await asyncio.create_subprocess_exec(
            *("kubectl", "port-forward", "-n", self.namespace, what, f"{local}:{port}"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                told = await process.stdout.readline()
            assert told.startswith(b"Forwarding"), f"port-forward to {what}: see its error above"
            yield local
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def logs(self, component: str, *flags: str) -> str:
        """The last lines of all pods of a component."""
        selector = f"{INSTANCE}={self.name},{COMPONENT}={component}"
        return await self.kubectl("logs", "-l", selector, "--prefix", "--tail=200", *flags)

    async def kubectl(self, *arguments: str) -> str:
        """kubectl in the release's namespace; its output."""
        return await self.cluster.run("kubectl", "-n", self.namespace, *arguments)

    async def get(self, *arguments: str) -> Json:
        """`kubectl get ... -o json`."""
        found: Json = json.loads(await self.kubectl("get", *arguments, "-o", "json"))
        return found

    # ---- breaking and repairing ----

    async def kill(self, pod: Pod) -> None:
        """The process is gone without a word and its pod with it; its workload makes another pod.

        The deletion alone would not do: kubelet lets a process end in its own time, also when that is an hour.
        """
        await self.cluster.kill(pod)
        await self.kubectl("delete", "pod", pod.name, "--grace-period=0", "--force", "--wait=false")

    async def crash(self, pod: Pod) -> None:
        """The process is gone without a word; its container starts again in the same pod."""
        await self.cluster.kill(pod)

    async def delete(self, pod: Pod) -> None:
        """SIGTERM, as a rollout or a scale-down does it: the pod drains. Does not wait."""
        await self.kubectl("delete", "pod", pod.name, "--wait=false")

    async def scale(self, component: str, replicas: int, *, wait: bool = True) -> None:
        """Set a component's replicas; `wait`: until so many are ready and no other is left."""
        await self.kubectl("scale", self.workload(component), f"--replicas={replicas}")
        if wait:
            await self.settled(component, replicas)

    async def nats_stop(self) -> None:
        """All NATS pods end; their volumes stay."""
        found = await self.get(self.workload("nats"))
        self._nats_replicas = int(found["spec"]["replicas"]) or self._nats_replicas
        await self.scale("nats", 0)

    async def nats_start(self) -> None:
        """As many NATS pods as before `nats_stop`, ready."""
        await self.scale("nats", self._nats_replicas)

    async def settled(
        self, component: str, replicas: int | None = None, timeout_s: float = 180
    ) -> None:
        """Until a component has exactly its replicas, all ready, and none is ending."""
        if replicas is None:
            replicas = int((await self.get(self.workload(component)))["spec"]["replicas"])

        async def is_so() -> bool:
            pods = await self.all_pods(component)
            return len(pods) == replicas and all(pod.ready and not pod.deleting for pod in pods)

        await eventually(is_so, f"{replicas} {component} pods, all ready", timeout_s)

    async def gone(self, timeout_s: float = 120) -> None:
        """Until no pod of the release is left."""

        async def is_so() -> bool:
            return not await self.cluster.pods(self.namespace, f"{INSTANCE}={self.name}")

        await eventually(is_so, "no pod is left", timeout_s)

    # ---- inside ----

    async def _helm(self, verb: str, *arguments: str, wait: bool = True) -> str:
        begin = time.monotonic()
        flags = ["-n", self.namespace, "--timeout", f"{INSTALL_TIMEOUT_S}s"]
        if wait:
            flags.append("--wait")
        try:
            told = await self.cluster.run("helm", verb, self.name, *arguments, *flags)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.what_is_wrong()}") from None
        self._cost(f"helm {verb}", begin)
        if verb in ("install", "upgrade"):
            self.notes = told
        return told

    def _cost(self, what: str, begin: float) -> None:
        taken = time.monotonic() - begin
        number = sum(1 for name in self.costs if name.startswith(what)) + 1
        self.costs[what if number == 1 else f"{what} ({number})"] = taken

    async def what_is_wrong(self) -> str:
        """Pods, their events and last words, for whoever reads a failed run."""
        parts = []
        for command in (
            ("get", "pods,jobs,pvc", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", f"{INSTANCE}={self.name}", "--prefix", "--tail=15"),
        ):
            try:
                told = await self.kubectl(*command)
            except AssertionError as error:
                told = str(error)
            parts.append("\n".join(told.splitlines()[-60:]))
        return "\n\n".join(parts)

    async def attach(self) -> None:
        """Keys from the release's Secret; a NodePort beside its signaling Service, for a cluster without balancers."""
        if not self.notes:
            self.notes = await self.cluster.run(
                "helm", "get", "notes", self.name, "-n", self.namespace
            )
        keys = yaml.safe_load((await self.secret("keys"))["keys.yaml"])
        self._keys = next((str(key), str(value)) for key, value in keys.items())
        service = await self.get("service", f"{self.name}-signaling")
        front = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "e2e-front"},
            "spec": {
                "type": "NodePort",
                "selector": service["spec"]["selector"],
                "ports": [{"port": HTTP_PORT, "targetPort": HTTP_PORT}],
            },
        }
        await self.cluster.apply(self.namespace, front)
        made = await self.get("service", "e2e-front")
        address = (await self.cluster.nodes())[0].address
        self.url = f"ws://{address}:{made['spec']['ports'][0]['nodePort']}"


async def eventually(
    condition: Callable[[], Awaitable[object]], what: str, timeout_s: float = 30.0
) -> float:
    """Ask until the answer is yes; the seconds it took. Fails saying what did not happen."""
    begin = time.monotonic()
    while not await condition():
        if time.monotonic() - begin > timeout_s:
            raise AssertionError(f"did not happen within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.2)
    return time.monotonic() - begin


def from_environment(cluster: Cluster) -> Release:
    """The release that `make e2e` has built images for."""
    return Release(
        cluster,
        name=os.environ.get("E2E_RELEASE", "roomwright"),
        namespace=os.environ.get("E2E_NAMESPACE", "rw-e2e"),
        tag=os.environ["E2E_TAG"],
        next_tag=os.environ["E2E_NEXT_TAG"],
    )

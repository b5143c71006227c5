"""Placement's eyes and hands in Kubernetes: watches pods, their Services and machines, and acts on them.

Every replica does this at the same time: no action harms when it is done twice. The API server away is
logged once and outlived; what was last seen stays. The client blocks, so it lives in threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, assert_never

import structlog
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.watch import Watch
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from chassis.clock import Clock
from chassis.errors import SettingsError, Unavailable
from contracts.placement.v1 import placement_pb2
from placement.core.pods import (
    Action,
    ClusterView,
    CreateService,
    DeleteService,
    Entrance,
    KubernetesNode,
    LabelPod,
    MediaService,
    Pod,
    SetDeletionCost,
    Upkeep,
    entrances,
    unschedulable_pods,
)

log = structlog.get_logger(__name__)

POD_LABEL = "roomwright.io/pod"
"""On a pod and in its Service's selector: the pod's name."""
OWNER_LABEL, OWNER = "app.kubernetes.io/managed-by", "roomwright-placement"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
UDP_PORT_NAME, TCP_PORT_NAME = "media-udp", "media-tcp"
"""Of the ports that an sfu pod declares, and of its Service."""
LEAVING_TAINTS = ("ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted")
"""Taints by which autoscalers say that a machine will go, before they cordon it."""

TICK_S = 1.0
CALL_TIMEOUT_S = (3.0, 10.0)
"""To connect, and to read an answer."""
WATCH_S = 60
"""A watch is begun anew after this, so that a dead connection is noticed."""
PAUSE_S = 0.2
"""Between two watches, should the server end them at once."""
RETRY_FIRST_S = 0.5
RETRY_LAST_S = 10.0

Loads = Callable[[], Mapping[str, int]]
"""Participants and rooms, added up, of each pod that tells them."""
OnUnschedulable = Callable[[frozenset[str]], None]
"""Told the pods that get no new rooms, whenever they change."""
Resolve = Callable[[str], Awaitable[list[str]]]
"""The addresses of a name, none when it has none (yet)."""


@dataclass(frozen=True, slots=True)
class MediaServiceSettings:
    """What a pod's Service is like; `expose: loadBalancer` only."""

    udp_port: int = 7882
    """Ports count for pods that declare none."""
    tcp_port: int = 7881
    """0: no ICE-TCP."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    load_balancer_class: str = ""


def connect() -> client.CoreV1Api:
    """The API server of the cluster this process runs in, or of KUBECONFIG outside of one."""
    configuration = client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise SettingsError(
            f"the Kubernetes API cannot be used: {error}; run in a pod with a service "
            "account's token, or set KUBECONFIG"
        ) from None
    configuration.retries = Retry(0)  # the loops here retry, and say so once
    return client.CoreV1Api(client.ApiClient(configuration))


class KubernetesCluster:
    """Follows the cluster until canceled; answers where a pod is reached."""

    def __init__(
        self,
        api: client.CoreV1Api,
        clock: Clock,
        *,
        namespace: str,
        pod_labels: Mapping[str, str],
        service_settings: MediaServiceSettings | None,
        loads: Loads,
        on_unschedulable: OnUnschedulable,
        resolve: Resolve | None = None,
    ) -> None:
        """`pod_labels`: what every sfu pod of this release has, and no other pod.

        `service_settings` None: no Service of ours for each pod.
        """
        self._api = api
        self._clock = clock
        self._namespace = namespace
        self._service_labels = {**pod_labels, OWNER_LABEL: OWNER}
        self._service_settings = service_settings
        self._loads = loads
        self._on_unschedulable = on_unschedulable
        self._resolve = resolve or resolve_name
        self._view = ClusterView()
        self._upkeep = Upkeep(owns_services=service_settings is not None)
        self._changed = asyncio.Event()
        self._failing = _FailureLog()
        self._unschedulable: frozenset[str] | None = None
        self._feeds: list[_AnyFeed] = [
            _Feed[Pod](
                "pods",
                self._view.pods,
                _pod,
                api.list_namespaced_pod,
                {"namespace": namespace, "label_selector": _selector(pod_labels)},
            ),
            _Feed[KubernetesNode]("nodes", self._view.nodes, _node, api.list_node, {}),
        ]
        if service_settings is not None:
            # Ours, and of this release: another one may live in the same namespace.
            selector = _selector(self._service_labels)
            arguments = {"namespace": namespace, "label_selector": selector}
            self._feeds.append(
                _Feed[MediaService](
                    "services",
                    self._view.services,
                    _service,
                    api.list_namespaced_service,
                    arguments,
                )
            )

    @property
    def is_known(self) -> bool:
        """Has everything been listed once (or been forbidden)?"""
        return all(feed.is_known for feed in self._feeds)

    async def run(self) -> None:
        """Until canceled."""
        loop = asyncio.get_running_loop()
        for feed in self._feeds:
            feed.start(loop, self._changed.set, self._failing)
        try:
            while True:
                # Loads change without an event here, hence the tick.
                try:
                    async with asyncio.timeout(TICK_S):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                self._changed.clear()
                await self._look()
        finally:
            for feed in self._feeds:
                feed.stop()

    async def find_addresses(
        self, pod_name: str, kubernetes_node: str
    ) -> list[placement_pb2.MediaAddress]:
        """Best first, one of each family and source; `Unavailable` before the cluster is known."""
        if not self.is_known:
            raise Unavailable(
                "placement has not heard from the Kubernetes API yet; its log says why"
            )
        found: dict[tuple[bool, bool], placement_pb2.MediaAddress] = {}
        for entrance in entrances(self._view, pod_name, kubernetes_node):
            for ip in await self._resolve(entrance.host):
                found.setdefault((entrance.is_load_balancer, ":" in ip), _address(entrance, ip))
        return list(found.values())

    async def _look(self) -> None:
        if not self.is_known:
            return
        unschedulable = unschedulable_pods(self._view)
        if unschedulable != self._unschedulable:
            self._unschedulable = unschedulable
            self._on_unschedulable(unschedulable)
        for action in self._upkeep.due(self._view, self._loads(), self._clock.now()):
            try:
                await asyncio.to_thread(self._perform, action)
            except (ApiException, HTTPError, OSError) as error:
                self._failing.failed(type(action).__name__, error)
                if not isinstance(error, ApiException):
                    return  # the server is away: the rest would only wait, too
            else:
                self._failing.worked(type(action).__name__)

    def _perform(self, action: Action) -> None:
        """One call; a conflict means that somebody else was faster, or that the pod is gone."""
        try:
            match action:
                case LabelPod(pod):
                    self._patch_pod(pod, {"labels": {POD_LABEL: pod.name}})
                case SetDeletionCost(pod, cost):
                    self._patch_pod(pod, {"annotations": {DELETION_COST: str(cost)}})
                case CreateService(pod):
                    self._create_service(pod)
                case DeleteService(service):
                    self._delete_service(service)
                case _:
                    assert_never(action)
        except ApiException as error:
            if error.status not in (_NOT_FOUND, _CONFLICT):
                raise

    def _patch_pod(self, pod: Pod, metadata: dict[str, Any]) -> None:
        self._api.patch_namespaced_pod(
            pod.name,
            self._namespace,
            # The uid makes the server refuse this for a later pod of the same name.
            {"metadata": {"uid": pod.uid, **metadata}},
            _content_type="application/merge-patch+json",
            _request_timeout=CALL_TIMEOUT_S,
        )

    def _create_service(self, pod: Pod) -> None:
        assert self._service_settings is not None  # Upkeep asks for Services only then
        self._api.create_namespaced_service(
            self._namespace,
            media_service(pod, self._service_labels, self._service_settings),
            _request_timeout=CALL_TIMEOUT_S,
        )
        log.info("media service created", pod=pod.name)

    def _delete_service(self, service: MediaService) -> None:
        self._api.delete_namespaced_service(
            service.name,
            self._namespace,
            body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=service.uid)),
            _request_timeout=CALL_TIMEOUT_S,
        )
        log.info("orphaned media service deleted", service=service.name)


def media_service(
    pod: Pod, labels: Mapping[str, str], settings: MediaServiceSettings
) -> client.V1Service:
    """The Service of one pod: it keeps the client's address, and serves a draining pod to its end."""
    # While an upgrade changes the ports, a replica with the old settings may be the one that makes this.
    udp_port, tcp_port = settings.udp_port, settings.tcp_port
    if pod.udp_port:
        udp_port, tcp_port = pod.udp_port, pod.tcp_port
    ports = [client.V1ServicePort(name=UDP_PORT_NAME, port=udp_port, protocol="UDP")]
    if tcp_port:
        ports.append(client.V1ServicePort(name=TCP_PORT_NAME, port=tcp_port, protocol="TCP"))
    return client.V1Service(
        metadata=client.V1ObjectMeta(
            name=pod.name,
            labels={**labels, POD_LABEL: pod.name},
            annotations=dict(settings.annotations),
            owner_references=[
                client.V1OwnerReference(
                    api_version="v1",
                    kind="Pod",
                    name=pod.name,
                    uid=pod.uid,
                    controller=True,
                )
            ],
        ),
        spec=client.V1ServiceSpec(
            type="LoadBalancer",
            selector={POD_LABEL: pod.name},
            ports=ports,
            external_traffic_policy="Local",
            publish_not_ready_addresses=True,
            ip_family_policy="PreferDualStack",
            load_balancer_class=settings.load_balancer_class or None,
        ),
    )


async def resolve_name(host: str) -> list[str]:
    """An address is its own answer; a load balancer's fresh name often has none for a minute."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _FailureLog:
    """Says once that something does not work, and once that it works again. From any thread."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}
        self._lock = threading.Lock()

    def failed(self, what: str, error: Exception) -> None:
        is_forbidden = isinstance(error, ApiException) and error.status == _FORBIDDEN
        kind = "forbidden" if is_forbidden else "failed"
        with self._lock:
            if self._failing.get(what) == kind:
                return
            self._failing[what] = kind
        if is_forbidden:
            log.error(
                "Kubernetes forbids it: the role of placement's service account lacks a rule",
                what=what,
                error=error_text(error),
            )
        else:
            log.warning(
                "Kubernetes API call failed; rooms go on", what=what, error=error_text(error)
            )

    def worked(self, what: str) -> None:
        with self._lock:
            if self._failing.pop(what, None) is None:
                return
        log.info("Kubernetes API call works again", what=what)


class _HasMetadata(Protocol):
    metadata: Any


class _Named(Protocol):
    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=_Named)


class _Feed(Generic[S]):
    """One kind of object: listed, then watched, by a thread of its own, into `objects` on the loop."""

    def __init__(
        self,
        kind: str,
        objects: dict[str, S],
        read: Callable[[Any], S],
        list_call: Callable[..., Any],
        arguments: Mapping[str, str],
    ) -> None:
        self.is_known = False
        self._kind = kind
        self._objects = objects
        self._read = read
        self._list_call = list_call
        self._arguments = arguments
        self._stopped = threading.Event()
        self._watch: Watch | None = None

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
        failing: _FailureLog,
    ) -> None:
        """Begin; `changed` is called on the loop."""

        def tell(change: Callable[[], None]) -> None:
            def apply() -> None:
                change()
                changed()

            if not self._stopped.is_set():
                loop.call_soon_threadsafe(apply)

        threading.Thread(
            # A daemon: the process must be able to end while a call hangs.
            target=self._follow,
            args=(tell, failing),
            name=f"kubernetes-{self._kind}",
            daemon=True,
        ).start()

    def stop(self) -> None:
        """Soon."""
        self._stopped.set()
        if self._watch is not None:
            self._watch.stop()  # type: ignore[no-untyped-call]

    def _follow(self, tell: Callable[[Callable[[], None]], None], failing: _FailureLog) -> None:
        delay = RETRY_FIRST_S
        while not self._stopped.is_set():
            try:
                version = self._list(tell)
                failing.worked(self._kind)
                delay = RETRY_FIRST_S
                self._watch_from(version, tell)
            except (ApiException, ConfigException, HTTPError, OSError, ValueError) as error:
                if self._stopped.is_set():
                    return
                status = error.status if isinstance(error, ApiException) else None
                if status == _GONE:
                    continue  # it was away for so long that only a list helps
                if status == _FORBIDDEN:
                    tell(self._known)
                failing.failed(self._kind, error)
                self._stopped.wait(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, RETRY_LAST_S)

    def _list(self, tell: Callable[[Callable[[], None]], None]) -> str:
        listed = self._list_call(**self._arguments, _request_timeout=CALL_TIMEOUT_S)
        objects = [self._read(item) for item in listed.items]
        tell(lambda: self._replace(objects))
        return str(listed.metadata.resource_version)

    def _watch_from(self, version: str, tell: Callable[[Callable[[], None]], None]) -> None:
        """Raises when the watch breaks; ends when it is stopped."""
        while not self._stopped.is_set():
            watch = self._watch = Watch()  # type: ignore[no-untyped-call]
            events = watch.stream(  # type: ignore[no-untyped-call]
                self._list_call,
                **self._arguments,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=WATCH_S,
                _request_timeout=(CALL_TIMEOUT_S[0], WATCH_S + 10.0),
            )
            for event in events:
                if self._stopped.is_set():
                    return
                self._apply(event, tell)
            version = watch.resource_version or version
            self._stopped.wait(PAUSE_S)

    def _apply(self, event: Any, tell: Callable[[Callable[[], None]], None]) -> None:
        if event["type"] == "BOOKMARK":
            return
        found = self._read(event["object"])
        if event["type"] == "DELETED":
            tell(lambda: self._forget(found.name))
        else:
            tell(lambda: self._put(found))

    def _known(self) -> None:
        self.is_known = True

    def _replace(self, objects: list[S]) -> None:
        self._objects.clear()
        self._objects.update({item.name: item for item in objects})
        self.is_known = True

    def _put(self, item: S) -> None:
        self._objects[item.name] = item

    def _forget(self, name: str) -> None:
        self._objects.pop(name, None)


_AnyFeed = _Feed[Pod] | _Feed[KubernetesNode] | _Feed[MediaService]


def _pod(found: client.V1Pod) -> Pod:
    metadata, spec, status = _metadata(found), found.spec, found.status
    annotated = (metadata.annotations or {}).get(DELETION_COST, "")
    name = str(metadata.name)
    ports = {
        port.name: port.container_port
        for container in (spec.containers if spec else [])
        for port in container.ports or []
    }
    return Pod(
        name=name,
        uid=str(metadata.uid),
        kubernetes_node=(spec.node_name if spec else None) or "",
        is_leaving=metadata.deletion_timestamp is not None
        or (status.phase if status else None) in ("Succeeded", "Failed"),
        is_labeled=(metadata.labels or {}).get(POD_LABEL) == name,
        deletion_cost=_integer(annotated),
        udp_port=ports.get(UDP_PORT_NAME, 0),
        tcp_port=ports.get(TCP_PORT_NAME, 0),
    )


def _service(found: client.V1Service) -> MediaService:
    metadata, spec, status = _metadata(found), found.spec, found.status
    balancer = status.load_balancer if status else None
    ingress = (balancer.ingress if balancer else None) or []
    ports = {port.protocol: port.port for port in (spec.ports if spec else None) or []}
    return MediaService(
        name=str(metadata.name),
        uid=str(metadata.uid),
        pod_uid=next((str(owner.uid) for owner in metadata.owner_references or []), ""),
        ips=tuple(entry.ip for entry in ingress if entry.ip),
        hostnames=tuple(entry.hostname for entry in ingress if entry.hostname),
        udp_port=ports.get("UDP", 0),
        tcp_port=ports.get("TCP", 0),
    )


def _node(found: client.V1Node) -> KubernetesNode:
    spec, status = found.spec, found.status
    taints = (spec.taints if spec else None) or []
    addresses = (status.addresses if status else None) or []
    return KubernetesNode(
        name=str(_metadata(found).name),
        is_cordoned=bool(spec and spec.unschedulable)
        or any(taint.key in LEAVING_TAINTS for taint in taints),
        external_ips=tuple(entry.address for entry in addresses if entry.type == "ExternalIP"),
    )


def _metadata(found: _HasMetadata) -> client.V1ObjectMeta:
    metadata = found.metadata
    if not isinstance(metadata, client.V1ObjectMeta):
        raise ValueError("the API server sent an object without metadata")  # noqa: TRY004
    return metadata


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _address(entrance: Entrance, ip: str) -> placement_pb2.MediaAddress:
    source = placement_pb2.MediaAddress
    return placement_pb2.MediaAddress(
        ip=ip,
        source=source.SOURCE_LOAD_BALANCER
        if entrance.is_load_balancer
        else source.SOURCE_NODE_EXTERNAL_IP,
        udp_port=entrance.udp_port,
        tcp_port=entrance.tcp_port,
    )


def error_text(error: Exception) -> str:
    """Without the response's headers and body."""
    if not isinstance(error, ApiException):
        return f"{error.__class__.__name__}: {error}"
    try:
        message = str(json.loads(error.body or "{}").get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return (
        f"{error.status} {error.reason}: {message}" if message else f"{error.status} {error.reason}"
    )


_FORBIDDEN, _NOT_FOUND, _CONFLICT, _GONE = 403, 404, 409, 410

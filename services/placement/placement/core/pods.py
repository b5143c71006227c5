"""The sfu's pods, their Services and the machines below, as Kubernetes shows them, and what to do about them.

Decisions only: which pods get no new rooms, which Service each pod lacks, what a pod's loss would cost, and where
clients reach it. Every action may be done twice, also by another replica at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the sfu."""

    name: str
    uid: str
    kubernetes_node: str = ""
    """Empty until it is scheduled."""
    is_leaving: bool = False
    """Told to end, or ended: it may still have calls, and takes no new rooms."""
    is_labeled: bool = False
    """Has it the label that only its own Service selects?"""
    deletion_cost: int | None = None
    """As annotated now."""
    udp_port: int = 0
    """Of its media; 0: not declared."""
    tcp_port: int = 0


@dataclass(frozen=True, slots=True)
class MediaService:
    """The Service that we made for one pod, of type LoadBalancer."""

    name: str
    uid: str
    pod_uid: str
    """Of the pod that owns it."""
    ips: tuple[str, ...] = ()
    hostnames: tuple[str, ...] = ()
    udp_port: int = 0
    tcp_port: int = 0


@dataclass(frozen=True, slots=True)
class KubernetesNode:
    """One machine of the cluster."""

    name: str
    is_cordoned: bool = False
    external_ips: tuple[str, ...] = ()


@dataclass(slots=True)
class ClusterView:
    """What was last seen, by name."""

    pods: dict[str, Pod] = field(default_factory=dict)
    services: dict[str, MediaService] = field(default_factory=dict)
    nodes: dict[str, KubernetesNode] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Give the pod the label that its Service selects."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class CreateService:
    """Make the pod's Service; that it is there already is as good."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Delete this very Service: its pod is gone."""

    service: MediaService


@dataclass(frozen=True, slots=True)
class SetDeletionCost:
    """Annotate what the pod's loss would cost."""

    pod: Pod
    cost: int


Action = LabelPod | CreateService | DeleteService | SetDeletionCost


def unschedulable_pods(view: ClusterView) -> frozenset[str]:
    """Pods that get no new rooms: their machine is cordoned, or they were told to end."""
    return frozenset(
        pod.name for pod in view.pods.values() if pod.is_leaving or _is_cordoned(view, pod)
    )


@dataclass(slots=True)
class Upkeep:
    """What is left to do, and what was asked for lately: no action is asked for again too soon."""

    owns_services: bool
    """Does each pod get a Service of its own (`expose: loadBalancer`)?"""
    _asked_at: dict[tuple[type[Action], str], float] = field(default_factory=dict)
    _orphaned_at: dict[str, float] = field(default_factory=dict)

    def due(self, view: ClusterView, loads: Mapping[str, int], now: float) -> list[Action]:
        """The actions for now. `loads`: participants and rooms of each pod that has told them."""
        self._asked_at = {key: at for key, at in self._asked_at.items() if now - at < FORGET_S}
        wanted: list[Action] = []
        if self.owns_services:
            wanted += _service_actions(view)
            wanted += self._orphans(view, now)
        wanted += _cost_actions(view, loads)
        return [action for action in wanted if self._is_due(action, now)]

    def _is_due(self, action: Action, now: float) -> bool:
        interval = COST_INTERVAL_S if isinstance(action, SetDeletionCost) else RETRY_S
        uid = action.service.uid if isinstance(action, DeleteService) else action.pod.uid
        asked_at = self._asked_at.get((type(action), uid))
        if asked_at is not None and now - asked_at < interval:
            return False
        self._asked_at[type(action), uid] = now
        return True

    def _orphans(self, view: ClusterView, now: float) -> list[Action]:
        """Services whose pod has been gone for a while: Kubernetes deletes them, unless somebody cut their owner."""
        uids = {pod.uid for pod in view.pods.values()}
        lost = [s for s in view.services.values() if s.pod_uid not in uids]
        self._orphaned_at = {s.uid: self._orphaned_at.get(s.uid, now) for s in lost}
        return [DeleteService(s) for s in lost if now - self._orphaned_at[s.uid] >= ORPHAN_S]


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where the outside reaches a pod: an address, or a name to be resolved."""

    host: str
    is_load_balancer: bool
    """Of its Service; else of its machine."""
    udp_port: int = 0
    """0: the one that the pod listens on."""
    tcp_port: int = 0


def entrances(view: ClusterView, pod_name: str, kubernetes_node: str) -> list[Entrance]:
    """The pod's load balancer first, then its machine's external addresses."""
    found: list[Entrance] = []
    pod, service = view.pods.get(pod_name), view.services.get(pod_name)
    # A Service of an earlier pod of this name leads nowhere.
    if service is not None and pod is not None and service.pod_uid == pod.uid:
        found += [
            Entrance(host, True, service.udp_port, service.tcp_port)
            for host in (*service.ips, *service.hostnames)
        ]
    node = view.nodes.get(kubernetes_node or (pod.kubernetes_node if pod else ""))
    if node is not None:
        found += [Entrance(host, False) for host in node.external_ips]
    return found


def _service_actions(view: ClusterView) -> list[Action]:
    actions: list[Action] = []
    for pod in view.pods.values():
        if pod.is_leaving:
            continue
        if not pod.is_labeled:
            actions.append(LabelPod(pod))
        if pod.name not in view.services:
            actions.append(CreateService(pod))
    return actions


def _cost_actions(view: ClusterView, loads: Mapping[str, int]) -> list[SetDeletionCost]:
    actions = []
    for pod in view.pods.values():
        load = loads.get(pod.name)
        if pod.is_leaving or load is None:
            continue
        # Of two empty pods the one goes first that would get no rooms anyway.
        cost = -1 if load == 0 and _is_cordoned(view, pod) else min(load, _INT32_MAX)
        if _is_noticeable(pod.deletion_cost, cost):
            actions.append(SetDeletionCost(pod, cost))
    return actions


def _is_noticeable(annotated: int | None, cost: int) -> bool:
    """Half a dozen people more or less on a pod of a hundred do not change which pod is the emptiest."""
    if annotated is None:
        return cost != 0  # what is not annotated counts as 0
    if min(annotated, cost) <= 0:
        return annotated != cost
    return abs(cost - annotated) > _NOTICEABLE * max(annotated, cost)


def _is_cordoned(view: ClusterView, pod: Pod) -> bool:
    node = view.nodes.get(pod.kubernetes_node)
    return node is not None and node.is_cordoned


RETRY_S = 5.0
"""An action that had no effect is asked for again after this."""
COST_INTERVAL_S = 10.0
"""The least time between two costs of one pod."""
ORPHAN_S = 60.0
"""How long a Service without its pod is left to Kubernetes' own collection."""
FORGET_S = 60.0
_NOTICEABLE = 0.1
_INT32_MAX = 2**31 - 1

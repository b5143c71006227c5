"""What placement does about the sfu's pods, as Kubernetes shows them."""

from dataclasses import replace

import pytest

from placement.core.pods import (
    COST_INTERVAL_S,
    ORPHAN_S,
    RETRY_S,
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

POD = Pod("sfu-1", "uid-1", "n1", is_labeled=True, deletion_cost=0)
SERVICE = MediaService(
    "sfu-1", "uid-s", "uid-1", ips=("203.0.113.1",), udp_port=7882, tcp_port=7881
)


def view(
    *pods: Pod, services: tuple[MediaService, ...] = (), nodes: tuple[KubernetesNode, ...] = ()
) -> ClusterView:
    return ClusterView(
        {pod.name: pod for pod in pods},
        {service.name: service for service in services},
        {node.name: node for node in nodes},
    )


def due(
    seen: ClusterView, loads: dict[str, int] | None = None, *, owns: bool = False
) -> list[Action]:
    return Upkeep(owns).due(seen, loads or {}, 100.0)


def test_pods_of_cordoned_machines_and_leaving_pods_get_no_new_rooms() -> None:
    seen = view(
        POD,
        Pod("sfu-2", "uid-2", "n2"),
        Pod("sfu-3", "uid-3", "n1", is_leaving=True),
        Pod("sfu-4", "uid-4", ""),
        nodes=(KubernetesNode("n1"), KubernetesNode("n2", is_cordoned=True)),
    )
    assert unschedulable_pods(seen) == {"sfu-2", "sfu-3"}


def test_new_pod_is_labeled_and_gets_its_service() -> None:
    new = replace(POD, is_labeled=False)
    assert due(view(new), owns=True) == [LabelPod(new), CreateService(new)]


def test_service_that_somebody_deleted_is_made_again() -> None:
    upkeep = Upkeep(owns_services=True)
    assert upkeep.due(view(POD, services=(SERVICE,)), {}, 1.0) == []
    assert upkeep.due(view(POD), {}, 2.0) == [CreateService(POD)]


def test_leaving_pod_gets_nothing_more() -> None:
    leaving = replace(POD, is_leaving=True, is_labeled=False)
    assert due(view(leaving), {"sfu-1": 50}, owns=True) == []


def test_other_ways_to_expose_own_no_services() -> None:
    assert due(view(replace(POD, is_labeled=False), services=(SERVICE,))) == []


def test_action_without_effect_is_asked_for_again_but_not_at_once() -> None:
    upkeep = Upkeep(owns_services=True)
    assert upkeep.due(view(POD), {}, 1.0) == [CreateService(POD)]
    assert upkeep.due(view(POD), {}, 1.0 + RETRY_S / 2) == []
    assert upkeep.due(view(POD), {}, 1.0 + RETRY_S) == [CreateService(POD)]


def test_orphaned_service_is_left_to_kubernetes_for_a_while() -> None:
    upkeep = Upkeep(owns_services=True)
    seen = view(services=(SERVICE,))
    assert upkeep.due(seen, {}, 0.0) == []
    assert upkeep.due(seen, {}, ORPHAN_S - 1) == []
    assert upkeep.due(seen, {}, ORPHAN_S) == [DeleteService(SERVICE)]


def test_service_whose_pod_is_seen_late_is_no_orphan() -> None:
    upkeep = Upkeep(owns_services=True)
    upkeep.due(view(services=(SERVICE,)), {}, 0.0)
    upkeep.due(view(POD, services=(SERVICE,)), {}, 30.0)
    assert upkeep.due(view(services=(SERVICE,)), {}, ORPHAN_S) == []


@pytest.mark.parametrize(
    ("annotated", "load", "cost"),
    [
        (None, 0, None),
        (None, 3, 3),
        (0, 1, 1),
        (1, 0, 0),
        (100, 105, None),
        (100, 95, None),
        (100, 120, 120),
        (100, 80, 80),
        (5, 2**40, 2**31 - 1),
        (-1, 0, 0),
    ],
)
def test_deletion_cost_follows_the_load_when_it_changed_noticeably(
    annotated: int | None, load: int, cost: int | None
) -> None:
    pod = replace(POD, deletion_cost=annotated)
    wanted = [] if cost is None else [SetDeletionCost(pod, cost)]
    assert due(view(pod), {"sfu-1": load}) == wanted


def test_small_changes_add_up_to_a_noticeable_one() -> None:
    written = 100
    for load in range(100, 131):
        for action in due(view(replace(POD, deletion_cost=written)), {"sfu-1": load}):
            assert isinstance(action, SetDeletionCost)
            written = action.cost
    assert written > 120


def test_of_empty_pods_the_one_that_is_cordoned_goes_first() -> None:
    cordoned = KubernetesNode("n1", is_cordoned=True)
    assert due(view(POD, nodes=(cordoned,)), {"sfu-1": 0}) == [SetDeletionCost(POD, -1)]
    assert due(view(POD, nodes=(cordoned,)), {"sfu-1": 7}) == [SetDeletionCost(POD, 7)]


def test_pod_that_told_no_load_keeps_its_cost() -> None:
    assert due(view(POD), {"another": 3}) == []


def test_costs_of_a_pod_are_apart_in_time_and_pods_do_not_wait_for_each_other() -> None:
    upkeep = Upkeep(owns_services=False)
    other = Pod("sfu-2", "uid-2")
    assert upkeep.due(view(POD), {"sfu-1": 1}, 0.0) == [SetDeletionCost(POD, 1)]
    both = view(POD, other)
    assert upkeep.due(both, {"sfu-1": 2, "sfu-2": 2}, 1.0) == [SetDeletionCost(other, 2)]
    assert upkeep.due(both, {"sfu-1": 2}, COST_INTERVAL_S) == [SetDeletionCost(POD, 2)]


def test_entrances_are_the_load_balancer_then_the_machine() -> None:
    named = replace(SERVICE, hostnames=("lb.example",))
    node = KubernetesNode("n1", external_ips=("203.0.113.7", "2001:db8::7"))
    assert entrances(view(POD, services=(named,), nodes=(node,)), "sfu-1", "n1") == [
        Entrance("203.0.113.1", True, 7882, 7881),
        Entrance("lb.example", True, 7882, 7881),
        Entrance("203.0.113.7", False),
        Entrance("2001:db8::7", False),
    ]


def test_service_of_an_earlier_pod_of_the_same_name_is_no_entrance() -> None:
    seen = view(replace(POD, uid="uid-new"), services=(SERVICE,))
    assert entrances(seen, "sfu-1", "") == []


def test_machine_is_known_by_the_pod_when_it_is_not_named() -> None:
    node = KubernetesNode("n1", external_ips=("203.0.113.7",))
    assert entrances(view(POD, nodes=(node,)), "sfu-1", "") == [Entrance("203.0.113.7", False)]
    assert entrances(view(nodes=(node,)), "unknown", "n1") == [Entrance("203.0.113.7", False)]
    assert entrances(view(), "unknown", "nowhere") == []

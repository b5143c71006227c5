"""Many rooms over the nodes, autoscaling, and a node that is drained."""

import ast
import asyncio
import json
import operator
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from livekit import api

from tests.e2e.caller import call, everybody_sees_everybody, gaps, now
from tests.e2e.cluster import Json, Node, Pod
from tests.e2e.release import COMPONENT, INSTANCE, Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]

ROOT = Path(__file__).resolve().parents[2]
MOVED_S = 8.0
SMOOTH_S = 1.5
DRAIN_S = 20
"""conftest.SHAPE"""
CORDON_SEEN_S = 5.0

ROOMS = 100
LOAD_S = 110
ROOMS_PER_S = 5
"""Arrivals: the load, its clients and the cluster may share two cores."""
"""Of the load: metrics-server looks every 15 s, the autoscaler as often, and a higher wish must last 30 s."""
LEAST_SHARE = 0.25
"""Of the rooms, on each of two nodes: of rooms placed by chance, fewer come to one node once in a million runs."""
PARTICIPANT_LIMIT = 400
TARGET_CPU = 10
"""Percent of the request that an idle node stays below and one with 50 rooms is above."""
FEWEST, MOST = 2, 3
SPARING_S = 3.0
"""Between two looks while the load runs: each costs as much CPU as a dozen joins."""
DOWN_AFTER_S, DOWN_EVERY_S = 15, 30
AUTOSCALED = (
    *("--set", f"sfu.settings.participantLimit={PARTICIPANT_LIMIT}"),
    *("--set", "sfu.autoscaling.enabled=true"),
    *("--set", f"sfu.autoscaling.minReplicas={FEWEST},sfu.autoscaling.maxReplicas={MOST}"),
    *("--set", f"sfu.autoscaling.targetCpuPercent={TARGET_CPU}"),
    *("--set", f"sfu.autoscaling.scaleDownStabilizationSeconds={DOWN_AFTER_S}"),
    *("--set", f"sfu.autoscaling.scaleDownPeriodSeconds={DOWN_EVERY_S}"),
)
KEDA = (
    *("--set", "sfu.autoscaling.keda.enabled=true"),
    *("--set", "sfu.autoscaling.keda.prometheusAddress=http://prometheus:9090"),
    *("--set", "metrics.serviceMonitor.enabled=true"),
)


async def test_a_drained_node_takes_no_rooms_and_its_call_goes_on_elsewhere(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    await release.empty()
    made, pod = await room_away_from_nats(release, room)
    async with release.server_api() as server, call(release, made.name, "alice", "bob") as callers:
        node = Node(pod.node, pod.host_ip)
        begin = now()
        async with cordoned(release, node):
            seen = await eventually(lambda: all_see_draining(release), "placement sees it", 30)
            for number in range(10):
                request = api.CreateRoomRequest(name=f"{room}-after-{number}")
                await server.room.create_room(request)
            assert await release.metric(pod, "roomwright_sfu_rooms") == 1
            quiet = gaps(callers, begin)
            assert max(quiet.values()) < SMOOTH_S, "a cordon alone disturbs nobody"

            began = now()
            draining = asyncio.create_task(drain(release, node))
            await eventually(lambda: is_leaving(release, pod), "the eviction of the node's pod")
            other = next(it for it in await release.pods("sfu") if it.name != pod.name)
            refused = await evict_for_show(release, other)
            assert "disruption budget" in refused
            assert await release.metric(pod, "roomwright_sfu_draining") == 1
            await draining
            took = now() - began
            await everybody_sees_everybody(*callers)
            moved = gaps(callers, began)
            measured(f"cordon seen in {seen:.1f} s; drained in {took:.0f} s; media gaps {moved}")
            assert took > DRAIN_S - 2, "the node did not wait for its call"
            assert max(moved.values()) < MOVED_S
            home = await release.home_of(made.name)
            assert home.node != node.name
            listed = await server.room.list_rooms(api.ListRoomsRequest(names=[made.name]))
            assert [(it.sid, it.metadata) for it in listed.rooms] == [(made.sid, "kept")]
            assert [await it.sid() for it in callers] == [made.sid, made.sid]
    for component in ("signaling", "placement", "sfu"):
        await release.settled(component)
    await release.empty()


async def test_a_hundred_rooms_spread_and_more_nodes_come_and_go_by_cpu(
    release: Release, measured: Callable[[str], None], tmp_path: Path
) -> None:
    assert len(await release.cluster.nodes()) >= MOST, f"this needs {MOST} nodes for pods"
    await release.empty()
    await release.upgrade(*AUTOSCALED)
    await eventually(lambda: has_replicas(release, FEWEST), f"{FEWEST} replicas", 60)
    await release.settled("sfu")
    query = await keda_query(release)
    scaler = await release.get("hpa", f"{release.name}-sfu")
    down = scaler["spec"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] == DOWN_AFTER_S
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": DOWN_EVERY_S}]
    before = await release.pods("sfu")
    async with replicas_over_time(release) as steps:
        load = asyncio.create_task(locust(release, tmp_path))
        try:
            await eventually(lambda: hosts(release, ROOMS), f"{ROOMS} rooms", 90)
            shares = [await release.metric(pod, "roomwright_sfu_rooms") for pod in before]
            measured(f"rooms by node: {[int(share) for share in shares]}")
            assert min(shares) >= LEAST_SHARE * ROOMS
            used = await eventually_used(release, query)
            measured(f"KEDA's query: {used:.1f} % of the capacity is taken")
            # Two participants a room, of the limits of two nodes, or of three when the next is there already.
            right = [100 * 2 * ROOMS / (nodes * PARTICIPANT_LIMIT) for nodes in (FEWEST, MOST)]
            assert min(abs(used - it) for it in right) < 1
            grown = await eventually(lambda: are_wanted(steps, MOST), "a third node", LOAD_S)
            measured(f"a third node is wanted {grown:.0f} s after all rooms are there")
            code, told = await load
        finally:
            load.cancel()
        measured(f"budgets: {told.strip().splitlines()[-1]}")
        assert code == 0, told
        ended = now()
        await release.settled("sfu", MOST)
        await eventually(lambda: are_wanted(steps, FEWEST), "one node fewer", 150)
        measured(f"one node fewer {now() - ended:.0f} s after the load; replicas {steps}")
    assert steps == [FEWEST, MOST, FEWEST]
    await release.settled("sfu", FEWEST)


# ---- draining ----


async def room_away_from_nats(release: Release, name: str) -> tuple[api.Room, Pod]:
    """A room whose node does not run NATS: that one's volume may be bound to its node."""
    taken = {pod.node for pod in await release.pods("nats")}
    async with release.server_api() as server:
        for number in range(20):
            request = api.CreateRoomRequest(name=f"{name}-{number}", metadata="kept")
            made = await server.room.create_room(request)
            for pod in await release.pods("sfu"):
                if await release.metric(pod, "roomwright_sfu_rooms") and pod.node not in taken:
                    return made, pod
            await server.room.delete_room(api.DeleteRoomRequest(room=made.name))
    raise AssertionError("twenty rooms, and none on a node without NATS")


@asynccontextmanager
async def cordoned(release: Release, node: Node) -> AsyncIterator[None]:
    """The node takes no pods, until the end."""
    await release.cluster.run("kubectl", "cordon", node.name)
    try:
        yield
    finally:
        await release.cluster.run("kubectl", "uncordon", node.name)


async def drain(release: Release, node: Node) -> None:
    """`kubectl drain` of what belongs to the release."""
    command = ("kubectl", "drain", node.name, "--ignore-daemonsets", "--delete-emptydir-data")
    selector = f"{INSTANCE}={release.name}"
    await release.cluster.run(*command, f"--pod-selector={selector}", "--timeout=180s")


async def all_see_draining(release: Release) -> bool:
    """Each replica of placement counts a draining node."""
    name = "roomwright_placement_nodes"
    pages = [await release.cluster.http(it, "/metrics") for it in await release.pods("placement")]
    return all(samples(page, name, {"state": "draining"}) == [1.0] for page in pages)


async def is_leaving(release: Release, pod: Pod) -> bool:
    """The pod is told to end."""
    return any(it.name == pod.name and it.deleting for it in await release.all_pods("sfu"))


async def evict_for_show(release: Release, pod: Pod) -> str:
    """Why a pod may not be evicted now; empty when it may. It stays in any case."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"dryRun": ["All"]},
    }
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction"
    try:
        command = ("kubectl", "create", "--raw", path, "-f", "-")
        await release.cluster.run(*command, stdin=json.dumps(eviction))
    except AssertionError as error:
        return str(error)
    return ""


# ---- load and scaling ----


async def locust(release: Release, results: Path) -> tuple[int, str]:
    """The load test's command line with its scenario of rooms: exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", "run", "rooms", "--duration", str(LOAD_S)),
        *("--spawn-rate", str(ROOMS_PER_S)),
        *("--results", str(results)),
        cwd=ROOT,
        env={**os.environ, **release.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def hosts(release: Release, rooms: int) -> bool:
    """The nodes have so many rooms together, with both participants in each."""
    await asyncio.sleep(SPARING_S)
    pods = await release.pods("sfu")
    names = ("roomwright_sfu_rooms", "livekit_participant_total")
    found = [sum([await release.metric(pod, name) for pod in pods]) for name in names]
    return found == [rooms, 2 * rooms]


async def has_replicas(release: Release, count: int) -> bool:
    """So many sfu pods are wanted now."""
    return bool((await release.get(release.workload("sfu")))["spec"]["replicas"] == count)


async def are_wanted(steps: list[int], count: int) -> bool:
    """So many were wanted when `replicas_over_time` looked last."""
    return steps[-1:] == [count]


@asynccontextmanager
async def replicas_over_time(release: Release) -> AsyncIterator[list[int]]:
    """How many sfu pods were wanted, one after the other, without repetitions."""
    steps: list[int] = []

    async def watch() -> None:
        while True:
            found = int((await release.get(release.workload("sfu")))["spec"]["replicas"])
            if steps[-1:] != [found]:
                steps.append(found)
            await asyncio.sleep(SPARING_S)

    watching = asyncio.create_task(watch())
    try:
        yield steps
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


# ---- KEDA's query ----


async def keda_query(release: Release) -> str:
    """What the chart's ScaledObject asks Prometheus. test_chart has the API server take such an object."""
    rendered = await release.manifests(*release.values, *KEDA)
    scaled = next(it for it in rendered if it["kind"] == "ScaledObject")
    trigger = scaled["spec"]["triggers"][0]
    assert trigger["type"] == "prometheus"
    return str(trigger["metadata"]["query"])


async def eventually_used(release: Release, query: str) -> float:
    """The query's answer, once placement has heard of everybody: a heartbeat takes a second."""
    await asyncio.sleep(2)
    return evaluate(query, await scraped(release, "placement"))


async def scraped(release: Release, component: str) -> list[tuple[str, Mapping[str, str]]]:
    """Each pod's /metrics, with the labels that the chart's ServiceMonitor has Prometheus add."""
    service = f"{release.name}-{component}"
    selector = f"{INSTANCE}={release.name},{COMPONENT}={component}"
    found: list[Json] = (await release.get("service", "-l", selector))["items"]
    assert [it["metadata"]["name"] for it in found] == [service]
    labels = {"namespace": release.namespace, "service": service}
    return [
        (await release.cluster.http(pod, "/metrics"), {**labels, "pod": pod.name})
        for pod in await release.pods(component)
    ]


def evaluate(query: str, pages: list[tuple[str, Mapping[str, str]]]) -> float:
    """The value of a PromQL query of `max(metric{a="b"})`, numbers, + - * / and parentheses; knows no more."""

    def value(found: re.Match[str]) -> str:
        name, matchers = found.groups()
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', matchers))
        values = [it for page, labels in pages for it in samples(page, name, wanted, labels)]
        assert values, f"the query's {found.group()} finds nothing on the pods"
        return repr(max(values))

    return _calculate(ast.parse(re.sub(r"max\((\w+)\{([^}]*)\}\)", value, query), mode="eval").body)


def samples(
    page: str, name: str, wanted: Mapping[str, str], added: Mapping[str, str] | None = None
) -> list[float]:
    """Values of a metric on a /metrics page, of the samples with these labels."""
    found = []
    for line in page.splitlines():
        sample, _, value = line.rpartition(" ")
        metric, _, labels = sample.partition("{")
        if metric == name:
            has = {**dict(re.findall(r'(\w+)="([^"]*)"', labels)), **(added or {})}
            if wanted.items() <= has.items():
                found.append(float(value))
    return found


def _calculate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_calculate(left), _calculate(right))
    raise AssertionError(f"the query has more in it than this test can calculate: {ast.dump(node)}")


_OPERATIONS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

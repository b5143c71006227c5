"""Last of all: what is left when the release goes."""

import pytest

from tests.e2e.release import Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]


async def test_uninstall_leaves_only_the_volumes_of_nats_and_the_notes_say_so(
    bare: Release,
) -> None:
    before = await bare.cluster.listed(bare.namespace)
    claims = {name for name in before if name.startswith("persistentvolumeclaim/")}
    assert claims, "NATS has no volume"
    assert all("nats" in name for name in claims)
    await bare.kubectl("delete", "service", "e2e-front")
    await bare.uninstall()
    await bare.gone()

    async def only_claims_are_left() -> bool:
        return await bare.cluster.listed(bare.namespace) == claims

    # A pod that was being replaced is made once more before its ReplicaSet is gone.
    await eventually(only_claims_are_left, "nothing but the volume claims is left", 60)
    assert "persistentvolumeclaim" in bare.notes.lower()
    for kind in ("clusterrole", "clusterrolebinding"):
        selector = f"app.kubernetes.io/instance={bare.name},app.kubernetes.io/name=roomwright"
        assert not (await bare.cluster.get(kind, "-l", selector))["items"]

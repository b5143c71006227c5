"""The benchmark of placement against a placement and a nats-server of its own."""

import asyncio
import json
from pathlib import Path

from loadtest import placement


async def test_a_short_run_measures_every_kind_of_call(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    await asyncio.to_thread(placement.main, ["--rooms", "100", "--json", str(figures)])
    results = json.loads(figures.read_text())
    assert [result["name"] for result in results] == [
        "new rooms",
        "rooms that exist",
        "rooms given back",
        "names used before",
    ]
    for result in results:
        assert result["calls"] == 100
        assert result["placement_cpu_us"] > 0

"""The process's own CPU share, and the cores it is a share of."""

from pathlib import Path

import pytest

from sfu.load import SMOOTHING_S, CpuLoad, usable_cores


class Machine:
    """A clock and a count of CPU time, both set by hand."""

    def __init__(self) -> None:
        self.now = self.used = 50.0

    def load(self, cores: float) -> CpuLoad:
        return CpuLoad(cores, cpu_time=lambda: self.used, clock=lambda: self.now)


def test_the_load_is_the_share_of_the_cores_that_may_be_used() -> None:
    machine = Machine()
    load = machine.load(2.0)
    machine.now += SMOOTHING_S
    machine.used += SMOOTHING_S
    assert load.read() == pytest.approx(0.5)


def test_a_short_burst_is_not_a_load_and_a_lasting_one_becomes_it() -> None:
    machine = Machine()
    load = machine.load(1.0)
    machine.now += 0.5
    machine.used += 0.5
    assert load.read() < 0.2
    for _ in range(20):
        machine.now += 1.0
        machine.used += 1.0
        last = load.read()
    assert last > 0.95


def test_two_readings_at_once_agree() -> None:
    machine = Machine()
    load = machine.load(1.0)
    machine.now += 1.0
    machine.used += 1.0
    assert load.read() == load.read() > 0


@pytest.mark.parametrize(
    ("name", "text", "cores"),
    [("cpu.max", "50000 100000", 0.5), ("cpu/cpu.cfs_quota_us", "25000", 0.25)],
)
def test_a_container_s_quota_counts_when_it_is_less_than_the_machine(
    tmp_path: Path, name: str, text: str, cores: float
) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("text", ["max 100000", "nonsense"])
def test_without_a_quota_all_cores_may_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) >= 1

"""Hosts of a network of the tests' own: network namespaces on one bridge, whose links can be cut pair by pair.

A cut swallows packets in both directions, as a broken network does: nobody is told, connections
hang. It is not a closed port. Needs root and `ip` (Debian: iproute2).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BRIDGE = "rwbr0"
SUBNET = "10.78.0"
NAMESPACE_PREFIX = "rw-"
LOCK = Path(tempfile.gettempdir()) / "roomwright-network-tests.lock"
"""Who holds it has the names and the subnet to itself; the kernel frees it when its holder dies."""
NOWHERE = "02:00:00:00:00:01"
"""A hardware address that no host has: what is sent there is gone."""


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of the network."""

    name: str
    address: str

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return NAMESPACE_PREFIX + self.name

    async def run(
        self, *command: str, log: Path, environment: dict[str, str]
    ) -> asyncio.subprocess.Process:
        """Start a program on this host, with what it writes added to `log`."""
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self.namespace, *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | environment,
            )


@dataclass(slots=True)
class Network:
    """The hosts there are; the test's own process is at `.1` and reaches all of them."""

    hosts: dict[str, Host] = field(default_factory=dict)

    def add(self, name: str) -> Host:
        """One more host."""
        number = len(self.hosts) + 2
        host = self.hosts[name] = Host(name, f"{SUBNET}.{number}")
        outside, inside = f"rwv{number}", f"rwi{number}"
        _ip("netns", "add", host.namespace)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", host.namespace)
        _ip("link", "set", outside, "master", BRIDGE, "up")
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        _ip("-n", host.namespace, "link", "set", inside, "name", "eth0")
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
        return host

    def cut(self, one: Host, other: Host) -> None:
        """From now on nothing arrives between these two."""
        for here, there in ((one, other), (other, one)):
            _ip(
                *("-n", here.namespace, "neigh", "replace", there.address),
                *("lladdr", NOWHERE, "dev", "eth0", "nud", "permanent"),
            )

    def mend(self, one: Host, other: Host) -> None:
        """Undo `cut`."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", here.namespace, "neigh", "del", there.address, "dev", "eth0")


@contextmanager
def laid_network() -> Iterator[Network]:
    """A bridge, and the hosts that are added to it, for the time of the block."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise AssertionError(
            "network tests need root and `ip`: on Debian, apt-get install iproute2"
        )
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _clear()  # a run that was killed left its own
        try:
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
            yield Network()
        finally:
            _clear()


def _clear() -> None:
    """Remove the bridge, and every host with the programs that still run on it.

    Only for the holder of the lock: whatever is there is then its own or a dead run's.
    """
    for kind in ("veth", "bridge"):
        for link in json.loads(_ip("-json", "link", "show", "type", kind) or "[]"):
            if link.get("ifname") == BRIDGE or link.get("master") == BRIDGE:
                _ip("link", "del", link["ifname"])
    for line in _ip("netns", "list").splitlines():
        namespace = line.split()[0]
        if not namespace.startswith(NAMESPACE_PREFIX):
            continue
        for pid in _ip("netns", "pids", namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "del", namespace)


def python(*arguments: str) -> tuple[str, ...]:
    """This interpreter with these arguments."""
    return (sys.executable, *arguments)


def _ip(*arguments: str) -> str:
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout

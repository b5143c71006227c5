"""Locust's end of swarm processes: starts them, tells them what to do, hears what they say, notices their death.

Plain sockets, threads and subprocesses, which Locust's gevent makes greenlets: none of it knows gevent.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadtest.swarm_messages import Close, Command, Open, Ready, Report, decode_report, encode

ROOT: Final = Path(__file__).resolve().parent.parent
START_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 20.0


class SwarmClient:
    """One swarm process. `on_report` and `on_death` are called from a thread of this object's."""

    def __init__(
        self,
        orders: Open,
        log: Path,
        *,
        on_report: Callable[[Report], None],
        on_death: Callable[[str], None],
    ) -> None:
        """`on_death` gets a sentence, once, when the process ends without being told to. `log`: what it prints."""
        self._on_report = on_report
        self._on_death = on_death
        self._is_closing = False
        self._writing = threading.Lock()
        self._is_ready = threading.Event()
        self._log = log
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loadtest.swarm_process", "--socket", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.send(orders)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Until it is up, or dead; `TimeoutError` when it is neither for long."""
        if not self._is_ready.wait(START_TIMEOUT_S):
            raise TimeoutError(f"no swarm process in {START_TIMEOUT_S:.0f} s: see {self._log}")

    def send(self, command: Command) -> None:
        """Tell it; to a dead one nothing is told, and its death is told once."""
        with self._writing, contextlib.suppress(OSError):
            self._socket.sendall(encode(command))

    def close(self) -> None:
        """Everybody leaves, and the process ends; killed when it does not."""
        self._is_closing = True
        self.send(Close())
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_TIMEOUT_S)
        self._socket.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                report = decode_report(line)
                if isinstance(report, Ready):
                    self._is_ready.set()
                self._on_report(report)
        self._is_ready.set()
        if not self._is_closing:
            self._on_death(self._obituary(self._process.wait()))

    def _obituary(self, code: int) -> str:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = self._log.read_text(errors="replace").strip().rpartition("\n")[2][-300:]
        said = f"its last words: {last}" if last else "it said nothing"
        return f"A swarm process died ({how}); {said} ({self._log})."

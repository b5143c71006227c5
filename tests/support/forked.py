"""Command lines as processes of their own that share the cost of their imports."""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

Main = Callable[[Sequence[str]], int]
_context = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Have these imported once for all processes to come; counts before the first of them."""
    _context.set_forkserver_preload(list(modules))


@asynccontextmanager
async def running(
    main: Main, arguments: Sequence[str], environment: Mapping[str, str], output: Path
) -> AsyncIterator[BaseProcess]:
    """`main(arguments)` in a process; killed when the block ends first. `output` gets both streams."""
    # As a daemon it could not be the parent of processes.
    process = _context.Process(
        target=_run, args=(main, tuple(arguments), dict(environment), output), daemon=False
    )
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        await ended(process)


async def ended(process: BaseProcess) -> int:
    """Its exit code, once there is one."""
    await asyncio.to_thread(process.join)
    assert process.exitcode is not None
    return process.exitcode


def _run(
    main: Main, arguments: Sequence[str], environment: Mapping[str, str], output: Path
) -> None:
    with output.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    sys.exit(main(arguments))

"""Processes of their own that start at once: forked from a server that has imported the package.

A fresh Python takes most of its time to import. A process of this server is as separate from the test and from other
ranks, and dies, exits and takes signals as a fresh one. Not where the start itself is tested (the wheel).
Ranks under launchers are forked by `tests.launched`.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])
TWO_RANKS = ("--trainer.devices=2", "--trainer.strategy=ddp")
KILLED = -signal.SIGKILL


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def rank_variables(count: int) -> list[dict[str, str]]:
    """Environments of the ranks of a job on this machine, as torch and Lightning read them; of one rank: nothing."""
    if count == 1:
        return [{}]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    return [job | {"NODE_RANK": "0", "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start(log: Path, function: Callable, *arguments, **environ: str) -> BaseProcess:
    """Start a function of a module in a process whose output goes into a file."""
    process = SERVER.Process(target=_run, args=(log, environ, function, arguments))
    process.start()
    return process


def end(*processes: BaseProcess, status: int | None = None, limit: float = 300) -> list[int | None]:
    """Wait for processes, at most `limit` seconds for all of them; return their exit statuses.

    That of a signal is minus its number. Where a process ends with another one than `status`, the others, which may
    wait for it in vain, are killed, as at the limit; their statuses are None.
    """
    deadline, running = time.monotonic() + limit, set(processes)
    try:
        while running and (left := deadline - time.monotonic()) > 0:
            wait([process.sentinel for process in running], left)
            ended = {process for process in running if process.exitcode is not None}
            running -= ended
            if status is not None and any(process.exitcode != status for process in ended):
                break
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def run(log: Path, function: Callable, *arguments, ranks: int = 1, status: int = 0, limit: float = 300) -> str:
    """Run a function in each rank of a job; check how all of them end, and return what they printed."""
    logs = [log.with_name(f"{log.name}.{rank}") for rank in range(ranks)]
    variables = zip(logs, rank_variables(ranks), strict=True)
    processes = [start(path, function, *arguments, **environ) for path, environ in variables]
    statuses = end(*processes, status=status, limit=limit)
    said = "".join(path.read_text() for path in logs)
    assert statuses == [status] * ranks, f"{statuses}\n{said[-6000:]}"
    return said


def command(words: Sequence[str], killed_at: int | None = None, folder: Path | None = None) -> None:
    """Run `mvdiff`, and end with its status; or kill it as `kill -9` does, at the first batch after some steps."""
    from mvdiff.cli.main import main
    from tests.training.kill_at import kill_at

    if killed_at is not None:
        kill_at(killed_at)
    if folder is not None:
        os.chdir(folder)
    sys.argv = ["mvdiff", *words]
    sys.exit(main(words))


def run_command(log: Path, *words: str, ranks: int = 1, killed_at: int | None = None, status: int = 0) -> str:
    """Run `mvdiff` with a Trainer in one process, or in two ranks."""
    flags = TWO_RANKS if ranks == 2 else ()
    return run(log, command, [*words, *flags], killed_at, ranks=ranks, status=status)


def _run(log: Path, environ: dict[str, str], function: Callable, arguments: tuple) -> None:
    with open(log, "wb", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ |= environ
    multiprocessing.set_start_method("fork", force=True)  # of loaders, whose workers then end with this process
    function(*arguments)

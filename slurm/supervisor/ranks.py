"""The processes of one node: started, signalled, ended."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm.job_record import Job

PR_SET_PDEATHSIG = 1
# SLURM sends what it has to say to every process of a step, ranks too, and again at the end of a
# preempted job's time. A rank takes a second signal for impatience and ends while it saves: so it
# ignores these, and gets ASK, once.
IGNORED, ASK = {signal.SIGTERM, signal.SIGUSR2}, signal.SIGUSR1


@dataclass
class Rank:
    """A started process.

    Attributes:
        offset: where its part of the log begins, in bytes.
    """

    number: int
    process: subprocess.Popen
    log: Path
    offset: int


def start_ranks(
    job: Job, command: list[str], node: int, address: str, port: int, extra_env: dict[str, str]
) -> list[Rank]:
    """Start the ranks of one node.

    Args:
        command: words of each process.
        node: this node's number.
        address, port: where rank 0 listens.
        extra_env: further variables.
    Raises:
        OSError: one cannot be started.
    """
    out = []
    for local in range(job.ranks):
        number = node * job.ranks + local
        env = {
            **os.environ,
            **extra_env,
            "RANK": str(number),
            "WORLD_SIZE": str(job.nodes * job.ranks),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(job.ranks),
            "GROUP_RANK": str(node),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }
        path = job.home / "ranks" / f"rank-{number}.log"
        before = _shield if job.training else _die_with_parent
        out.append(_spawn(number, command, env, job.cwd, path, before))
    return out


def _spawn(
    number: int,
    command: list[str],
    env: dict[str, str],
    cwd: str,
    path: Path,
    before: Callable[[], None],
) -> Rank:
    with open(path, "ab") as log:
        offset = log.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=before,
        )
    return Rank(number, process, path, offset)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _shield() -> None:
    _die_with_parent()
    for number in IGNORED:  # to block them would not do: Python's multiprocessing unblocks SIGTERM
        signal.signal(number, signal.SIG_IGN)


def ignore_signals(signals: list[str], words: list[str]) -> list[str]:
    """Return the words under which a command ignores signals from its first instant on.

    By the shell, which every system has; the option of ``env`` came with coreutils 8.31, which is
    younger than EL8.

    Args:
        signals: by name, such as "USR2".
    """
    return ["sh", "-c", f'trap "" {" ".join(signals)}; exec "$@"', "sh", *words]


def ask_to_stop(ranks: list[Rank], training: bool) -> None:
    """Ask those that live to save and leave."""
    for rank in ranks:
        if poll_rank(rank) is None:
            rank.process.send_signal(ASK if training else signal.SIGTERM)


def poll_rank(rank: Rank) -> int | None:
    """Return the exit code of a process that has ended, None while it runs.

    The children of one that has ended are ended too.
    """
    alive = rank.process.returncode is None
    code = rank.process.poll()
    if alive and code is not None:
        with contextlib.suppress(ProcessLookupError):  # it left nobody behind
            os.killpg(rank.process.pid, signal.SIGKILL)
    return code


def kill_ranks(ranks: list[Rank]) -> None:
    """End them with all they started, at once."""
    living = [rank for rank in ranks if poll_rank(rank) is None]
    for rank in living:
        os.killpg(rank.process.pid, signal.SIGKILL)
    for rank in living:
        rank.process.wait()

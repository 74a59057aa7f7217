"""What follows from how the processes ended.

Plain functions of exit codes, of which docs/training.md has the table.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from signal import SIGABRT, SIGFPE, SIGILL, SIGSEGV
from typing import Any

from engine.errors import ExitCode

Fault = dict[str, Any]  # how a process ended, or a node was lost: "reason", "rank", "node", ...

# Kinds of faults that are tried again.
ENVIRONMENT, PROGRAM = "environment", "program"
# Signals by which a process ends for what it did itself; by all others it was ended: by the kernel
# for want of memory, by a person.
OWN_SIGNALS = {SIGSEGV, SIGABRT, SIGFPE, SIGILL}
# What CUDA says through an ordinary exception when the device or its driver is broken.
BROKEN_DEVICE = re.compile(
    "uncorrectable|ecc error|fallen off the bus|no cuda-capable device|cuda unknown error|"
    "driver shutting down|nvml",
    re.I,
)
# How the ranks' watch names the one that is to blame.
NAMED = re.compile(r"rank (\d+)(?: stopped| died| hangs|:)")
REPEATS_S = 86400  # within which a node that is named a second time is left out


@dataclass
class Verdict:
    """What becomes of the job.

    Attributes:
        what: done, requeue, again, or stop.
        code: the job's exit code.
        first: the fault that counts; empty where there is none.
        kind: of that fault where it is to be tried again.
        exclude: nodes that the next start keeps from.
    """

    what: str
    code: int
    first: Fault = field(default_factory=dict)
    kind: str = ENVIRONMENT
    exclude: tuple[str, ...] = ()


def judge(ends: Sequence[Fault], asked: str | None) -> Verdict:
    """Return the Verdict on processes that have all ended.

    Args:
        ends: [{"rank", "code", "reason", ...}, ...] in the order in which they were heard of.
        asked: the signal that was passed on, so that whatever was cut short resumes in the next
            job; None: there was none.
    """
    bad = [end for end in ends if end["code"] not in (ExitCode.DONE, ExitCode.STOPPED)]
    for code in (ExitCode.DIVERGED, ExitCode.USER):
        for end in bad:
            if end["code"] == code:
                return Verdict("stop", code, end)
    if not bad and all(end["code"] == ExitCode.DONE for end in ends):
        return Verdict("done", ExitCode.DONE)
    if asked or not bad:
        return Verdict("requeue", ExitCode.STOPPED)
    # A rank that only found its peer gone is not the first to blame, even if its word was quicker.
    first = next((end for end in bad if end["code"] != ExitCode.LOST_RANK), bad[0])
    first = _to_blame(first, ends)
    kind = kind_of(first["code"], first["reason"])
    return Verdict("again", code_of(kind), first, kind)


def kind_of(code: int, reason: str) -> str:
    """Return ENVIRONMENT or PROGRAM for a process that ended.

    Args:
        code: its exit code; negative: minus a signal's number.
        reason: its last word.

    >>> [kind_of(c, "") for c in (74, 76, -9, 137, 1, -11)]
    ['environment', 'environment', 'environment', 'environment', 'program', 'program']
    """
    number = -code if code < 0 else max(0, code - 128)  # a container's tool adds 128
    if code in (ExitCode.ENVIRONMENT, ExitCode.LOST_RANK) or (number and number not in OWN_SIGNALS):
        return ENVIRONMENT
    return ENVIRONMENT if BROKEN_DEVICE.search(reason) else PROGRAM


def code_of(kind: str) -> ExitCode:
    """Return how a job ends that gives up after faults of a kind."""
    return ExitCode.ENVIRONMENT if kind == ENVIRONMENT else ExitCode.PROGRAM


def _to_blame(first: Fault, ends: Sequence[Fault]) -> Fault:
    """Return the end of the rank that ``first`` names.

    All ranks leave with its code, and another's word may be quicker.
    """
    named = NAMED.match(first["reason"])
    blamed = [end for end in ends if named and end["rank"] == int(named[1])]
    if not blamed or blamed[0]["rank"] == first["rank"]:
        return first
    if blamed[0]["code"] == first["code"]:
        return blamed[0]
    return {**first, "rank": blamed[0]["rank"], "node": blamed[0].get("node")}


def count_tries(history: Sequence[Fault], step: int, kind: str) -> int:
    """Return how many faults of a kind there were since the job resumed from ``step`` at first.

    >>> fault = {"event": "fault", "step": 40, "kind": "program"}
    >>> older = {"event": "fault", "step": 20, "kind": "program"}
    >>> histories = [fault, {"event": "start"}, fault], [older, fault]
    >>> [count_tries(history, 40, "program") for history in histories]
    [2, 1]
    """
    count = 0
    for line in reversed(history):
        if line["event"] == "submitted":
            break
        if line["event"] in ("fault", "lost"):
            if line["step"] != step:
                break
            count += line.get("kind", ENVIRONMENT) == kind
    return count


def is_named_twice(history: Sequence[Fault], node: str, now: float | None = None) -> bool:
    """Return whether faults of the environment named a node twice of late, in this submission."""
    now, count = time.time() if now is None else now, 0
    for line in reversed(history):
        if line["event"] == "submitted":
            break
        count += (
            line["event"] in ("fault", "lost")
            and line.get("node") == node
            and now - line["time"] < REPEATS_S
            and line.get("kind", ENVIRONMENT) == ENVIRONMENT
        )
    return count >= 2

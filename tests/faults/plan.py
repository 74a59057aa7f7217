"""What fails when: faults, and cases of several starts that have them; each is a line of text.

    older: sync run/checkpoints/* 2 1 EIO, write run/log.jsonl 1 * FULL | rename run/* 3 1 KILL

begins with the folder of the workload "older"; in its first start the second sync under checkpoints
fails once, and the first and all further writes of the log; in its second start the process is
killed at its third rename. A start without faults follows.
"""

import errno
import re
from dataclasses import dataclass

FOREVER = -1
WORDS = ("KILL", "SHORT", "FULL")  # of inject.c, beside the names of errors
# Nobody's fault but the machine's: engine.errors has no exit code 2 for these. ENOSYS and ENOLCK
# say what a file system cannot do, which may be for a person to mend (data.cache.folder).
OF_THE_MACHINE = frozenset(
    {"EIO", "ESTALE", "ENOSPC", "EMFILE", "ETIMEDOUT", "EINTR", "SHORT", "EBUSY", "ENOMEM"}
)


@dataclass(frozen=True)
class Fault:
    """The ``nth`` call of an operation on a path that matches, and ``times`` in all, fail.

    Attributes:
        call: of inject.c, or a pattern.
        path: a pattern; it begins with the name of a root, such as "run".
        nth: counted from 1.  times: calls in a row; FOREVER: all from there on.
        error: "EIO" and the like, or one of WORDS.
    """

    call: str
    path: str
    nth: int
    times: int
    error: str

    def __str__(self):
        times = "*" if self.times == FOREVER else self.times
        return f"{self.call} {self.path} {self.nth} {times} {self.error}"

    def rule(self, roots):
        """The line of inject.c. ``roots``: {name: folder}."""
        name = re.match(r"\w+", self.path)[0]
        folder = str(roots[name]) + self.path.removeprefix(name)
        action = self.error if self.error in WORDS else str(getattr(errno, self.error))
        return "\t".join([self.call, folder, str(self.nth), str(self.times), action])


@dataclass(frozen=True)
class Case:
    """A workload and the faults of each disturbed start of it."""

    workload: str
    starts: tuple

    def __str__(self):
        return f"{self.workload}: " + " | ".join(
            ", ".join(map(str, faults)) for faults in self.starts
        )


def read_fault(text):
    """The Fault of "write run/log.jsonl 2 1 EIO"."""
    call, path, nth, times, error = text.split()
    if error not in WORDS and not hasattr(errno, error):
        raise ValueError(f"{error} in '{text}' is neither an errno nor one of {', '.join(WORDS)}")
    return Fault(call, path, int(nth), FOREVER if times == "*" else int(times), error)


def read_case(text):
    """The Case of a line such as this module's first."""
    workload, _, starts = text.partition(": ")
    return Case(
        workload,
        tuple(
            tuple(read_fault(fault) for fault in start.split(", ") if fault.strip())
            for start in starts.split(" | ")
        ),
    )


@dataclass(frozen=True)
class Call:
    """A file operation: its phase, whether the first thread made it, its path in a root."""

    phase: str
    first: bool
    name: str
    error: int
    struck: bool
    path: str


def read_log(path, roots):
    """[Call, ...] that inject.c listed. ``roots``: {name: folder}."""
    calls = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        phase, first, name, error, struck, where = line.split("\t", 5)
        for root, folder in roots.items():
            if where == str(folder) or where.startswith(f"{folder}/"):
                where = root + where.removeprefix(str(folder))
                break
        calls.append(Call(phase, first == "0", name, int(error), struck == "1", where))
    return calls


def pattern_of(path):
    """A path with stars for what differs from start to start: tokens and process numbers."""
    path = re.sub(r"[0-9a-f]{16}", "*", path)
    path = re.sub(r"(\.(?:writing|[a-z]+)-)[0-9a-f]{8}\b", r"\1*", path)
    path = re.sub(r"(\.(?:json|npz|writing)[.-])\d+((?:\.npz)?)$", r"\1*\2", path)
    return path.replace("[", "?").replace("]", "?")


def sites(calls):
    """{(operation, pattern): [phase of its first call, of its second, ...]} of a run."""
    found = {}
    for call in calls:
        found.setdefault((call.name, pattern_of(call.path)), []).append(call.phase)
    return found

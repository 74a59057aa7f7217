"""Random cases, drawn from a seed among the file operations of a run without faults."""

import json
import random
from collections import Counter

from .bench import Bench
from .plan import FOREVER, Case, Fault

# Operations of inject.c by class, and what each may say: ENOSPC only where bytes or names are made.
CLASSES = {
    "open": ("open", "create"),
    "read": ("read", "pread", "mmap"),
    "write": ("write", "truncate", "allocate"),
    "sync": ("sync",),
    "close": ("close",),
    "rename": ("rename", "link"),
    "remove": ("unlink", "rmdir"),
    "mkdir": ("mkdir",),
    "list": ("opendir", "readdir"),
    "stat, touch": ("stat", "statvfs", "touch", "chmod"),
    "lock": ("lock",),
}
ALWAYS = ("EIO", "ESTALE", "ETIMEDOUT")
ERRORS = {
    "open": ("EACCES", "EMFILE", "EINTR"),
    "create": ("EACCES", "EMFILE", "ENOSPC", "EINTR"),
    "read": ("EINTR", "SHORT"),
    "pread": ("EINTR", "SHORT"),
    "mmap": ("EACCES", "ENOSYS", "ENOMEM"),
    "write": ("ENOSPC", "FULL", "EINTR", "SHORT"),
    "truncate": ("ENOSPC", "EINTR"),
    "allocate": ("ENOSPC", "ENOSYS", "EINTR"),
    "sync": ("ENOSPC", "EINTR", "ENOSYS"),
    "close": ("ENOSPC", "EINTR"),
    "rename": ("EACCES", "ENOSPC"),
    "link": ("EACCES", "ENOSPC", "ENOSYS"),
    "unlink": ("EACCES", "EBUSY"),
    "rmdir": ("EACCES", "EBUSY"),
    "mkdir": ("EACCES", "ENOSPC"),
    "opendir": ("EACCES", "EMFILE"),
    "readdir": (),
    "stat": ("EACCES",),
    "statvfs": ("EACCES", "ENOSYS"),
    "touch": ("EACCES", "ENOSYS"),
    "chmod": ("EACCES", "ENOSYS"),
    "lock": ("ENOSYS", "EINTR", "ENOLCK"),
}
# What befalls everything at once: (operation, error).
OUTAGES = (
    ("*", "ESTALE"),
    ("*", "EIO"),
    ("*", "ETIMEDOUT"),
    ("write", "ENOSPC"),
    ("create", "ENOSPC"),
    ("open", "EMFILE"),
    ("create", "EMFILE"),
    ("lock", "ENOSYS"),
    ("sync", "EIO"),
    ("stat", "EACCES"),
    ("open", "EACCES"),
    ("unlink", "EBUSY"),
    ("read", "EIO"),
    ("rename", "EIO"),
)
PHASES = ("start", "steps", "end")


def class_of(call):
    return next(name for name, calls in CLASSES.items() if call in calls)


def draw_case(bench, names, seed, number):
    """The ``number``-th Case of a seed.

    One start or more, each with one fault or two, at times an outage, at times a kill.
    """
    chance = random.Random(f"{seed}/{number}")
    workload = chance.choice(names)
    starts = []
    for _ in range(chance.choices((1, 2, 3), (70, 20, 10))[0]):
        known = bench.sites(workload)
        if starts and workload in ("fresh", "local", "file"):
            known = bench.sites({"fresh": "older"}.get(workload, f"{workload}_older"))
        faults = [
            draw_outage(chance, known) if chance.random() < 0.15 else draw_fault(chance, known)
        ]
        if chance.random() < 0.25:
            faults.append(draw_fault(chance, known))
        if chance.random() < 0.25:
            faults.append(draw_kill(chance, known))
        starts.append(tuple(faults))
    return Case(workload, tuple(starts))


def draw_site(chance, known):
    """((operation, pattern), n): the phase comes first, then the class, the path and the call."""
    phase = chance.choice(
        [phase for phase in PHASES if any(phase in phases for phases in known.values())]
    )
    there = [site for site, phases in known.items() if phase in phases]
    kind = chance.choice(sorted({class_of(call) for call, _ in there}))
    site = chance.choice(sorted(site for site in there if class_of(site[0]) == kind))
    return site, 1 + chance.choice([place for place, one in enumerate(known[site]) if one == phase])


def draw_fault(chance, known):
    (call, path), number = draw_site(chance, known)
    error = chance.choice((*ALWAYS, *ERRORS[call]))
    # A call that is interrupted is made again, and would be for ever.
    times = chance.choice((1, 2, 5)) if error == "EINTR" else chance.choice((1, 1, 2, 5, FOREVER))
    return Fault(call, path, number, times, error)


def draw_outage(chance, known):
    """All operations of a kind under a root, from some call on, for a while or for good."""
    call, error = chance.choice(OUTAGES)
    root = chance.choice(sorted({path.split("/")[0] for _, path in known}))
    total = sum(
        len(phases)
        for (name, path), phases in known.items()
        if call in ("*", name) and path.startswith(root)
    )
    return Fault(
        call,
        f"{root}*",
        1 + chance.randrange(max(1, total)),
        chance.choice((3, 20, 200, FOREVER)),
        error,
    )


def draw_kill(chance, known):
    (call, path), number = draw_site(chance, known)
    return Fault(call, path, number, 1, "KILL")


def run_cases(names, seed, first, count, out):
    """Carry out random cases, a line of ``out`` each; returns 1 if any broke the invariant."""
    broken = 0
    with Bench() as bench, open(out, "a", encoding="utf-8") as file:
        for number in range(first, first + count):
            outcome = bench.run_case(draw_case(bench, names, seed, number))
            file.write(outcome.line() + "\n")
            file.flush()
            broken += bool(outcome.violations)
            if outcome.violations:
                print(
                    f"{seed}/{number} {outcome.case}\n    " + "\n    ".join(outcome.violations),
                    flush=True,
                )
    print(f"{count} cases, {broken} broke the invariant")
    return int(broken > 0)


def table(files):
    """The table of docs/training.md: how many cases each error struck, by operation and phase.

    Args:
        files: of run_cases.
    """
    tried, broken, cases, seen = Counter(), Counter(), 0, []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            outcome = json.loads(line)
            cases += 1
            for cell in {
                (class_of(call), error, phase) for call, error, phase in outcome["struck"]
            }:
                tried[cell] += 1
                broken[cell] += bool(outcome["violations"])
                seen.append(cell)
    errors = sorted(
        {error for _, error, _ in seen}, key=lambda error: (error in ("SHORT", "KILL"), error)
    )
    rows = [f"| operation | phase | {' | '.join(errors)} |", "|---|---|" + "---|" * len(errors)]
    for kind in CLASSES:
        for phase in PHASES:
            cells = [
                cell_text(tried[kind, error, phase], broken[kind, error, phase]) for error in errors
            ]
            rows.append(f"| {kind} | {phase} | {' | '.join(cells)} |")
    return "\n".join([f"{cases} cases", "", *rows])


def cell_text(tried, broken):
    if not tried:
        return ""
    return f"{tried}" if not broken else f"{tried} ({broken} broken)"

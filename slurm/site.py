"""What SLURM knows: partitions, accounts, the state of jobs.

Everything is asked through its own commands.
"""

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import EnvironmentFault, Failure, UserError

TIMEOUT_S = 60
NOTHING = "(null)"  # as scontrol prints it
# Nodes' states, as sinfo's %t has them.
BROKEN = {"down", "drain", "drng", "fail", "failg", "maint", "unk", "inval", "reboot"}
# What SLURM's commands say where the controller, the way to it or its own storage is away for a
# while.
AWAY = re.compile(
    "unable to contact slurm|socket timed out|zero bytes were transmitted|connection "
    "refused|unable to connect|"
    "i/o error writing|resource temporarily unavailable|slurm backup controller in standby",
    re.I,
)
# States in which a job will still do something. The rest are ends.
ALIVE = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESIZING",
    "SUSPENDED",
    "SIGNALING",
    "STOPPED",
    "STAGE_OUT",
    "SPECIAL_EXIT",
    "PREEMPTED",
}


def is_present() -> bool:
    """Return whether this machine can submit."""
    return shutil.which("sbatch") is not None


def ask(*command: str) -> str:
    """Return what a command of SLURM prints.

    Raises:
        UserError: it is not there, or it refuses.
        EnvironmentFault: the controller does not answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on PATH: this machine has no SLURM; slurm.where=local runs here"
        ) from None
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(
            f"{' '.join(command[:2])} gave no answer within {TIMEOUT_S} s; is the SLURM controller "
            f"up?"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise classify_failure(
            f"{' '.join(command)} failed: {said[-1] if said else f'exit code {done.returncode}'}"
        )
    return done.stdout


def classify_failure(message: str) -> Failure:
    """Return the failure of a message, to be raised.

    An EnvironmentFault where it says that the controller was not reached, else a UserError.
    """
    return (EnvironmentFault if AWAY.search(message) else UserError)(message)


@dataclass
class Partition:
    """A partition, or the part of it whose nodes are alike.

    Attributes:
        default: it is taken where none is asked for.
        up: jobs start in it.
        minutes: its time limit, or None.
        nodes: how many there are.
        cores, memory_mb, gpus: of each node; GPUs as {type or "": count}.
        features: that its nodes have.
    """

    name: str
    default: bool
    up: bool
    minutes: int | None
    nodes: int
    cores: int
    memory_mb: int
    gpus: dict[str, int]
    features: set[str]


def list_partitions() -> list[Partition]:
    """Return the partitions; one appears once for each kind of node in it."""
    out = []
    for line in ask("sinfo", "-h", "-e", "-o", "%P|%a|%l|%D|%c|%m|%G|%f").splitlines():
        name, up, limit, nodes, cores, memory, gres, features = line.split("|")
        out.append(
            Partition(
                name.rstrip("*"),
                name.endswith("*"),
                up == "up",
                parse_minutes(limit),
                int(nodes),
                int(cores.rstrip("+")),
                int(memory.rstrip("+")),
                parse_gpus(gres),
                set(features.split(",")),
            )
        )
    return out


def parse_minutes(text: str) -> int | None:
    """Return "1-02:03:00", "02:03:00" or "30:00" as minutes; None for no limit.

    >>> [parse_minutes(t) for t in ("1-02:03:00", "30:00", "infinite")]
    [1563, 30, None]
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def parse_gpus(gres: str) -> dict[str, int]:
    """Return {type or "": count} of sinfo's list of generic resources.

    >>> parse_gpus("gpu:h100:8(S:0-1),gpu:a100:2,nvme:1")
    {'h100': 8, 'a100': 2}
    """
    out = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        words = item.split(":")
        if words[0] == "gpu":
            count = int(words[-1]) if words[-1].isdigit() else 1
            kind = (
                words[1] if len(words) > 2 or (len(words) == 2 and not words[1].isdigit()) else ""
            )
            out[kind] = out.get(kind, 0) + count
    return out


def list_associations() -> set[tuple[str, str, frozenset[str]]] | None:
    """Return {(account, partition or "", QOS)} of this user.

    None where the site keeps no accounts.
    """
    try:
        text = ask(
            "sacctmgr",
            "-n",
            "-P",
            "show",
            "assoc",
            f"user={getpass.getuser()}",
            "format=account,partition,qos",
        )
    except Failure:
        return None  # no accounting at all is a site's right; sbatch has the last word
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {
        (account, partition, frozenset(filter(None, qos.split(","))))
        for account, partition, qos in rows
    } or None


def read_job(number: str) -> dict[str, str]:
    """Return scontrol's fields of a job or of an array's element, {} of one it no longer knows.

    Raises:
        Failure: the controller does not answer.
    """
    try:
        text = ask("scontrol", "show", "job", "-o", str(number))
    except Failure as error:
        if "Invalid job id" in str(error) or "not found" in str(error):
            # forgotten after MinJobAge; or an element of an array that was cancelled while it
            # waited
            return {}
        raise
    line = text.splitlines()[0] if text.strip() else ""
    return dict(re.findall(r"(\w[\w:/]*)=(\S*)", line))


def read_state(number: str) -> str | None:
    """Return the state of a job: PENDING, RUNNING, ...; None of an unknown one.

    It is from accounting where the controller forgot it.
    """
    fields = read_job(number)
    if fields:
        return fields["JobState"]
    try:
        text = ask("sacct", "-n", "-X", "-P", "-o", "State", "-j", str(number))
    except Failure:
        return None  # no accounting: nobody knows any more
    words = text.split()
    return words[0] if words else None


def list_nodes(number: str) -> list[str]:
    """Return the names of a job's nodes in their order; empty where SLURM does not tell."""
    try:
        nodes = read_job(number).get("NodeList", "")
        return (
            ask("scontrol", "show", "hostnames", nodes).split()
            if nodes and nodes != NOTHING
            else []
        )
    except Failure:
        return []


def can_spare(number: str, nodes: Sequence[str]) -> bool:
    """Return whether a job would find as many nodes as it wants without these.

    Nodes like them count, that work and are not left out already.

    Raises:
        Failure: the controller does not answer.
    """
    fields, alike = read_job(number), {}
    if not fields or fields.get("ReqNodeList", NOTHING) != NOTHING:
        return False  # nodes that a person named are not left out
    for line in ask(
        "sinfo", "-h", "-N", "-p", fields["Partition"], "-o", "%N|%t|%G|%f"
    ).splitlines():
        name, condition, *kind = line.split("|")
        alike[name] = kind, condition.rstrip("*~#!%$@^-")
    away = {*nodes, *_excluded(fields)}
    kind = alike.get(nodes[0], (None, ""))[0]
    left = [
        name
        for name, (of, condition) in alike.items()
        if of == kind and condition not in BROKEN and name not in away
    ]
    return len(left) >= int(fields["NumNodes"].split("-")[0])


def exclude(number: str, nodes: Sequence[str]) -> None:
    """Keep a job in the queue from some nodes, beside those that it keeps from already.

    Raises:
        Failure: the job runs, or the controller does not answer.
    """
    known = _excluded(read_job(number))
    ask(
        "scontrol",
        "update",
        f"jobid={number}",
        f"ExcNodeList={','.join(dict.fromkeys([*known, *nodes]))}",
    )


def _excluded(fields: dict[str, str]) -> list[str]:
    """Return the names of the nodes that a job keeps from."""
    known = fields.get("ExcNodeList", NOTHING)
    return ask("scontrol", "show", "hostnames", known).split() if known != NOTHING else []


def requeue(number: str) -> bool:
    """Put a job of one's own back into the queue, and return whether that was done.

    It is if the job runs, or has reached its time limit.

    A job that is ending is left alone: it was cancelled, and so it stays, or SLURM puts it back
    itself (an operator's requeue, preemption, a dead node).

    Raises:
        Failure: the controller refuses or does not answer.
    """
    fields = read_job(number)
    ran = parse_minutes(fields.get("RunTime", ""))
    limit = parse_minutes(fields.get("TimeLimit", ""))
    ran_out = ran is not None and limit is not None and ran >= limit
    timed_out = fields.get("JobState") == "COMPLETING" and ran_out
    if fields.get("JobState") in ("RUNNING", "TIMEOUT") or timed_out:
        ask("scontrol", "requeue", str(number))
        return True
    return False

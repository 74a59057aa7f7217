"""What SLURM knows: partitions, accounts, the state of jobs. Everything is asked through its own
commands."""

import getpass
import re
import shutil
import subprocess
from dataclasses import dataclass

from engine.errors import EnvironmentFault, Failure, UserError

TIMEOUT_S = 60
NOTHING = "(null)"  # as scontrol prints it
BROKEN = {
    "down",
    "drain",
    "drng",
    "fail",
    "failg",
    "maint",
    "unk",
    "inval",
    "reboot",
}  # nodes' states, as sinfo's %t has them
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


def present():
    """Whether this machine can submit."""
    return shutil.which("sbatch") is not None


def ask(*command):
    """What a command of SLURM prints.

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
        raise failure_told(
            f"{' '.join(command)} failed: {said[-1] if said else f'exit code {done.returncode}'}"
        )
    return done.stdout


def failure_told(message: str) -> Failure:
    """The EnvironmentFault of a message that says that the controller was not reached, else a
    UserError; to be raised."""
    return (EnvironmentFault if AWAY.search(message) else UserError)(message)


@dataclass
class Partition:
    """A partition, or the part of it whose nodes are alike.

    ``minutes``: its time limit or None; ``gpus``: {type or "": count}; ``memory_mb`` and ``cores``
    of a node; ``nodes`` of it.
    """

    name: str
    default: bool
    up: bool
    minutes: int | None
    nodes: int
    cores: int
    memory_mb: int
    gpus: dict
    features: set


def partitions():
    """[Partition, ...]: a partition appears once for each kind of node in it."""
    out = []
    for line in ask("sinfo", "-h", "-e", "-o", "%P|%a|%l|%D|%c|%m|%G|%f").splitlines():
        name, up, limit, nodes, cores, memory, gres, features = line.split("|")
        out.append(
            Partition(
                name.rstrip("*"),
                name.endswith("*"),
                up == "up",
                minutes_of(limit),
                int(nodes),
                int(cores.rstrip("+")),
                int(memory.rstrip("+")),
                gpus_of(gres),
                set(features.split(",")),
            )
        )
    return out


def minutes_of(text):
    """ "1-02:03:00", "02:03:00", "30:00" as minutes; None for no limit.

    >>> [minutes_of(t) for t in ("1-02:03:00", "30:00", "infinite")]
    [1563, 30, None]
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def gpus_of(gres):
    """{type or "": count} of sinfo's list of generic resources.

    >>> gpus_of("gpu:h100:8(S:0-1),gpu:a100:2,nvme:1")
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


def associations():
    """{(account, partition or "", frozenset of QOS)} of this user; None where the site keeps no
    accounts."""
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


def job(number):
    """scontrol's fields of a job or of an array's element, {} of one it no longer knows.

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


def state(number):
    """The state of a job: PENDING, RUNNING, ...; from accounting where the controller forgot it;
    None of an unknown one."""
    fields = job(number)
    if fields:
        return fields["JobState"]
    try:
        text = ask("sacct", "-n", "-X", "-P", "-o", "State", "-j", str(number))
    except Failure:
        return None  # no accounting: nobody knows any more
    words = text.split()
    return words[0] if words else None


def names_of_nodes(number) -> list:
    """The names of a job's nodes in their order; empty where SLURM does not tell."""
    try:
        nodes = job(number).get("NodeList", "")
        return (
            ask("scontrol", "show", "hostnames", nodes).split()
            if nodes and nodes != NOTHING
            else []
        )
    except Failure:
        return []


def can_spare(number, nodes) -> bool:
    """Whether a job would find as many nodes as it wants without these: like them, working, and not
    left out already.

    Raises:
        Failure: the controller does not answer.
    """
    fields, alike = job(number), {}
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


def exclude(number, nodes):
    """Keep a job in the queue from some nodes, beside those that it keeps from already.

    Raises:
        Failure: the job runs, or the controller does not answer.
    """
    known = _excluded(job(number))
    ask(
        "scontrol",
        "update",
        f"jobid={number}",
        f"ExcNodeList={','.join(dict.fromkeys([*known, *nodes]))}",
    )


def _excluded(fields):
    """Names of the nodes that a job keeps from."""
    known = fields.get("ExcNodeList", NOTHING)
    return ask("scontrol", "show", "hostnames", known).split() if known != NOTHING else []


def requeue(number):
    """Put a job of one's own back into the queue if it runs, or has reached its time limit; returns
    whether that was done.

    A job that is ending is left alone: it was cancelled, and so it stays, or SLURM puts it back
    itself (an operator's requeue, preemption, a dead node).

    Raises:
        Failure: the controller refuses or does not answer.
    """
    fields = job(number)
    ran, limit = (minutes_of(fields.get(name, "")) for name in ("RunTime", "TimeLimit"))
    timed_out = fields.get("JobState") == "COMPLETING" and None not in (ran, limit) and ran >= limit
    if fields.get("JobState") in ("RUNNING", "TIMEOUT") or timed_out:
        ask("scontrol", "requeue", str(number))
        return True
    return False

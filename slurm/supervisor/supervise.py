"""The job's program, one on each node: it starts the node's ranks and stays until the job ends.

No torch here.

    submitit -> main(folder) on each node
        node 0: the Coordinator (a thread) listens, and says where in FOLDER/slurm/meeting.json
        all:    a NodeSupervisor connects, starts ranks when told, says how they ended, passes
                signals on

The meeting file is also the proof that the folder is shared; after it no node needs another's name.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.distributed.addresses import address_of
from engine.distributed.transport import Lost, Meeting, Wire, open_hub
from engine.errors import EnvironmentFault, ExitCode, Failure, UserError, explain, failure_of
from engine.logging.console import configure_console, get_logger
from engine.run.files import replace_file
from engine.run.private import create_file
from slurm import job_record, site
from slurm.supervisor.allocation import Allocation, read_allocation
from slurm.supervisor.coordinator import GATHER_S, Coordinator
from slurm.supervisor.node_supervisor import STOPS, NodeSupervisor

log = get_logger(__name__)

# For the file of node 0 to show on another node, and for its port to answer. Longer than node 0
# waits for all: it knows which node is missing, and has the word first.
MEET_S = GATHER_S + 60
MOST_STARTS = 20  # of a job whose supervisors cannot even meet


def main(folder: str) -> None:
    """What submitit calls as a task of SLURM's: run the job recorded in ``folder`` on this node."""
    configure_console()
    run_job(folder, read_allocation())


def run_job(folder: str, allocation: Allocation) -> None:
    """Run the job recorded in ``folder`` on this node; leaves by sys.exit unless all went well."""
    job = job_record.load_job(folder)
    node = NodeSupervisor(job, allocation, command_of(job))
    node.listen()
    try:
        if allocation.node == 0:
            meeting = _claim_folder(job, allocation)
        else:
            meeting = _find_meeting(job, allocation)
        wire = _join(meeting, allocation)
    except Failure as error:
        log.error("%s", error)
        sys.exit(_exit_code(error, allocation))
    code = node.run(wire)
    if allocation.number:
        # The first task that ends with a fault has srun end the others. One that is on its way out
        # would die of that, which to the batch script looks like a supervisor that was killed: the
        # job would resume after its end.
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)
    if code:
        sys.exit(code)


def command_of(job: job_record.Job) -> Callable[[list[str]], list[str]]:
    """Return a function from [module, argument, ...] to the words that start it where ranks run."""

    def command(words: list[str]) -> list[str]:
        python = "python3" if job.settings["container"] else job.python
        launch = os.path.join(job.code, "slurm", "launch.py")
        return [*_container_prefix(job), python, launch, *words]

    return command


def _container_prefix(job: job_record.Job) -> list[str]:
    """Return the words that put a process into the job's container; none where pyxis does it."""
    settings = job.settings
    if not settings["container"] or settings["container_tool"] != "apptainer":
        return []
    binds = [f"--bind={path}" for path in dict.fromkeys((job.cwd, job.folder, job.code))]
    gpu = ["--nv"] if settings["gpus_per_node"] else []
    options = settings["container_options"]
    return ["apptainer", "exec", *gpu, *binds, *options, settings["container"]]


def _exit_code(error: Failure, allocation: Allocation) -> int:
    """Return the exit code of a supervisor that did not get as far as node 0's word.

    The batch script puts a job that leaves with STOPPED back.
    """
    again = (
        isinstance(error, EnvironmentFault)
        and allocation.number
        and allocation.restart < MOST_STARTS
    )
    return ExitCode.STOPPED if again else error.exit_code


def _claim_folder(job: job_record.Job, allocation: Allocation) -> Meeting:
    """Node 0: take the folder for this start of this job, and start the coordinator."""
    try:
        _refuse_running(job, allocation)
        attempt = {"identity": allocation.identity, "display": allocation.display}
        job_record.write_json(job.home / "attempt.json", attempt)
        return _start_coordinator(job, allocation)
    except OSError as error:
        raise failure_of(error, f"{job.home} cannot be used: {explain(error)}") from None


def _refuse_running(job: job_record.Job, allocation: Allocation) -> None:
    """Raise UserError where another job works in the folder."""
    before = job_record.read_json(job.home / "attempt.json")
    if not before or before["identity"][0] in (None, allocation.number) or not site.is_present():
        return
    if site.read_state(before["display"]) in ("RUNNING", "COMPLETING"):
        raise UserError(
            f"{job.folder} is worked in by job {before['display']}, which still runs; this one ends"
        )


def _start_coordinator(job: job_record.Job, allocation: Allocation) -> Meeting:
    address = _address_to_listen_at(job, allocation)
    try:
        hub, meeting = open_hub(address, address, range(job.nodes))
    except OSError as error:
        raise failure_of(error, f"node 0 cannot listen at {address}: {explain(error)}") from None
    _publish(job.home / "meeting.json", meeting, allocation)
    Coordinator(job, allocation, hub, address).start()
    return meeting


def _address_to_listen_at(job: job_record.Job, allocation: Allocation) -> str:
    interface = job.settings["interface"]
    if not interface:
        # The batch script's node is that of rank 0; with its address nobody needs to look a name
        # up.
        return allocation.address
    address = address_of(interface)
    if address is None:
        there = ", ".join(name for _, name in socket.if_nameindex())
        raise UserError(
            f"slurm.interface={interface} is none of this node's with an address: {there}"
        )
    return address


def _publish(path: Path, meeting: Meeting, allocation: Allocation) -> None:
    """Write the meeting file, which nobody but its owner can read at any moment.

    Raises:
        Failure: it cannot be written.
    """
    value = {
        "identity": allocation.identity,
        "address": meeting.address,
        "port": meeting.port,
        "token": meeting.token,
    }
    try:
        with (
            replace_file(path) as temporary,
            open(create_file(str(temporary)), "w", encoding="utf-8") as file,
        ):
            json.dump(value, file, indent=1)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _find_meeting(job: job_record.Job, allocation: Allocation) -> Meeting:
    """Another node: wait for the meeting file of node 0."""
    path, deadline = job.home / "meeting.json", time.monotonic() + MEET_S
    while time.monotonic() < deadline:
        # a folder that is away for a moment: the next look tries again
        with contextlib.suppress(OSError):
            os.listdir(job.home)  # makes a network file system look again
            met = job_record.read_json(path)
            if met and met["identity"] == allocation.identity:
                return Meeting(met["address"], met["port"], met["token"])
        time.sleep(0.2)
    raise EnvironmentFault(
        f"node {allocation.name} does not see what node 0 wrote to {path} within {MEET_S} s: the "
        f"folder must be on storage that all nodes share"
    )


def _join(meeting: Meeting, allocation: Allocation) -> Wire:
    try:
        return meeting.join(allocation.node, allocation.name, MEET_S)
    except Lost as error:
        raise EnvironmentFault(
            f"node {allocation.name} cannot connect to {meeting.address} port {meeting.port} of "
            f"node 0: {error}; slurm.interface= names a network that joins the nodes"
        ) from None

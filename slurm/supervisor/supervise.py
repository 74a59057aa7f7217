"""The job's program, one on each node: it starts the node's ranks and stays until the job ends. No
torch here.

    submitit -> main(folder) on each node
        node 0: Chief (a thread) listens, says where in FOLDER/slurm/meeting.json
        all:    Node connects, starts ranks when told, says how they ended, passes signals on

The meeting file is also the proof that the folder is shared; after it no node needs another's name.
"""

import contextlib
import os
import secrets
import signal
import socket
import sys
import time

from engine.errors import EnvironmentFault, ExitCode, Failure, UserError, explain, failure_of
from slurm import job_record, site
from slurm.supervisor import wire
from slurm.supervisor.allocation import read_allocation
from slurm.supervisor.coordinator import GATHER_S, Chief
from slurm.supervisor.node import STOPS, Node

# For the file of node 0 to show on another node, and for its port to answer. Longer than node 0
# waits for all: it knows which node is missing, and has the word first.
MEET_S = GATHER_S + 60
MOST_STARTS = 20  # of a job whose supervisors cannot even meet


def main(folder):
    """What submitit calls as a task of SLURM's: run the job recorded in ``folder`` on this node."""
    run_job(folder, read_allocation())


def run_job(folder, allocation):
    """Run the job recorded in ``folder`` on this node; leaves by sys.exit unless all went well."""
    job = job_record.load(folder)
    node = Node(job, allocation, None, command_of(job))
    node.listen()
    try:
        meeting = _claim(job, allocation) if allocation.node == 0 else _find(job, allocation)
        node.line = _connect(*meeting, allocation)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(_exit_code(error, allocation))
    code = node.run()
    if allocation.number:
        # The first task that ends with a fault has srun end the others. One that is on its way out
        # would die of that, which to
        # the batch script looks like a supervisor that was killed: the job would go on after its
        # end.
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)
    if code:
        sys.exit(code)


def command_of(job):
    """[module, argument, ...] -> the words that start it where the ranks run."""

    def command(words):
        python, prefix = "python3" if job.settings["container"] else job.python, []
        if job.settings["container"] and job.settings["container_tool"] == "apptainer":
            binds = [f"--bind={path}" for path in dict.fromkeys((job.cwd, job.folder, job.code))]
            gpu = ["--nv"] if job.settings["gpus_per_node"] else []
            prefix = [
                "apptainer",
                "exec",
                *gpu,
                *binds,
                *job.settings["container_options"],
                job.settings["container"],
            ]
        return [*prefix, python, os.path.join(job.code, "slurm", "launch.py"), *words]

    return command


def _exit_code(error, allocation):
    """Of a supervisor that did not get as far as node 0's word: the batch script puts a job that
    leaves with STOPPED back."""
    again = (
        isinstance(error, EnvironmentFault)
        and allocation.number
        and allocation.restart < MOST_STARTS
    )
    return ExitCode.STOPPED if again else error.exit_code


def _claim(job, allocation):
    """Node 0: take the folder for this start of this job, and open the meeting; returns (address,
    port, token)."""
    try:
        return _open_meeting(job, allocation)
    except OSError as error:
        raise failure_of(error, f"{job.home} cannot be used: {explain(error)}") from None


def _open_meeting(job, allocation):
    identity, display = allocation.identity, allocation.display
    before = job_record.read(job.home / "life.json")
    if (
        before
        and before["identity"][0] not in (None, identity[0])
        and site.present()
        and site.state(before["display"]) in ("RUNNING", "COMPLETING")
    ):
        raise UserError(
            f"{job.folder} is worked in by job {before['display']}, which still runs; this one ends"
        )
    job_record.write(job.home / "life.json", {"identity": identity, "display": display})
    if job.settings["interface"]:
        address = wire.address_of(job.settings["interface"])
        if address is None:
            there = ", ".join(name for _, name in socket.if_nameindex())
            raise UserError(
                f"slurm.interface={job.settings['interface']} is none of this node's with an "
                f"address: {there}"
            )
    else:
        # The batch script's node is that of rank 0; with its address nobody needs to look a name
        # up.
        address = allocation.address
    listener = wire.open_listener(address)
    token, port = secrets.token_hex(16), listener.getsockname()[1]
    wire.write_secret(
        job.home / "meeting.json",
        {"identity": identity, "address": address, "port": port, "token": token},
    )
    Chief(job, identity, display, listener, token, address).start()
    return address, port, token


def _find(job, allocation):
    """Another node: (address, port, token) of node 0, read from the meeting file."""
    path, deadline = job.home / "meeting.json", time.monotonic() + MEET_S
    while time.monotonic() < deadline:
        with contextlib.suppress(
            OSError
        ):  # a folder that is away for a moment: the next look tries again
            os.listdir(job.home)  # makes a network file system look again
            met = job_record.read(path)
            if met and met["identity"] == allocation.identity:
                return met["address"], met["port"], met["token"]
        time.sleep(0.2)
    raise EnvironmentFault(
        f"node {allocation.name} does not see what node 0 wrote to {path} within {MEET_S} s: the "
        f"folder "
        f"must be on storage that all nodes share"
    )


def _connect(address, port, token, allocation):
    try:
        return wire.join(address, port, token, allocation.node, allocation.name, MEET_S)
    except wire.Lost as error:
        raise EnvironmentFault(
            f"node {allocation.name} cannot connect to {address} port {port} of node 0: {error}; "
            f"slurm.interface= names a network that joins the nodes"
        ) from None

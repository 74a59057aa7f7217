"""The job's program, one on each node: it starts the node's ranks and stays until the job ends. No torch here.

    submitit -> main(folder) on each node
        node 0: Chief (a thread) listens, says where in FOLDER/slurm/meeting.json
        all:    Node connects, starts ranks when told, says how they ended, passes signals on

The meeting file is also the proof that the folder is shared; after it no node needs another's name.
"""

import os
import secrets
import signal
import socket
import sys
import time

from engine.errors import Failure, UserError
from slurm import record, site, wire
from slurm.chief import GATHER_S, Chief
from slurm.node import STOPS, Node

SHARED_S = 120  # for a file of node 0 to show on another node: network file systems keep absence in mind for a minute


def main(folder):
    """Run the job recorded in ``folder`` on this node; leaves by sys.exit unless all went well."""
    job = record.load(folder)
    env = os.environ
    number = env.get("SLURM_JOB_ID")
    identity = [number, int(env.get("SLURM_RESTART_COUNT", 0))]
    display = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_JOB_ID" in env else number
    place = int(env.get("SLURM_NODEID", 0)) if number else 0
    name = env.get("SLURMD_NODENAME", "this machine") if number else "this machine"
    node = Node(job, identity, place, None, command_of(job), screen=number is None)
    node.listen()
    try:
        if place == 0:
            address = _claim(job, identity, display)
        node.line = _connect(*(address if place == 0 else _find(job, identity, name)), place, name)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    code = node.run()
    if number:
        # The first task that ends with a fault has srun end the others. One that is on its way out would die of that, which to
        # the batch script looks like a supervisor that was killed: the job would go on after its end.
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)
    if code:
        sys.exit(code)


def command_of(job):
    """(extra words) -> the words of a rank."""
    def command(extra):
        python, prefix = "python3" if job.settings["container"] else job.python, []
        if job.settings["container"] and job.settings["container_tool"] == "apptainer":
            binds = [f"--bind={path}" for path in dict.fromkeys((job.cwd, job.folder, job.code))]
            gpu = ["--nv"] if job.settings["gpus_per_node"] else []
            prefix = ["apptainer", "exec", *gpu, *binds, *job.settings["container_options"], job.settings["container"]]
        return [*prefix, python, os.path.join(job.code, "slurm", "launch.py"), *job.words, *job.arguments, *extra]
    return command


def _claim(job, identity, display):
    """Node 0: take the folder for this start of this job, and open the meeting; returns (address, port, token)."""
    before = record.read(job.home / "life.json")
    if before and before["identity"][0] not in (None, identity[0]) and site.present() \
            and site.state(before["display"]) in ("RUNNING", "COMPLETING"):
        raise UserError(f"{job.folder} is worked in by job {before['display']}, which still runs; this one ends")
    record.write(job.home / "life.json", {"identity": identity, "display": display})
    if job.settings["interface"]:
        address = wire.address_of(job.settings["interface"])
        if address is None:
            there = ", ".join(name for _, name in socket.if_nameindex())
            raise UserError(f"slurm.interface={job.settings['interface']} is none of this node's with an address: {there}")
    else:
        # The batch script's node is that of rank 0; with its address nobody needs to look a name up.
        address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1") if identity[0] else "127.0.0.1"
    listener = wire.open_listener(address)
    token, port = secrets.token_hex(16), listener.getsockname()[1]
    wire.write_secret(job.home / "meeting.json", {"identity": identity, "address": address, "port": port, "token": token})
    Chief(job, identity, display, listener, token, address).start()
    return address, port, token


def _find(job, identity, name):
    """Another node: (address, port, token) of node 0, read from the meeting file."""
    path, deadline = job.home / "meeting.json", time.monotonic() + max(SHARED_S, GATHER_S)
    while time.monotonic() < deadline:
        os.listdir(job.home)  # makes a network file system look again
        met = record.read(path)
        if met and met["identity"] == identity:
            return met["address"], met["port"], met["token"]
        time.sleep(0.2)
    raise UserError(f"node {name} does not see what node 0 wrote to {path} within {max(SHARED_S, GATHER_S)} s: the folder must "
                    f"be on storage that all nodes share")


def _connect(address, port, token, place, name):
    try:
        return wire.join(address, port, token, place, name, GATHER_S)
    except wire.Lost as error:
        raise UserError(f"node {name} cannot connect to {address} port {port} of node 0: {error}; slurm.interface= "
                        f"names a network that joins the nodes") from None


if __name__ == "__main__":
    main(sys.argv[1])

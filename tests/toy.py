"""The smallest training run there is, to break: ``python tests/toy.py FAULTS key=value ...`` trains
three weights.

FAULTS is JSON: {"nan": [step, ...], "scale": {"step": factor}, "on": rank, "KIND": step, ...} where
KIND is one of ``fail``, ``fail_in_save``, ``crash``, ``hang``, ``flip`` (a bit of a weight),
``slow_start``, ``slow_first`` (step), ``slow_evaluation``, ``slow_save``, ``slow`` (the last five
in seconds). They strike rank ``on`` alone; all without it. {"plant": WHERE, "kind": KIND, "on":
rank} raises an error before the first step: see ``planted``. Faults are put into the trainer, in
toy_trainer.py: the engine knows nothing of them.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def start(run, faults, *words, world=1, env=None, delays=None):
    """[a started process a rank]. ``env``: more of the environment.  ``delays``: seconds before
    each rank's start."""
    return launch(
        [sys.executable, __file__, json.dumps(faults), f"run={run}", *words], world, env, delays
    )


def launch(command, world=1, env=None, delays=None):
    """[a started process of any command a rank]."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    # One thread, so that runs under way at the same time stay equal to the bit.
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if world > 1:
        shared |= {
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
        }
    processes = []
    for rank in range(world):
        time.sleep(delays[rank] if delays else 0)
        own = {**shared, **({"RANK": str(rank)} if world > 1 else {}), **(env or {})}
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def start_torchrun(run, *words, world):
    """A started torchrun, the first of a process group of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, "{}", f"run={run}", *words],
        cwd=ROOT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(processes, codes=0):
    """Wait for the ranks; their outputs. Fails the test on other exit codes."""
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    wanted = codes if isinstance(codes, list) else [codes] * len(processes)
    assert [process.returncode for process in processes] == wanted, outputs
    return outputs


def wait_for(path, processes, text=""):
    """Until a file is there and holds a text."""
    while not (path.exists() and text in path.read_text()):
        assert all(process.poll() is None for process in processes), [
            process.communicate()[0] for process in processes
        ]
        time.sleep(0.01)


def planted(faults, where, rank):
    """Raise what FAULTS wants to have raised at this place of the start-up, on this rank."""
    from engine.errors import EnvironmentFault, UserError

    if faults.get("plant") == where and faults["on"] == rank:
        kinds = {"user": UserError, "environment": EnvironmentFault, "program": ValueError}
        raise kinds[faults["kind"]](f"planted in {where}")


def main(argv):
    from engine.distributed.startup import starting
    from engine.run import signals

    signals.leave_on_signal()
    with starting():
        faults = json.loads(argv[0])
        planted(faults, "import", int(os.environ.get("RANK") or 0))
        import toy_trainer  # torch takes seconds, in which a signal may come

    return toy_trainer.train(faults, argv[1:])


if __name__ == "__main__":
    from engine.cli import run

    run(main)

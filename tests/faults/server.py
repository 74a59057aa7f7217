"""A process that has imported torch once and forks for each run, with inject.c preloaded.

``python -m tests.faults.server`` reads a request a line and answers with a line; see ``Server`` for
both. The forked process becomes the command: its exit code, its output and its end are those of
``python -m`` started anew, but for four seconds of imports.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FASTER = 100  # a second that the program sleeps before it tries again is a hundredth here
PATIENCE_S = 60
OVERTIME = "overtime"  # in place of an exit code: the run was ended


def build_library(folder):
    """Compile inject.c into a folder; its path.

    Raises:
        RuntimeError: there is no compiler, or this system has no such libraries; says which.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if not sys.platform.startswith("linux"):
        raise RuntimeError(f"{sys.platform} has no LD_PRELOAD of Linux")
    if compiler is None:
        raise RuntimeError("no C compiler (cc, gcc) to build tests/faults/inject.c with")
    out = Path(folder) / "inject.so"
    words = [
        "-O1",
        "-std=gnu11",
        "-w",
        "-shared",
        "-fPIC",
        str(HERE / "inject.c"),
        "-o",
        str(out),
        "-ldl",
    ]
    done = subprocess.run([compiler, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{compiler} cannot build tests/faults/inject.c: {done.stderr.strip()[:500]}"
        )
    return out


class Server:
    """The started process; ``run`` has one command run in a fork of it. Not for several threads."""

    def __init__(self, library):
        search = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        # One thread, so that all runs are equal to the bit.
        env = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "COUNTERPOSE_FAULTS_LIBRARY": str(library),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": search,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, request):
        """(exit code, minus a signal, or OVERTIME) of a command.

        Args:
            request: {"kind": "toy" or "pretrain", "faults": of toy.py, "words": key=value,
                "rules", "log": files of inject.c, "said": the file that its output goes to}.
        """
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server ended with exit code {self.process.wait()}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    """Answer requests until there are no more; in a forked process, become the command."""
    import toy_trainer  # noqa: F401

    import pretrain.train  # noqa: F401 - what every fork needs
    from engine import version

    version.library_versions()  # imports what a save imports
    gc.collect()
    gc.freeze()  # else each fork copies all objects, for half a second, to look for garbage
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            become(request)
            raise AssertionError("unreachable")
        answers.write(json.dumps(wait(child)) + "\n")
        answers.flush()
    os._exit(0)  # taking torch apart takes seconds and says much


def wait(child):
    """The exit code of a child, minus a signal, or OVERTIME."""
    handle = os.pidfd_open(child)
    ready = select.select([handle], [], [], PATIENCE_S)[0]
    os.close(handle)
    # What it started, such as a loader's worker, is of its group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if ready else OVERTIME


def become(request):
    """Run the request's command as this process; leaves with its exit code."""
    os.setpgid(0, 0)
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.dump_traceback_later(PATIENCE_S - 5, exit=False)
    hurry()
    from engine import cli
    from engine.training import trainer

    library = ctypes.CDLL(os.environ["COUNTERPOSE_FAULTS_LIBRARY"])
    tell_phases(library, trainer.Trainer)
    if library.faults_arm(request["rules"].encode(), request["log"].encode()):
        raise RuntimeError(f"{request['rules']} cannot be read as rules of inject.c")
    # A loader's worker is a new process, which arms itself.
    os.environ |= {
        "COUNTERPOSE_FAULTS_RULES": request["rules"],
        "COUNTERPOSE_FAULTS_LOG": request["log"],
    }
    sys.argv = [request["kind"], *request["words"]]
    leave(lambda: cli.run(lambda words: COMMANDS[request["kind"]](request, words)))


def hurry():
    """Let the time that the program sleeps pass in a hundredth of it, on its clock in full."""
    sleep, clock, skipped = time.sleep, time.monotonic, [0.0]

    def sleep_less(seconds):
        sleep(seconds / FASTER)
        skipped[0] += seconds - seconds / FASTER

    time.sleep, time.monotonic = sleep_less, lambda: clock() + skipped[0]


def leave(command):
    """Call a command that ends with SystemExit, and end the process as the interpreter would.

    Less the two seconds in which that takes all objects of torch apart.
    """
    code = 1
    try:
        command()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tell_phases(library, trainer):
    """Tell the library "steps" from the first step on and "end" from the last on."""
    update = trainer.update

    def told(self, step, arrays):
        library.faults_phase(b"end" if step + 1 == self.config.steps else b"steps")
        return update(self, step, arrays)

    trainer.update = told


def run_toy(request, words):
    from toy import main

    return main([json.dumps(request["faults"]), *words])


def run_pretrain(request, words):
    from pretrain.__main__ import main

    return main(["train", *words])


COMMANDS = {"toy": run_toy, "pretrain": run_pretrain}


def open_server():
    """A Server in a folder of its own for the library, and that folder, which its owner removes."""
    folder = tempfile.mkdtemp(prefix="faults-")
    return Server(build_library(folder)), folder


if __name__ == "__main__":
    main()

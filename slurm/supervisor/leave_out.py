"""What the batch script does where nodes do not see the code, of a job that ran before: it goes on
without those nodes."""

import time

from engine.cli import run
from engine.errors import ExitCode, Failure
from slurm import site

TRIES_S = 10  # in which the controller must take them out


def main(argv: list) -> int:
    """Put job ``argv[0]`` back and have it keep from the nodes after it; returns STOPPED, upon
    which a job is put back."""
    number, *nodes = argv
    if not nodes or not site.can_spare(number, nodes) or not site.requeue(number):
        return ExitCode.STOPPED
    deadline = time.monotonic() + TRIES_S
    while True:
        try:
            site.exclude(number, nodes)
            print(f"note: the next start keeps from {', '.join(nodes)}", flush=True)
            return ExitCode.STOPPED
        except Failure:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


if __name__ == "__main__":
    run(main)

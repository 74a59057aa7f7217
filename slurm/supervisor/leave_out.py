"""What the batch script does where nodes do not see the code.

A job that ran before resumes without those nodes.
"""

import time

from engine.cli import run
from engine.errors import ExitCode, Failure
from engine.logging.console import get_logger
from slurm import site

log = get_logger(__name__)

TRIES_S = 10  # in which the controller must take them out


def main(argv: list[str]) -> int:
    """Put job ``argv[0]`` back and have it keep from the nodes after it.

    Returns STOPPED, upon which the batch script puts a job back.
    """
    number, *nodes = argv
    if not nodes or not site.can_spare(number, nodes) or not site.requeue(number):
        return ExitCode.STOPPED
    deadline = time.monotonic() + TRIES_S
    while True:
        try:
            site.exclude(number, nodes)
            log.info("note: the next start keeps from %s", ", ".join(nodes))
            return ExitCode.STOPPED
        except Failure:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


if __name__ == "__main__":
    run(main)

"""The commands that can be sent to a cluster, by their words.

What else is known of one its package says itself.

No other package is imported here, by whatever way: each has a module ``describe``
(engine.run.job_description), which runs in a process of its own.
"""

import json
import os
import subprocess
import sys

from engine.errors import UserError
from engine.run.job_description import Description, Words, find_words
from engine.version import ROOT

COMMANDS: tuple[Words, ...] = (
    ("pretrain", "train"),
    ("pretrain", "probe"),
    ("finetune", "train"),
    ("finetune", "evaluate"),
    ("data", "make"),
    ("data", "find"),
    ("data", "pairs"),
    ("data", "labels"),
)


def split_words(line: list[str]) -> tuple[Words, list[str]]:
    """Return (words of the command, its arguments) of a command line.

    Raises:
        UserError: it begins with no command that can be sent.
    """
    words = find_words(line, COMMANDS)
    if not words:
        known = ", ".join(" ".join(words) for words in COMMANDS)
        raise UserError(
            f"'{' '.join(line[:2])}' is no command that can be sent to a cluster; these can: "
            f"{known}"
        )
    return words, line[len(words) :]


def describe(words: Words, lines: list[list[str]]) -> Description:
    """Return what a command's package says of some command lines, without starting them.

    Args:
        words: the command's.
        lines: its arguments, once for each job or sweep's run.
    Raises:
        UserError: the package could not answer; what it said stands on stderr.
    """
    package, *rest = words
    launch = os.path.join(ROOT, "slurm", "launch.py")
    done = subprocess.run(
        [sys.executable, launch, f"{package}.describe", *rest],
        input=json.dumps(lines),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"checking the config failed with exit code {done.returncode}; what it said is above"
        )
    return Description.from_json(done.stdout)

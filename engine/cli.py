"""How a command ends: failures of a known kind as one line, everything else as a traceback."""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from engine.errors import ExitCode, Failure
from engine.logging.console import configure_console

TAIL_BYTES = 65536


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Call ``main(argv)`` and leave with its exit code.

    After a Failure it is that failure's own (engine.errors), after Ctrl-C 130.
    """
    try:
        configure_console()
        sys.exit(main(sys.argv[1:]) or 0)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)


def last_word(log: str | Path, offset: int, code: int) -> str:
    """Return in a line why a process ended with ``code``.

    It is the process's own last word in ``log`` from ``offset`` on, or the signal that ended it.
    """
    with open(log, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(offset, end - TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    stripped = [line.strip() for line in re.split(r"[\r\n]+", text)]
    lines = [line for line in stripped if line]
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = ", often because memory ran out" if code == -signal.SIGKILL else ""
        return f"killed by {name}{why}"
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    for line in reversed(lines):
        if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b", line):
            return line
    return lines[-1] if lines else f"exit code {code} without a word"

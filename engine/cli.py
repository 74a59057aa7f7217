"""How a command ends: failures of a known kind as one line, everything else as a traceback."""

import os
import re
import signal
import sys

from engine.errors import ExitCode, Failure
from engine.logging.console import configure_console

TAIL_BYTES = 65536


def run(main):
    """Call ``main(argv)`` and leave with its exit code; a Failure's own (engine.errors), 130 after
    Ctrl-C."""
    try:
        configure_console()
        sys.exit(main(sys.argv[1:]) or 0)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)


def last_word(log, offset, code):
    """Why a process ended with ``code``, in a line: its own last word in ``log``, or the signal
    that ended it."""
    with open(log, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(offset, end - TAIL_BYTES))
        lines = [
            line.strip()
            for line in re.split(r"[\r\n]+", file.read().decode("utf-8", "replace"))
            if line.strip()
        ]
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"killed by {name}" + (
            ", often because memory ran out" if code == -signal.SIGKILL else ""
        )
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    for line in reversed(lines):
        if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b", line):
            return line
    return lines[-1] if lines else f"exit code {code} without a word"

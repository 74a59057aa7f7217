"""How a command ends: user errors as one line, everything else as a traceback."""

import sys

from engine.errors import UserError


def run(main):
    """Call ``main(argv)`` and leave with its exit code; 2 after a UserError, 130 after Ctrl-C."""
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)

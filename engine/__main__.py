"""``python -m engine report RUN ...``: what the engine shows of any run."""

from engine import cli
from engine.errors import UserError
from engine.logging import report

USAGE = f"usage: {report.USAGE}"


def main(argv: list[str]) -> int:
    """Run a command; returns its exit code."""
    if not argv or argv[0] in ("--help", "-h"):
        print(USAGE)
        return 0
    if argv[0] != "report":
        raise UserError(f"'{argv[0]}' is none of report\n{USAGE}")
    return report.main(argv[1:])


if __name__ == "__main__":
    cli.run(main)

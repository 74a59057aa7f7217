"""``python -m engine VERB ...``: what any run can be asked for."""

from collections.abc import Sequence

from engine.cli import run
from engine.commands import Package, Verb, run_package

PACKAGE = Package(
    "engine",
    "Watch any run.",
    (
        Verb(
            "report",
            "engine.logging.report:main",
            "write a page with the curves, numbers and images of one or several runs",
            "RUN ... [out=FILE.html]",
            "runs/body runs/body_lr2e-4 out=compared.html",
            keys="engine.logging.report_config:ReportConfig",
        ),
    ),
    example="engine report runs/body",
)


def main(argv: Sequence[str]) -> int:
    """Runs a verb of this package; returns its exit code."""
    return run_package(PACKAGE, argv)


if __name__ == "__main__":
    run(main)

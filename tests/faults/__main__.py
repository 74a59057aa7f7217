"""``python -m tests.faults list|try|run|table``; see --help.

python -m tests.faults list older                    its file operations, by phase
python -m tests.faults try "older: sync run/checkpoints/* 2 1 EIO | rename run/* 3 1 KILL"
python -m tests.faults run --cases 2000 --seed 1 --out cases.jsonl
python -m tests.faults table cases.jsonl             the table of docs/training.md
"""

import argparse
import signal
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent)
]  # as for pytest: helpers of the tests lie beside them

from .bench import Bench  # noqa: E402
from .campaign import draw_case, run_cases, table  # noqa: E402
from .plan import read_case  # noqa: E402
from .workloads import MOSTLY_SMALL, WORKLOADS  # noqa: E402


def list_sites(options):
    with Bench() as bench:
        for (call, path), phases in sorted(bench.sites(options.workload).items()):
            print(
                f"{call:9} {path:60} "
                + ", ".join(f"{phase} {count}" for phase, count in Counter(phases).items())
            )
    return 0


def try_one(options):
    with Bench() as bench:
        outcome = bench.run_case(read_case(options.case))
    print(
        outcome.said or "the invariant holds",
        *outcome.violations,
        f"codes {outcome.codes}",
        f"struck {outcome.struck}",
        sep="\n",
    )
    return bool(outcome.violations)


def run_many(options):
    names = options.workloads.split(",") if options.workloads else MOSTLY_SMALL
    return run_cases(names, options.seed, options.first, options.cases, Path(options.out))


def print_table(options):
    print(table([Path(file) for file in options.files]))
    return 0


def show(options):
    with Bench() as bench:
        for number in range(options.first, options.first + options.cases):
            print(draw_case(bench, MOSTLY_SMALL, options.seed, number))
    return 0


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("list")
    one.add_argument("workload", choices=list(WORKLOADS))
    one.set_defaults(act=list_sites)
    one = commands.add_parser("try")
    one.add_argument("case")
    one.set_defaults(act=try_one)
    for name, act in (("run", run_many), ("show", show)):
        one = commands.add_parser(name)
        one.add_argument("--cases", type=int, default=100)
        one.add_argument("--first", type=int, default=0)
        one.add_argument("--seed", type=int, default=1)
        one.add_argument("--workloads", default="")
        one.add_argument("--out", default="faults.jsonl")
        one.set_defaults(act=act)
    one = commands.add_parser("table")
    one.add_argument("files", nargs="+")
    one.set_defaults(act=print_table)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and what lies in /tmp is removed
    return options.act(options)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.transfer``."""

import importlib
import statistics

from benchmarks.transfer import plan
from benchmarks.transfer.config import TransferConfig
from engine.cli import run
from engine.config.parser import parse
from engine.errors import UserError

USAGE = """python -m benchmarks.transfer CONFIG.yaml [key=value ...]           run a study, or go on with it
       python -m benchmarks.transfer tables CONFIG.yaml [key=value ...]    its tables and plots from the rows that are there
       python -m benchmarks.transfer angles CONFIG.yaml                    reference gain of pre-trained arms by angle
       python -m benchmarks.transfer seconds CONFIG.yaml arm=NAME,...      what their steps take, side by side
       python -m benchmarks.transfer take CONFIG.yaml take.videos=DIR take.calibration=FILE take.track=FILE
                                                                           fine-tuned rows on a real take, several cameras"""


def main(argv):
    """Returns the exit code."""
    first = argv[0] if argv else ""
    if first == "tables":
        from benchmarks.transfer.tables import write

        return write(parse(TransferConfig, argv[1:], "benchmarks.transfer", USAGE))
    if first in ("take", "angles", "seconds"):
        room = importlib.import_module(f"benchmarks.transfer.{first}")
        return room.measure(parse(TransferConfig, argv[1:], "benchmarks.transfer", USAGE))
    if first == "measure":
        return _measure(argv[1:])
    config = parse(TransferConfig, argv, "benchmarks.transfer", USAGE)
    from benchmarks.transfer import runner

    plan.check(config)
    todo = [row for row in plan.rows(config) if not plan.path_of(config, row).is_file()]
    print(_outlook(config, todo, config.lanes or runner.lanes()), flush=True)
    if not todo:
        return 0
    keys = list(argv)
    return runner.Runner(
        config,
        todo,
        lambda row: [
            "benchmarks.transfer",
            "measure",
            f"{row.arm},{row.seed},{row.share}",
            *keys,
            f"out={plan.finetune_folder(config, row)}-measure",
        ],
    ).run()


def _measure(argv):
    """``measure ARM,SEED,SHARE CONFIG ...``: what the study runs when a row is fine-tuned."""
    from benchmarks.transfer.measure import measure

    if len(argv) < 2 or argv[0].count(",") != 2:
        raise UserError(
            "measure is for the study itself: ARM,SEED,SHARE CONFIG.yaml [key=value ...] of a "
            "fine-tuned row"
        )
    arm, seed, share = argv[0].split(",")
    config = parse(
        TransferConfig,
        [word for word in argv[1:] if not word.startswith("out=")],
        "benchmarks.transfer",
    )
    measure(config, plan.Row(arm, int(seed), float(share)))
    return 0


def _outlook(config, todo, lanes):
    """What is told before it starts: how many runs, how long, what they can show."""
    from benchmarks.transfer.rows import read, seeds_apart, usual_share
    from benchmarks.transfer.stats import detectable

    rows = plan.rows(config)
    there = read(config)
    seconds = [
        row["finetune"].get("seconds", 0) + row["pretrain"].get("seconds", 0)
        for row in there.values()
    ]
    each = statistics.mean(seconds) if seconds else config.expect.seconds
    known = there and seeds_apart(
        there, usual_share(there), next(iter(config.tests)), config.how, config.metric
    )
    counts = sorted(
        {
            sum(row.arm == arm for row in rows if row.share == rows[0].share)
            for arm in {row.arm for row in rows}
        }
    )
    if known and known.freedom:
        spread, freedom, why = (
            (2 * known.variance) ** 0.5,
            known.freedom,
            f"measured, {known.freedom} degrees of freedom",
        )
    else:
        arms = len({row.arm for row in rows})
        spread, freedom, why = (
            config.expect.spread,
            max(1, (arms - 1) * (counts[-1] - 1)),
            "expected",
        )
    shown = ", ".join(f"{count}: {detectable(spread, count, freedom):.2f}" for count in counts)
    return (
        f"{config.name}: {len(rows)} rows of {len(config.arms)} arms, {len(todo)} to do; "
        f"{each:.0f} s a row "
        f"({'measured' if seconds else 'expected'}), {lanes} side by side: "
        f"{len(todo) * each / lanes / 60:.0f} min\n"
        f"{config.metric}: paired differences spread by {spread:.2f} over seeds ({why}); least "
        f"true difference that is "
        f"shown in two of three studies or more, by seeds of an arm: {shown}; what is below is "
        f"reported as cannot tell"
    )


if __name__ == "__main__":
    run(main)

"""``python -m studies VERB CONFIG.yaml [key=value ...]``."""

import statistics

from engine.cli import run
from engine.config.parser import parse
from engine.errors import UserError
from engine.logging.console import get_logger
from studies import plan
from studies.config import StudyConfig

USAGE = """python -m studies run CONFIG.yaml [key=value ...]      run a study, or resume it
       python -m studies tables CONFIG.yaml               tables and figures, into docs/results.md
       python -m studies angles CONFIG.yaml               reference gain of arms by angle
       python -m studies seconds CONFIG.yaml arm=A,B      what their steps take, side by side
       python -m studies take CONFIG.yaml take.videos=DIR take.calibration=FILE take.track=FILE
                                                        fine-tuned rows on a real take
       python -m studies real RUN ... videos=DIR calibration=FILE track=FILE out=DIR
                                                        any fine-tuned runs on a real take
example:
       python -m studies tables studies/pilot.yaml"""
VERBS = ("run", "tables", "angles", "seconds", "take", "real", "measure")

log = get_logger(__name__)


def main(argv: list[str]) -> int:
    """Run one verb; returns the exit code.

    Raises:
        UserError: there is no such verb, or its own.
    """
    verb, rest = (argv[0], argv[1:]) if argv else ("", [])
    if verb in ("", "-h", "--help"):
        print(f"usage: {USAGE}")
        return 0
    if verb not in VERBS:
        raise UserError(f"python -m studies: '{verb}' is none of {', '.join(VERBS)}; see --help")
    if verb == "real":
        from studies import real

        return real.main(rest)
    if verb == "measure":
        return _measure_row(rest)
    config = parse(StudyConfig, rest, "studies", USAGE)
    if verb == "run":
        return _run_study(config, rest)
    if verb == "tables":
        from studies.tables import write_page

        write_page(config)
    elif verb == "angles":
        from studies.angles import measure_angles

        measure_angles(config)
    elif verb == "seconds":
        from studies.seconds import measure_seconds

        measure_seconds(config)
    else:
        from studies.take import measure_take

        measure_take(config)
    return 0


def _run_study(config: StudyConfig, words: list[str]) -> int:
    """Run the rows that are missing; ``words`` are the config and keys that it was called with."""
    from studies import runner
    from studies.protocol import describe_protocol

    plan.check_arms(config)
    log.info(describe_protocol(config))
    if config.real.shards:
        log.info(_describe_real(config))
    done = plan.find_done(config)
    todo = [row for row in plan.list_rows(config) if row not in done]
    log.info(_describe_outlook(config, todo, config.lanes or runner.count_lanes()))
    if not todo:
        return 0

    def measure(row: plan.Row) -> list[str]:
        which = f"{row.arm},{row.seed},{row.share}"
        out = f"out={plan.finetune_folder(config, row)}-measure"
        return ["studies", "measure", which, *words, out]

    return runner.Runner(config, todo, measure).run()


def _describe_real(config: StudyConfig) -> str:
    """Return how many real clips, crops and scenes there are; read before hours of training."""
    from data.storage.cache import CacheConfig
    from data.storage.shard_store import Store
    from studies.real_crops import read_real_crops

    real = read_real_crops(config.real.shards, Store(CacheConfig().open())).describe()
    scenes = ", ".join(f"{name} {crops}" for name, crops in real["scenes"].items())
    return f"real: {real['clips']} clips; crops that are judged, by scene: {scenes}"


def _measure_row(argv: list[str]) -> int:
    """``measure ARM,SEED,SHARE CONFIG ...``: what the study runs when a row is fine-tuned."""
    from studies.measure import measure_row

    if len(argv) < 2 or argv[0].count(",") != 2:
        raise UserError(
            "measure is for the study itself: ARM,SEED,SHARE CONFIG.yaml [key=value ...] of a "
            "fine-tuned row"
        )
    arm, seed, share = argv[0].split(",")
    words = [word for word in argv[1:] if not word.startswith("out=")]
    measure_row(parse(StudyConfig, words, "studies"), plan.Row(arm, int(seed), float(share)))
    return 0


def _describe_outlook(config: StudyConfig, todo: list[plan.Row], lanes: int) -> str:
    """Return what is said before a study starts: how many runs, how long, what they can show."""
    from engine.paired_stats import detectable_difference
    from studies.rows import estimate_seed_variance, find_usual_share, read_rows

    rows = plan.list_rows(config)
    there = read_rows(config)
    seconds = [
        row["finetune"].get("seconds", 0) + row["pretrain"].get("seconds", 0)
        for row in there.values()
    ]
    each = statistics.mean(seconds) if seconds else config.expect.seconds
    first = [row for row in rows if row.share == rows[0].share]
    arms = {row.arm for row in rows}
    counts = sorted({sum(row.arm == arm for row in first) for arm in arms})
    spread, freedom = config.expect.spread, max(1, (len(arms) - 1) * (counts[-1] - 1))
    why = "expected"
    if there:
        test = next(iter(config.tests))
        known = estimate_seed_variance(
            there, find_usual_share(there), test, config.how, config.metric
        )
        if known.freedom:
            spread, freedom = (2 * known.variance) ** 0.5, known.freedom
            why = f"measured, {known.freedom} degrees of freedom"
    # A claim has its own two arms alone to tell how far seeds lie apart.
    many = len(config.claims)
    least = {
        count: detectable_difference(spread, count, count - 1 if many else freedom, many or 1)
        for count in counts
    }
    shown = ", ".join(f"{count}: {value:.2f}" for count, value in least.items())
    corrected = f", corrected for {many} claims" if many else ""
    return (
        f"{config.name}: {len(rows)} rows of {len(config.arms)} arms, {len(todo)} to do; "
        f"{each:.0f} s a row ({'measured' if seconds else 'expected'}), {lanes} side by side: "
        f"{len(todo) * each / lanes / 60:.0f} min\n"
        f"{config.metric}: standard deviation of paired differences over seeds {spread:.2f} "
        f"({why}); least true difference that is significant in two of three studies or more, by "
        f"seeds of an arm{corrected}: {shown}; what is below is reported as not significant"
    )


if __name__ == "__main__":
    run(main)

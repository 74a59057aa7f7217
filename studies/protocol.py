"""What a study fixes before its first run, in the words that it starts with and reports with."""

from studies.config import READ_OUTS, REAL, REAL_READ_OUTS, Claim, StudyConfig
from studies.rows import HOWS, NAMES, arm_title

UNCORRECTED = (
    "Nothing is corrected: the study names no claims, so that each difference stands for itself, "
    "and of twenty that are none one is significant by chance."
)


def describe_protocol(config: StudyConfig) -> str:
    """Return the protocol as a Markdown list: seeds, tests, read-outs, claims, expected spread."""
    claims = config.list_claims()
    lines = [
        f"Protocol of *{config.name}*, from its config:",
        "",
        f"- seeds: {_describe_seeds(config)}; label shares "
        f"{', '.join(f'{share:g}' for share in config.shares)}",
        f"- test sets: {_describe_tests(config)}",
        f"- read-outs: {'; '.join(_describe_read_outs(config))}; headline: "
        f"{name_read_out(config.how, config.metric)}",
        f"- expected standard deviation over seeds of a paired difference: "
        f"{config.expect.spread:g} mm",
    ]
    if claims:
        lines.append(
            f"- claims, {len(claims)}, corrected together by Holm's method (all other differences "
            f"are exploratory):"
        )
        lines += [f"    - {describe_claim(config, claim)}" for claim in claims]
    else:
        lines.append(f"- claims: none. {UNCORRECTED}")
    return "\n".join(lines)


def describe_claim(config: StudyConfig, claim: Claim) -> str:
    """Return a claim in words."""
    return (
        f"{claim.name}: *{arm_title(config, claim.arm)}* minus *{arm_title(config, claim.minus)}*, "
        f"{name_read_outs(claim)}, {claim.test}, label share {claim.share:g}"
    )


def name_read_outs(claim: Claim) -> str:
    """Return what a claim reads out of its arm, and of the other where that is something else."""
    mine = name_read_out(claim.how, claim.metric)
    if claim.minus_how == claim.how:
        return mine
    return f"{mine}, minus {name_read_out(claim.minus_how, claim.metric)}"


def name_read_out(how: str, metric: str) -> str:
    """Return what a read-out's metric is called, with its unit."""
    return f"{HOWS[how]} {NAMES[metric]}"


def _describe_seeds(config: StudyConfig) -> str:
    """How many seeds each arm has: the usual count, and the arms that have another."""
    counts: dict[int, list[str]] = {}
    for name in config.arms:
        if config.count_seeds(name) != config.seeds:
            counts.setdefault(config.count_seeds(name), []).append(name)
    others = [f"{count} of {', '.join(names)}" for count, names in counts.items()]
    return "; ".join([f"{config.seeds} of each arm", *others])


def _describe_tests(config: StudyConfig) -> str:
    """The test sets, and which of them arms are chosen by."""
    return ", ".join(
        f"{name} ({test.clips} clips{', to choose arms by' if name in config.choose else ''})"
        for name, test in config.tests.items()
    ) + (f"; {REAL} (crops of real people, by scene)" if config.reads_real else "")


def _describe_read_outs(config: StudyConfig) -> list[str]:
    return [
        f"{HOWS[how]} ({' / '.join(NAMES[metric] for metric in metrics)})"
        for how, metrics in READ_OUTS.items()
        if (config.finetune or how != "finetuned")
        and (config.reads_real or how not in REAL_READ_OUTS)
    ]

"""The differences that a study was run for: each by its own two arms, corrected together."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.paired_stats import LEVEL, Difference, adjust_by_holm
from studies import plan
from studies.config import Claim, StudyConfig
from studies.protocol import name_read_outs
from studies.rows import Rows, arm_title, compare_claim, list_seeds

ONE_SEED = "one seed: over clips alone"
HEADING = (
    "**Claims** of the config: *arm* minus *minus*, negative: better. Intervals ({level}) and p "
    "are of the two arms alone, paired by seed and clip, whatever other arms do, and wide where "
    "seeds are few. Corrected p: Holm's, over all {count} claims{missing}. Bold: significant, the "
    "corrected p is below {alpha:.2g}. *Named*: whether a claim was in the config before its rows "
    "were measured, which each row keeps; one named after some of them was chosen with their "
    "errors in sight."
)


@dataclass(frozen=True)
class Finding:
    """What the rows say of a claim.

    Attributes:
        difference: None where its arms have no seed in common yet.
        corrected: its p-value among all claims of the study, by Holm's method; nan without one.
        rows: of its two arms.  after: those that were measured when it was not among the claims.
    """

    claim: Claim
    difference: Difference | None
    corrected: float
    rows: int
    after: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below what LEVEL leaves."""
        return self.corrected < 1 - LEVEL


def judge_claims(config: StudyConfig, there: Rows) -> list[Finding]:
    """Return the Finding of each claim, in the config's order.

    The family is all claims: one that has no p-value yet counts as one of 1, so that none looks
    better for what is not measured.
    """
    claims = config.list_claims()
    found = [compare_claim(there, claim) for claim in claims]
    raw = [np.nan if one is None else one.p for one in found]
    corrected = adjust_by_holm([1.0 if np.isnan(p) else p for p in raw])
    return [
        Finding(claim, one, np.nan if np.isnan(p) else after, *_count_rows(there, claim))
        for claim, one, p, after in zip(claims, found, raw, corrected, strict=True)
    ]


def list_records(config: StudyConfig) -> list[dict[str, Any]]:
    """Return the claims as a row keeps them, which tells what was named before it was measured."""
    return [_record(claim) for claim in config.list_claims()]


def _record(claim: Claim) -> dict[str, Any]:
    return {name: value for name, value in asdict(claim).items() if name != "name"}


def _count_rows(there: Rows, claim: Claim) -> tuple[int, int]:
    """(rows of a claim's arms, those of them that do not name it)."""
    record = _record(claim)
    named = [
        record in found.get("claims", [])
        for row, found in there.items()
        if row.arm in (claim.arm, claim.minus) and row.share == claim.share
    ]
    return len(named), named.count(False)


def make_table(config: StudyConfig, there: Rows) -> str | None:
    """Return the claims as Markdown, or None where the study has none."""
    found = judge_claims(config, there)
    if not found:
        return None
    missing = sum(bool(np.isnan(one.corrected)) for one in found)
    words = f", of which {missing} not measured yet (p = 1)" if missing else ""
    heading = HEADING.format(
        level=f"{100 * LEVEL:.0f} %", count=len(found), missing=words, alpha=1 - LEVEL
    )
    lines = [
        heading,
        "",
        "| claim | named | arm | minus | test | read-out | labelled clips | seeds | difference | p "
        "| corrected p |",
        "|" + "---|" * 11,
    ]
    return "\n".join([*lines, *(_line(config, there, one) for one in found)])


def _line(config: StudyConfig, there: Rows, found: Finding) -> str:
    claim, d = found.claim, found.difference
    seeds = list_seeds(there, claim.arm, claim.share)
    labelled = (
        str(there[plan.Row(claim.arm, min(seeds), claim.share)]["labelled_clips"]) if seeds else ""
    )
    cells = [
        claim.name,
        f"after {found.after} of {found.rows} rows" if found.after else "before",
        arm_title(config, claim.arm),
        arm_title(config, claim.minus),
        claim.test,
        name_read_outs(claim),
        labelled,
    ]
    if d is None:
        cells += ["0", "not measured yet", "", ""]
    else:
        cells += [
            str(d.seeds),
            show_difference(d, 2 if claim.metric == "px" else 1, found.significant)
            + (f" ({ONE_SEED})" if d.seeds == 1 else ""),
            _show_p(d.p),
            _show_p(found.corrected),
        ]
    return "| " + " | ".join(cells) + " |"


def show_difference(d: Difference, digits: int, bold: bool) -> str:
    """Return a difference with its interval, where it has one."""
    if not np.isfinite(d.low):
        return f"{d.mean:+.{digits}f}"
    text = f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"
    return f"**{text}**" if bold else text


def _show_p(p: float) -> str:
    if np.isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"

"""Rows' meshes on real images: a take is seen by one camera and judged in the others.

See studies/real.py.
"""

from typing import Any

import numpy as np

from engine.errors import UserError
from engine.logging.console import get_logger
from engine.paired_stats import compare_paired, pool_seeds
from studies import plan
from studies.config import StudyConfig

log = get_logger(__name__)

SHOWN = {
    "placed": "as placed by the network",
    "moved": "at the true depth",
    "mean placed": "mean body, as placed",
    "mean moved": "mean body, at the true depth",
}
BLOCK = 10  # frames that count as one clip: neighbours show nearly the same


def measure_take(config: StudyConfig) -> None:
    """Measure each fine-tuned row that is not in the table yet.

    Raises:
        UserError: take. keys that are missing, no fine-tuned row whose run is there.
    """
    for name in ("videos", "calibration", "track"):
        if not getattr(config.take, name):
            raise UserError(
                f"take.{name} is not set: a take is take.videos=DIR take.calibration=FILE "
                f"take.track=FILE"
            )
    # Imported here because it takes seconds, and tables have no use for it.
    from studies import real, silhouettes

    table, done = plan.open_table(config), plan.find_done(config)
    there = [
        row
        for row in plan.list_rows(config)
        if row in done and plan.finetune_folder(config, row).is_dir()
    ]
    todo = [row for row in there if not table.find("take", **row.keys)]
    if not there:
        raise UserError(f"{config.work}/{config.name} has no fine-tuned run of a finished row")
    if not todo:
        return
    take = silhouettes.prepare(
        config.take.videos, config.take.calibration, config.take.track, every=config.take.every
    )
    log.info(real.describe(take))
    for row in todo:
        found = real.measure(str(plan.finetune_folder(config, row)), take)
        shown = {
            name: [
                None if np.isnan(value) else round(float(value), 4)
                for value in real.others(found["rows"][name])
            ]
            for name in SHOWN
        }
        line = {
            "format": 1,
            **row.keys,
            "frames": found["frames"],
            "cameras": found["cameras"],
            "box": found["box"],
            "iou": shown,
        }
        table.add("take", line)


def make_table(config: StudyConfig) -> str | None:
    """Return the table as Markdown, or None where nothing was measured.

    Overlap in the other cameras, and differences from the reference arm, or from the first that was
    measured.
    """
    lines = plan.open_table(config).read("take")
    measured = {plan.Row(one["arm"], one["seed"], one["share"]): one for one in lines}
    there = {row: measured[row] for row in plan.list_rows(config) if row in measured}
    if not there:
        return None
    share = max(
        {row.share for row in there}, key=lambda one: sum(row.share == one for row in there)
    )
    found = {
        arm: {
            row.seed: _values(one)
            for row, one in there.items()
            if row.arm == arm and row.share == share
        }
        for arm in config.arms
    }
    first = next(iter(there.values()))
    reference = (
        config.reference
        if found[config.reference]
        else next(arm for arm, seeds in found.items() if seeds)
    )
    title = config.arms[reference].title or reference
    words = (
        f"Real images: a take of {len(first['cameras'])} cameras, {len(first['frames'])} frames "
        f"of one man. The "
        f"mesh that is recovered from one camera's crop is placed in the world by the calibration, "
        f"and its silhouette "
        f"compared with the man's outline in each other camera: IoU in per cent, mean over pairs "
        f"of cameras; label share "
        f"{share:g}. The last column compares *{SHOWN['moved']}*, paired by seed and {BLOCK} "
        f"frames (in parentheses the "
        f"seeds that both have); it says nothing of other people."
    )
    lines = [
        words,
        "",
        f"| arm | seeds | {' | '.join(SHOWN.values())} | minus *{title}* |",
        "|---|---|" + "---|" * (len(SHOWN) + 1),
    ]
    base = found[reference]
    known = pool_seeds(
        {
            arm: {seed: float(100 * np.nanmean(one["moved"])) for seed, one in seeds.items()}
            for arm, seeds in found.items()
            if seeds
        }
    )
    for arm, seeds in found.items():
        if not seeds:
            continue
        cells = [
            f"{100 * np.mean([np.nanmean(one[name]) for one in seeds.values()]):.1f}"
            for name in SHOWN
        ]
        both = sorted(seeds.keys() & base.keys())
        last = ""
        if both and arm != reference:
            mine, theirs = (
                np.array([100 * _blocks(one[seed]["moved"]) for seed in both])
                for one in (seeds, base)
            )
            d = compare_paired(mine, theirs, None if {arm, reference} & known.odd else known)
            last = (
                f"{d.mean:+.1f}"
                if np.isnan(d.low)
                else f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"
            )
            last = (
                f"**{last}**" if d.significant and not config.claims else last
            ) + f" ({d.seeds})"
        lines.append(
            f"| {config.arms[arm].title or arm} | {len(seeds)} | "
            + " | ".join(cells)
            + f" | {last} |"
        )
    return "\n".join(lines)


def _values(one: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float64) for name, values in one["iou"].items()}


def _blocks(values: np.ndarray) -> np.ndarray:
    """Return the means of each BLOCK frames; the last may have fewer."""
    return np.array(
        [np.nanmean(values[first : first + BLOCK]) for first in range(0, len(values), BLOCK)]
    )

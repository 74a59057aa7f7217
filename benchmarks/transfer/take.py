"""Rows' meshes on real images: a take is seen by one camera and judged in the others; see
benchmarks/real.py."""

import json

import numpy as np

from benchmarks.transfer import plan
from benchmarks.transfer.stats import difference, of_seeds
from engine.errors import UserError

SHOWN = {
    "placed": "as placed by the network",
    "moved": "at the true depth",
    "mean placed": "mean body, as placed",
    "mean moved": "mean body, at the true depth",
}
BLOCK = 10  # frames that count as one clip: neighbours show nearly the same


def path_of(config, row):
    return plan.path_of(config, row).parent / "take" / f"{row.name}.json"


def measure(config):
    """Write a file for each fine-tuned row that has none yet.

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
    from benchmarks import real, silhouettes

    there = [
        row
        for row in plan.rows(config)
        if plan.path_of(config, row).is_file() and plan.finetune_folder(config, row).is_dir()
    ]
    todo = [row for row in there if not path_of(config, row).is_file()]
    if not there:
        raise UserError(f"{config.work}/{config.name} has no fine-tuned run of a finished row")
    if not todo:
        return
    take = silhouettes.prepare(
        config.take.videos, config.take.calibration, config.take.track, every=config.take.every
    )
    print(real.describe(take))
    for row in todo:
        found = real.measure(str(plan.finetune_folder(config, row)), take)
        shown = {
            name: [
                None if np.isnan(value) else round(float(value), 4)
                for value in real.others(found["rows"][name])
            ]
            for name in SHOWN
        }
        plan.write(
            path_of(config, row),
            {
                "format": 1,
                "arm": row.arm,
                "seed": row.seed,
                "share": row.share,
                "frames": found["frames"],
                "cameras": found["cameras"],
                "box": found["box"],
                "iou": shown,
            },
        )


def table(config):
    """Markdown, or None where there are no files: overlap in the other cameras, and differences
    from the reference arm, or from the first that has files.
    """
    there = {
        row: json.loads(path_of(config, row).read_text(encoding="utf-8"))
        for row in plan.rows(config)
        if path_of(config, row).is_file()
    }
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
        f"| arm | seeds | {' | '.join(SHOWN.values())} | less *{title}* |",
        "|---|---|" + "---|" * (len(SHOWN) + 1),
    ]
    base = found[reference]
    known = of_seeds(
        {
            arm: {seed: 100 * np.nanmean(one["moved"]) for seed, one in seeds.items()}
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
            d = difference(
                *([100 * _blocks(one[seed]["moved"]) for seed in both] for one in (seeds, base)),
                None if {arm, reference} & known.odd else known,
            )
            last = (
                f"{d.mean:+.1f}"
                if np.isnan(d.low)
                else f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"
            )
            last = (f"**{last}**" if d.tells else last) + f" ({d.seeds})"
        lines.append(
            f"| {config.arms[arm].title or arm} | {len(seeds)} | "
            + " | ".join(cells)
            + f" | {last} |"
        )
    return "\n".join(lines)


def _values(one):
    return {name: np.array(values, np.float64) for name, values in one["iou"].items()}


def _blocks(values):
    """Means of each BLOCK frames; the last may have fewer."""
    return np.array(
        [np.nanmean(values[first : first + BLOCK]) for first in range(0, len(values), BLOCK)]
    )

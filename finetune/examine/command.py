"""``python -m finetune examine``: where a network fails, as numbers, a sheet and shards."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.format.clip import Clip
from data.format.index import read_index
from data.format.shards import shard_name, write_shard
from data.people import make
from data.people.config import PeopleConfig, population
from data.people.steered import SteeredMaker
from engine.config.parser import flat, parse, parse_keys, save
from engine.errors import UserError
from engine.logging import progress
from engine.run.files import make_folder, write_file
from finetune.evaluation.metrics import measure_interval
from finetune.examine import sheet
from finetune.examine.config import FREE, ExamineConfig
from finetune.examine.judge import Examiner
from finetune.examine.ledger import FILE, Ledger
from finetune.examine.points import Point, Sample, list_errors
from finetune.examine.regions import (
    TEST,
    TRAIN,
    Region,
    cluster,
    count_inside,
    draw_fresh,
    find_probability,
)
from finetune.examine.search import Search, ask_in_batches, import_extra, search
from finetune.inference.predictor import Predictor

COMMAND = "finetune examine"
SHOWN = 6  # parameters of a region that are told
KEYS = "examine.yaml"
UNITS = {"pck": "% missed"}


def main(argv: Sequence[str]) -> int:
    """``python -m finetune examine``; returns the exit code.

    Raises:
        UserError: a bad key, a folder of another search, a run that cannot be examined.
    """
    config, _ = parse_keys(ExamineConfig, argv, COMMAND)
    for name in ("cma", "scipy.special"):
        import_extra(name)
    out = Path(config.out)
    make_folder(out, f"out={out}")
    claim_folder(config, out)
    predictor = Predictor(config.run, config.device).require_mesh("examine")
    maker = SteeredMaker(read_people(config, predictor), make.choose_device(config.device))
    examiner = Examiner(predictor, maker, config.error, config.given, config.visible_min)
    most = config.random + config.niches * (config.budget + len(maker.names))
    with progress.bar(most, "sample", description="examining") as bar:
        ledger = Ledger(out / FILE, _count(examiner.ask, bar.update))
        found = search(ledger, len(maker.names), config)
        regions = cluster(found.niches, found.limit)
        fresh = [_ask_fresh(ledger, region, n, config) for n, region in enumerate(regions)]
    tree = describe(config, maker, found, regions, fresh)
    tree["command"] = f"python -m {COMMAND} {shlex.join(argv)}"
    write_file(out / "examine.json", json.dumps(tree, indent=1))
    table = list_table(tree)
    write_file(out / "table.md", table + "\n")
    if regions:
        draw_regions(out / "sheet.png", examiner, tree, regions, fresh)
        write_regions(out, maker, regions, config)
    print(table)
    print(f"wrote {out}")
    return 0


def claim_folder(config: ExamineConfig, out: Path) -> None:
    """Note the keys in the folder; raises UserError where they are those of another search."""
    path = out / KEYS
    if path.exists() and (out / FILE).exists():  # a try that looked at nothing claims nothing
        there = flat(parse(ExamineConfig, [str(path)], COMMAND))
        for name, value in flat(config).items():
            if name not in FREE and there[name] != value:
                raise UserError(
                    f"{name}={value} here, but {path} is of a search with {name}={there[name]}; "
                    f"name another folder with out="
                )
    save(config, path, COMMAND)


def read_people(config: ExamineConfig, predictor: Predictor) -> PeopleConfig:
    """Return the config of what is searched: clips of one crop.

    Raises:
        UserError: it is of hands where the run recovers bodies, or the other way round.
    """
    kind = predictor.body.kind
    named = config.people or f"people_{kind}"
    words = [named, f"out={config.out}", f"seed={config.seed}", f"size={config.size}"]
    people = parse(PeopleConfig, [*words, "instants=1", "cameras=2"], make.COMMAND)
    if people.kind != kind:
        raise UserError(
            f"people={named} shows kind={people.kind}, and {config.run} recovers {kind}"
        )
    make.mark_folders(people)
    return dataclasses.replace(people, cameras=1)


def _count(
    ask: Callable[[Sequence[Point]], list[Sample]], done: Callable[[int], Any]
) -> Callable[[Sequence[Point]], list[Sample]]:
    def ask_and_count(points: Sequence[Point]) -> list[Sample]:
        samples = ask(points)
        done(len(samples))
        return samples

    return ask_and_count


def _ask_fresh(ledger: Ledger, region: Region, number: int, config: ExamineConfig) -> list[Sample]:
    points = draw_fresh(region, number, config.fresh, TEST, config.spread, config.seed)
    return ask_in_batches(ledger, points)


def describe(
    config: ExamineConfig,
    maker: SteeredMaker,
    found: Search,
    regions: Sequence[Region],
    fresh: Sequence[Sequence[Sample]],
) -> dict[str, Any]:
    """Return the dict of examine.json; see docs/examine.md."""
    unit = UNITS.get(config.error, "mm")
    tree: dict[str, Any] = {"format": 1, "run": config.run, "error": config.error, "unit": unit}
    tree |= {"given": config.given, "parameters": maker.names, "limit": found.limit}
    tree["random"] = _summarise(found.random, found.limit)
    tree["regions"] = []
    for region, samples in zip(regions, fresh, strict=True):
        worst = region.worst
        tree["regions"].append(
            {
                "niches": region.niches,
                "worst": max(found.niches[n].best.error or 0.0 for n in region.niches),
                "error": worst.simple.error,
                "index": worst.simple.point.index,
                "latents": list(worst.simple.point.latents),
                "fresh": _summarise(samples, found.limit),
                "random_inside": count_inside(region, found.random, config.spread),
                "probability": find_probability(region, config.spread),
                "differs": tell_parameters(region, maker),
                "posture": tell_posture(region, maker),
            }
        )
    return tree


def tell_parameters(region: Region, maker: SteeredMaker) -> list[dict[str, Any]]:
    """Return what a region needs, by how much smaller the error is without it."""
    worst = region.worst
    order = np.argsort(-np.where(worst.kept, worst.costs, -np.inf), kind="stable")
    return [
        {
            "name": maker.names[i],
            "latent": float(worst.simple.point.array[i]),
            "costs": float(worst.costs[i]),
        }
        for i in order[: worst.kept.sum()]
    ]


def tell_posture(region: Region, maker: SteeredMaker) -> list[dict[str, Any]]:
    """Return the angles that are farthest from ordinary, where the region needs a posture."""
    count = len(maker.poses.axes.T)
    kept = region.worst.kept[:count]
    if not kept.any():
        return []
    latents = np.where(kept, region.worst.simple.point.array[:count], 0.0)
    angles = maker.poses.explain(latents)
    order = sorted(angles, key=lambda name: -abs(angles[name][0]))[:SHOWN]
    return [{"name": n, "latent": angles[n][0], "degrees": angles[n][1]} for n in order]


def _summarise(samples: Sequence[Sample], limit: float) -> dict[str, Any]:
    errors = list_errors(samples)
    if not len(errors):
        return {"count": len(samples), "judged": 0}
    out: dict[str, Any] = {"count": len(samples), "judged": len(errors)}
    out |= measure_interval(errors, np.arange(len(errors)), "errors")
    out |= {"p95": float(np.percentile(errors, 95)), "max": float(errors.max())}
    failed = (errors > limit).astype(float)
    out["failed"] = measure_interval(failed, np.arange(len(errors)), "failed")
    return out


def list_table(tree: dict[str, Any]) -> str:
    """Return the table of examine.json as Markdown."""
    unit, random = tree["unit"], tree["random"]
    lines = [
        f"| {tree['error']}, {unit} | samples | mean | 95th percentile | max | failures "
        f"(> {tree['limit']:.0f}) | one random sample in | found | needs |",
        "|" + "---|" * 9,
        _row("random samples", random, "", "", ""),
    ]
    for number, region in enumerate(tree["regions"], 1):
        share = region["probability"]
        rare = f"{1 / share:.0f} ({region['random_inside']} of {random['count']})" if share else "-"
        words = tell_words(region)
        worst = f"{region['worst']:.0f}"
        lines.append(_row(f"region {number}, new samples", region["fresh"], rare, worst, words))
    if not tree["regions"]:
        lines.append("\nNo failure that the parameters explain was found.")
    return "\n".join(lines)


def _row(name: str, values: dict[str, Any], rare: str, worst: str, words: str) -> str:
    if not values["judged"]:
        return f"| {name} | 0 of {values['count']} |  |  |  |  | {rare} | {worst} | {words} |"
    failed = values["failed"]["mean"]
    cells = [name, str(values["judged"]), _word(values), f"{values['p95']:.0f}"]
    cells += [f"{values['max']:.0f}", f"{failed:.0%}", rare, worst, words]
    return "| " + " | ".join(cells) + " |"


def _word(values: dict[str, Any]) -> str:
    if values["low"] is None:
        return f"{values['mean']:.1f}"
    return f"{values['mean']:.1f} [{values['low']:.1f}, {values['high']:.1f}]"


def tell_words(region: dict[str, Any]) -> str:
    """Return what a region needs in a line: latents, 1 is a standard deviation from ordinary."""
    parts = [f"{one['name']} {one['latent']:+.1f}" for one in region["differs"][:SHOWN]]
    more = len(region["differs"]) - SHOWN
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def draw_regions(
    path: Path,
    examiner: Examiner,
    tree: dict[str, Any],
    regions: Sequence[Region],
    fresh: Sequence[Sequence[Sample]],
) -> None:
    """Write the contact sheet."""
    rows = []
    for region, told, samples in zip(regions, tree["regions"], fresh, strict=True):
        points = [region.worst.simple.point, *(s.point for s in samples[: sheet.NEW])]
        failure, *others = examiner.look(points)
        lines = [f"{tree['error']} {told['error']:.0f} {tree['unit']}; new samples: "
                 f"{_word(told['fresh']) if told['fresh']['judged'] else '-'}; random: "
                 f"{_word(tree['random'])}", f"needs {tell_words(told)}"]  # fmt: skip
        angles = [f"{a['name']} {a['degrees']:.0f}° ({a['latent']:+.1f})" for a in told["posture"]]
        if angles:
            lines.append("posture: " + ", ".join(angles))
        rows.append(sheet.Row(failure, others, lines))
    title = f"Where {tree['run']} fails: {tree['error']}, {tree['unit']}"
    sheet.draw_sheet(rows, title, tree["unit"]).save(path)


def write_regions(
    out: Path, maker: SteeredMaker, regions: Sequence[Region], config: ExamineConfig
) -> None:
    """Write new samples of each region as shards: OUT/test those of the table, OUT/train others."""
    for folder, first, count in (("test", TEST, config.fresh), ("train", TRAIN, config.variations)):
        if not count:
            continue
        make_folder(out / folder, f"out={out}")
        for number, region in enumerate(regions):
            points = draw_fresh(region, number, count, first, config.spread, config.seed)
            path = out / folder / shard_name(number)
            if not path.exists() or len(read_index(str(path))) < count:
                write_shard(str(path), _make_clips(maker, points))


def _make_clips(maker: SteeredMaker, points: Sequence[Point]) -> Iterator[Clip]:
    with progress.bar(len(points), "clip", description="writing") as bar:
        for point in points:
            name = f"{population(maker.config)}-{point.index}"
            yield maker.make_clip(point.index, point.array, name)
            bar.update()

"""``python -m finetune examine``: where a network fails, as numbers, a sheet and shards."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.bodies.models import open_model
from data.format.index import read_index
from data.format.shards import shard_name, write_samples
from data.people import make
from data.people.config import PeopleConfig
from data.people.steered import SteeredMaker, Steering
from data.people.steered_scene import SteeredSceneMaker
from engine.config.parser import flat, parse, parse_keys, save
from engine.errors import UserError
from engine.logging import progress
from engine.run.files import make_folder, write_file
from finetune.evaluation.metrics import measure_interval
from finetune.evaluation.scene.answers import CropPath, open_body_predictor
from finetune.examine import scene_sheet, sheet
from finetune.examine.config import ERRORS, FREE, SCENE_ERRORS, ExamineConfig
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
from finetune.examine.scene_judge import SceneExaminer
from finetune.examine.search import Search, ask_in_batches, import_extra, search
from finetune.inference.predictor import Predictor
from finetune.inference.search import open_searcher
from finetune.scene.network_file import is_scene
from finetune.scene.predictor import ScenePredictor

COMMAND = "finetune examine"
SHOWN = 6  # parameters of a region that are told
KEYS = "examine.yaml"
UNITS = {"pck": "% missed", "missed": "% missed or false"}
CROP_SIZE, SCENE_SIZE = 160, 448  # where size= is not set
BODY = "anny"  # whose labels synthetic scenes have


def main(argv: Sequence[str]) -> int:
    """``python -m finetune examine``; returns the exit code.

    Raises:
        UserError: a bad key, a folder of another search, a run that cannot be examined.
    """
    config, _ = parse_keys(ExamineConfig, argv, COMMAND)
    for name in ("cma", "scipy.special"):
        import_extra(name)
    config = choose_keys(config)
    out = Path(config.out)
    make_folder(out, f"out={out}")
    claim_folder(config, out)
    examiner = open_scenes(config) if config.scenes else open_crops(config)
    maker = examiner.maker
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
        write_regions(out, examiner, regions, config)
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


def choose_keys(config: ExamineConfig) -> ExamineConfig:
    """Return the keys with what the run decides: whether scenes are searched, error and size.

    Raises:
        UserError: an error of crops where scenes are searched, or the other way round.
    """
    scenes = config.scenes or is_scene(config.run)
    errors = SCENE_ERRORS if scenes else ERRORS
    what = "scenes" if scenes else "crops"
    error = config.error or errors[0]
    if error not in errors:
        raise UserError(f"error={error} is none of {what}, which have {', '.join(errors)}")
    if scenes and config.given:
        raise UserError("given=true is of crops, and scenes are searched")
    size = config.size or (SCENE_SIZE if scenes else CROP_SIZE)
    return dataclasses.replace(config, scenes=scenes, error=error, size=size)


def open_crops(config: ExamineConfig) -> Examiner:
    """Return what makes crops of single people and judges a run by them."""
    predictor = Predictor(config.run, config.device).require_mesh("examine")
    people = read_people(config, predictor.body.kind)
    maker = SteeredMaker(people, make.choose_device(config.device))
    return Examiner(predictor, maker, config.error, config.given, config.visible_min)


def open_scenes(config: ExamineConfig) -> SceneExaminer:
    """Return what makes scenes and judges by them a network for scenes, or a finder with crops."""
    if is_scene(config.run):
        find = ScenePredictor(config.run, config.device)
    else:
        predictor = open_body_predictor(config.run, config.device, "examine scenes=true")
        find = CropPath(predictor, open_searcher(("body",), predictor.config.head.prompt_mask))
    maker = SteeredSceneMaker(read_people(config, "scene"), make.choose_device(config.device))
    return SceneExaminer(find, open_model(BODY), maker, config.error, config.visible_min)


def read_people(config: ExamineConfig, kind: str) -> PeopleConfig:
    """Return the config of what is searched: clips of one crop, or scenes of one frame.

    Args:
        kind: "body", "hand" or "scene".
    Raises:
        UserError: it is of another kind.
    """
    named = config.people or ("scene" if kind == "scene" else f"people_{kind}")
    words = [named, f"out={config.out}", f"seed={config.seed}", f"size={config.size}", "instants=1"]
    words += [] if kind == "scene" else ["cameras=2"]
    people = parse(PeopleConfig, words, make.COMMAND)
    if people.kind != kind:
        does = "is searched for scenes" if kind == "scene" else f"recovers {kind}"
        raise UserError(f"people={named} shows kind={people.kind}, and {config.run} {does}")
    make.mark_folders(people)
    return people if kind == "scene" else dataclasses.replace(people, cameras=1)


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
    maker: Steering,
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


def tell_parameters(region: Region, maker: Steering) -> list[dict[str, Any]]:
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


def tell_posture(region: Region, maker: Steering) -> list[dict[str, Any]]:
    """Return the angles that are farthest from ordinary, where the region needs a posture."""
    if maker.poses is None:
        return []
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
        inside = f"({region['random_inside']} of {random['count']})"
        rare = f"{_count_word(1 / share)} {inside}" if share else "-"
        words = tell_words(region)
        worst = f"{region['worst']:.0f}"
        lines.append(_row(f"region {number}, new samples", region["fresh"], rare, worst, words))
    if not tree["regions"]:
        lines.append("\nNo failure that the parameters explain was found.")
    return "\n".join(lines)


def _count_word(count: float) -> str:
    return f"{count:,.0f}" if count < 1e9 else f"{count:.0e}"


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
    examiner: Examiner | SceneExaminer,
    tree: dict[str, Any],
    regions: Sequence[Region],
    fresh: Sequence[Sequence[Sample]],
) -> None:
    """Write the contact sheet."""
    title = f"Where {tree['run']} fails: {tree['error']}, {tree['unit']}"
    shown = zip(regions, tree["regions"], fresh, strict=True)
    if isinstance(examiner, SceneExaminer):
        scenes = []
        for region, told, samples in shown:
            failure, *others = examiner.look(_list_shown(region, samples, scene_sheet.NEW))
            scenes.append(scene_sheet.SceneRow(failure, others, _tell_lines(tree, told)))
        scene_sheet.draw_scene_sheet(scenes, title, tree["unit"]).save(path)
        return
    rows = []
    for region, told, samples in shown:
        failed, *new = examiner.look(_list_shown(region, samples, sheet.NEW))
        rows.append(sheet.Row(failed, new, _tell_lines(tree, told)))
    sheet.draw_sheet(rows, title, tree["unit"]).save(path)


def _list_shown(region: Region, samples: Sequence[Sample], new: int) -> list[Point]:
    return [region.worst.simple.point, *(sample.point for sample in samples[:new])]


def _tell_lines(tree: dict[str, Any], told: dict[str, Any]) -> list[str]:
    """The lines below a region's images."""
    lines = [f"{tree['error']} {told['error']:.0f} {tree['unit']}; new samples: "
             f"{_word(told['fresh']) if told['fresh']['judged'] else '-'}; random: "
             f"{_word(tree['random'])}", f"needs {tell_words(told)}"]  # fmt: skip
    angles = [f"{a['name']} {a['degrees']:.0f}° ({a['latent']:+.1f})" for a in told["posture"]]
    return [*lines, "posture: " + ", ".join(angles)] if angles else lines


def write_regions(
    out: Path,
    examiner: Examiner | SceneExaminer,
    regions: Sequence[Region],
    config: ExamineConfig,
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
                write_samples(str(path), _make_samples(examiner, points))


def _make_samples(
    examiner: Examiner | SceneExaminer, points: Sequence[Point]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    with progress.bar(len(points), "sample", description="writing") as bar:
        for point in points:
            yield examiner.make_sample(point)
            bar.update()

"""Images a second by number of people: everybody at once beside a finder and a crop a person.

    python benchmarks/scenes.py frames=DIR [crops=body] [scene=RUN] [out=FILE.png] [each=6]
        [rounds=3] [most=10] [find=true]

``frames`` are labelled whole frames (docs/scenes.md); ``each`` of them are taken for each number of
people who count (shown by a tenth or more), up to ``most``. Of the crop path the time is that of
searching the frame, of recovering so many people from crops, by their true boxes and keypoints so
that their number is exact, and of moving them onto the keypoints as ``predict`` does. Without
``scene`` the crop path is timed alone; ``find=false`` leaves out the finder, which then takes none.

All on one core, in turns on the same frames in one run; times are CPU seconds of the process, which
other processes on the machine change little. The least of ``rounds`` counts of each frame. Lines
are fitted over frames by least squares; intervals are 95 % by bootstrap over frames.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.options import read_options
from data.bodies.base import BodyModel
from data.sampling.seen import Seen
from engine.cli import run
from engine.errors import UserError
from finetune.evaluation.scene.answers import KIND, CropPath, list_true_regions, open_body_predictor
from finetune.evaluation.scene.truth import TrueFrame, open_frames
from finetune.inference.search import open_searcher
from finetune.scene.found import FindEverybody
from finetune.scene.predictor import ScenePredictor

OPTIONS = {
    "frames": "",
    "crops": "body",
    "scene": "",
    "out": "",
    "each": "6",
    "rounds": "3",
    "most": "10",
    "find": "true",
}
SHOWN_MIN = 0.1
DRAWS = 1000
STAGES = ("find", "recover", "refine", "scene")
COLOURS = {"crops": "#d97706", "unrefined": "#f3c27a", "scene": "#2563eb"}
LABELS = {
    "crops": "finder and crops, refined",
    "unrefined": "finder and crops",
    "scene": "everybody at once",
}


@dataclass(eq=False)
class Timed:
    """Least CPU seconds of each stage of one frame.

    Attributes:
        people: who count.  found: by the network for scenes.
    """

    people: int
    found: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, np.inf))

    def measure(self, stage: str, act: Callable[[], object]) -> object:
        """Return what ``act`` returns; keep its time where it is the least so far."""
        start = time.process_time()
        answer = act()
        self.seconds[stage] = min(self.seconds[stage], time.process_time() - start)
        return answer


def choose_frames(shards: str, each: int, most: int, body: BodyModel) -> list[TrueFrame]:
    """Return up to ``each`` frames of each number of people who count, from 1 to ``most``."""
    left = dict.fromkeys(range(1, most + 1), each)
    chosen = []
    for true in open_frames(shards, Seen(), 1_000_000).read(body, SHOWN_MIN):
        count = sum(person.counts for person in true.people)
        if left.get(count):
            left[count] -= 1
            chosen.append(true)
        if not any(left.values()):
            break
    if not chosen:
        raise UserError(f"frames={shards}: no frame has 1 to {most} people who count")
    return chosen


def time_frames(
    frames: Sequence[TrueFrame], path: CropPath, scene: FindEverybody | None, rounds: int
) -> list[Timed]:
    """Return the times of each frame, both paths in turn."""
    regions = [list_true_regions(true) for true in frames]
    out = [Timed(len(one)) for one in regions]
    for number in range(rounds + 1):
        for true, asked, timed in zip(frames, regions, out, strict=True):
            # What is done once and kept, such as a first use of a shape, is done before.
            kept = timed if number else Timed(0)
            if path.finder is not None:
                kept.measure("find", lambda true=true: path.find(true.image))
            found = path.recover(true.image, asked, true.K)
            kept.measure(
                "recover", lambda true=true, asked=asked: path.recover(true.image, asked, true.K)
            )
            kept.measure("refine", lambda found=found, asked=asked: path.refine(found, asked))
            if scene is not None:
                told = kept.measure("scene", lambda true=true: scene(true.image, true.K))
                timed.found = len(told) if isinstance(told, list) else 0
    for timed in out:
        timed.seconds = {k: v if np.isfinite(v) else 0.0 for k, v in timed.seconds.items()}
    return out


def sum_paths(timed: Sequence[Timed]) -> dict[str, np.ndarray]:
    """Return {path: (n,) seconds}."""
    stages = {name: np.array([one.seconds[name] for one in timed]) for name in STAGES}
    unrefined = stages["find"] + stages["recover"]
    return {
        "unrefined": unrefined,
        "crops": unrefined + stages["refine"],
        "scene": stages["scene"],
    }


def fit_line(people: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Return (seconds of an image, seconds of each person more) by least squares."""
    slope, start = np.polyfit(people, seconds, 1) if len(set(people)) > 1 else (0.0, seconds.mean())
    return float(start), float(slope)


def find_crossing(people: np.ndarray, crops: np.ndarray, scene: np.ndarray) -> float:
    """Return from how many people on the network for scenes takes less; NaN where never."""
    (a, b), (c, d) = fit_line(people, crops), fit_line(people, scene)
    if c <= a:
        return 0.0
    return (c - a) / (b - d) if b > d else float("nan")


def draw(
    count: int, statistic: Callable[[np.ndarray], float], random: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic of the rows that are drawn."""
    values = np.array([statistic(random.integers(count, size=count)) for _ in range(DRAWS)])
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def summarise(timed: Sequence[Timed]) -> dict:
    """Return rows by number of people, fitted lines, and where they cross."""
    people = np.array([one.people for one in timed])
    paths, random = sum_paths(timed), np.random.default_rng(0)
    there = bool(paths["scene"].any())
    rows = []
    for count in sorted(set(people.tolist())):
        mine = np.flatnonzero(people == count).tolist()
        row: dict[str, object] = {"people": count, "frames": len(mine)}
        row |= {name: float(np.median([timed[i].seconds[name] for i in mine])) for name in STAGES}
        if there:
            row["found"] = float(np.mean([timed[i].found for i in mine]))
            for name in ("crops", "unrefined"):
                top, below = (paths[one][mine] for one in (name, "scene"))
                row[f"{name}_over_scene"] = [
                    float(top.sum() / below.sum()),
                    *draw(
                        len(mine),
                        lambda rows, top=top, below=below: top[rows].sum() / below[rows].sum(),
                        random,
                    ),
                ]
        rows.append(row)
    shown = ("crops", "unrefined", "scene") if there else ("crops", "unrefined")
    out: dict = {"rows": rows, "lines": {name: fit_line(people, paths[name]) for name in shown}}
    if there:
        out["crossings"] = {
            name: [
                find_crossing(people, paths[name], paths["scene"]),
                *draw(
                    len(people),
                    lambda rows, name=name: find_crossing(
                        people[rows], paths[name][rows], paths["scene"][rows]
                    ),
                    random,
                ),
            ]
            for name in ("crops", "unrefined")
        }
    return out


def describe(found: Mapping) -> str:
    """Return the table and the sentences to print."""
    there = "crossings" in found
    head = "| people | frames | find ms | recover ms | refine ms | crops, images/s |"
    lines = [head + (" at once ms | images/s | people found | crops / at once |" if there else "")]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for row in found["rows"]:
        total = row["find"] + row["recover"] + row["refine"]
        cells = [row["people"], row["frames"], *(f"{1000 * row[k]:.0f}" for k in STAGES[:3])]
        cells.append(f"{1 / total:.2f}")
        if there:
            ratio, low, high = row["crops_over_scene"]
            cells += [f"{1000 * row['scene']:.0f}", f"{1 / row['scene']:.2f}"]
            cells += [f"{row['found']:.1f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for name, (start, slope) in found["lines"].items():
        each = f"{1000 * start:.0f} ms an image and {1000 * slope:.0f} ms a person"
        lines.append(f"{LABELS[name]}: {each}")
    for name, (at, low, high) in found.get("crossings", {}).items():
        where = (
            "takes less time at any number" if at == 0 else f"takes less from {at:.1f} people on"
        )
        words = "never takes less" if np.isnan(at) else f"{where} [{low:.1f}, {high:.1f}]"
        lines.append(f"everybody at once {words}, beside {LABELS[name]}")
    return "\n".join(lines)


def draw_figure(timed: Sequence[Timed], found: Mapping, path: Path) -> None:
    """Write a PNG: CPU seconds of an image by its number of people; each frame a dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    people, paths = np.array([one.people for one in timed]), sum_paths(timed)
    ends = np.array([people.min(), people.max()])
    rows = found["rows"]
    counts = [row["people"] for row in rows]
    for name, (start, slope) in found["lines"].items():
        left.plot(people, 1000 * paths[name], ".", color=COLOURS[name], alpha=0.5)
        label, line = LABELS[name], 1000 * (start + slope * ends)
        left.plot(ends, line, "-", color=COLOURS[name], label=label)
        medians = [np.median(paths[name][people == count]) for count in counts]
        right.plot(counts, 1 / np.array(medians), "o-", color=COLOURS[name], label=label)
    for name, (at, *_) in found.get("crossings", {}).items():
        if ends[0] <= at <= ends[1]:
            left.axvline(at, color=COLOURS[name], linestyle=":", linewidth=1)
    left.set(xlabel="people in the frame", ylabel="ms of one core an image", ylim=(0, None))
    right.set(xlabel="people in the frame", ylabel="images a second of one core", ylim=(0, None))
    left.legend(frameon=False, loc="upper left")
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    with open(path, "wb") as file:
        canvas.print_png(file)


def main(words: list[str]) -> int:
    """Print the table; returns the exit code."""
    options = read_options(words, OPTIONS)
    if not options["frames"]:
        raise UserError("frames= is not set: name whole frames, such as data make scene writes")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    predictor = open_body_predictor(options["crops"], "cpu", "this benchmark")
    masks = predictor.config.head.prompt_mask
    finder = open_searcher((KIND,), masks) if options["find"] == "true" else None
    path = CropPath(predictor, finder)
    scene = ScenePredictor(options["scene"], "cpu", "scene") if options["scene"] else None
    each, most = int(options["each"]), int(options["most"])
    frames = choose_frames(options["frames"], each, most, predictor.body)
    timed = time_frames(frames, path, scene, int(options["rounds"]))
    found = summarise(timed)
    print(describe(found))
    if options["out"]:
        out = Path(options["out"])
        draw_figure(timed, found, out)
        out.with_suffix(".json").write_text(json.dumps(found, indent=1))
        print(f"wrote {out} and {out.with_suffix('.json').name}")
    return 0


if __name__ == "__main__":
    run(main)

"""``python -m finetune evaluate`` of whole frames: who is found in them, and how well."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data.bodies.models import open_model
from data.config import FrameDataConfig
from data.sampling.manifest import read_manifest
from data.sampling.seen import Seen, leak_warnings
from data.storage.shard_store import Store
from engine.config.parser import flat, parse
from engine.config.paths import refuse_commands
from engine.distributed import hardware
from engine.errors import UserError
from engine.logging import progress
from engine.run.files import make_folder
from engine.run.run_folder import RunFolder, step_of
from finetune.config import FinetuneConfig
from finetune.evaluation.scene.answers import (
    KIND,
    LEAST_SCORE,
    Answer,
    CropPath,
    give_image,
    give_regions,
    is_scene_run,
    open_body_predictor,
)
from finetune.evaluation.scene.draw import draw_frame
from finetune.evaluation.scene.frame_scores import FrameJudge, FrameScores
from finetune.evaluation.scene.results import (
    FORMAT,
    read_sums,
    refuse_other_frames,
    write_results,
)
from finetune.evaluation.scene.sums import METRICS, SceneSums, add_up, compare, summarise
from finetune.evaluation.scene.truth import FrameSet, open_frames
from finetune.inference.predictor import find_checkpoint
from finetune.inference.search import open_searcher
from finetune.released.locate import locate_network
from finetune.results_folder import find_results_folder
from finetune.scene.predictor import THRESHOLD, ScenePredictor
from finetune.verb_config import EvaluateConfig
from pretrain import header

BODY = "anny"


@dataclass(eq=False)
class Asked:
    """What is evaluated.

    Attributes:
        answer: gives everybody who is found in a frame.
        words: what answers, for people.  step: of the training, None where nobody knows.
        seen: what the weights saw.
    """

    answer: Answer
    words: str
    step: int | None
    seen: Seen


def shows_frames(config: EvaluateConfig) -> bool:
    """Return whether a run is judged by whole frames: it is a network for them, or they are named.

    Raises:
        UserError: there is no such run.
    """
    if config.protocol:
        return False
    if is_scene_run(config.run):
        return True
    if not config.data.shards:
        return False
    store = Store(FrameDataConfig().cache.open())
    return read_manifest("data", config.data.shards, 0, 0, store).frames


def evaluate_scenes(config: EvaluateConfig, command: str) -> dict[str, Any]:
    """Return the dict of scenes.json (docs/scenes.md); writes it, the sums and the drawings.

    Args:
        command: what was typed.
    Raises:
        UserError: a run that does not answer to frames, no frames, or results beside of others.
    """
    refuse_other_keys(config)
    folder = find_results_folder(config)
    beside = read_sums(Path(config.beside)) if config.beside else None
    asked, shards = open_run(config), choose_shards(config)
    frames = open_frames(shards, asked.seen, config.clips)
    make_folder(folder, f"out={folder}")
    sums = add_up(judge_frames(config, asked.answer, frames, folder))
    found: dict[str, Any] = {
        "format": FORMAT,
        "run": config.run,
        "answers": asked.words,
        "step": asked.step,
        "shards": shards,
        "frames": len(sums.frames),
        "scenes": len(sums.scenes),
        "shown_min": config.scene.shown_min,
        "command": command,
        "machine": hardware.describe(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "metrics": [
            {"key": key, "name": name, "unit": unit, "better": better}
            for key, (name, unit, better) in METRICS.items()
        ],
        "rows": summarise(sums),
        "notes": [*frames.notes, *leak_warnings(asked.seen, config.run)],
    }
    if beside is not None:
        found |= _set_beside(config, sums, *beside)
    write_results(folder, found, sums)
    return found


def _set_beside(
    config: EvaluateConfig, sums: SceneSums, run: str, other: SceneSums
) -> dict[str, Any]:
    refuse_other_frames(
        sums, other, (f"data.shards={config.data.shards}", f"beside={config.beside}")
    )
    return {
        "beside": {"folder": config.beside, "run": run, "rows": summarise(other)},
        "differences": compare(sums, other),
    }


def open_run(config: EvaluateConfig) -> Asked:
    """Return what answers to frames.

    Raises:
        UserError: the run does not recover anny's bodies, or a finder is missing.
    """
    if is_scene_run(config.run):
        return _open_scene(config)
    keys = config.scene
    predictor = open_body_predictor(config.run, config.device, "evaluate of whole frames")
    seen, step = header.read_seen(predictor.checkpoint), predictor.step
    refined = ", refined" if keys.refine else ""
    if keys.perfect_finder:
        path = CropPath(predictor, None, refine=keys.refine)
        words = f"a perfect finder and crops{refined}"
        return Asked(give_regions(path, keys.intrinsics), words, step, seen)
    finder = open_searcher((KIND,), predictor.config.head.prompt_mask)
    least = LEAST_SCORE if keys.least_score is None else keys.least_score
    path = CropPath(predictor, finder, least, keys.refine)
    words = f"a finder and crops{refined}"
    return Asked(give_image(path, keys.intrinsics), words, step, seen)


def _open_scene(config: EvaluateConfig) -> Asked:
    keys = config.scene
    if keys.perfect_finder:
        raise UserError(f"scene.perfect_finder=true: run={config.run} finds people without boxes")
    threshold = THRESHOLD if keys.least_score is None else keys.least_score
    find = ScenePredictor(config.run, config.device, threshold=threshold)
    seen, step = header.read_seen(find.checkpoint), step_of(find.checkpoint.resolve().parent.name)
    words = "everybody at once"
    return Asked(give_image(find, keys.intrinsics), words, step, seen)


def choose_shards(config: EvaluateConfig) -> str:
    """Return the shards that are named, or those of a network for scenes.

    Raises:
        UserError: nobody knows the run's, or they are commands that are not to be run.
    """
    if config.data.shards:
        return config.data.shards
    place = locate_network(config.run)
    if place.is_file():
        raise UserError(
            f"run={config.run} is weights alone, whose shards nobody knows: set data.shards="
        )
    folder, _ = find_checkpoint(place, "run")
    path = RunFolder(folder).config
    data = parse(FinetuneConfig, [str(path)], "finetune train").data
    of_run = {f"data.{name}": value for name, value in flat(data).items()}
    refuse_commands(of_run, set(), str(path), config.allow_commands)
    return ",".join(source.shards for source in data.named().values())


def refuse_other_keys(config: EvaluateConfig) -> None:
    """UserError where a key is set that means nothing for whole frames."""
    for name in ("without", "attack"):
        if getattr(config, name):
            raise UserError(
                f"{name}={getattr(config, name)} is of crops, and "
                f"data.shards={config.data.shards} holds whole frames"
            )


def list_numbers(found: dict[str, Any]) -> dict[str, float]:
    """Return {"evaluation/METRIC": value} of everybody, for the run's log."""
    values = found["rows"][0]["values"]
    return {
        f"evaluation/{key}": value["mean"]
        for key, value in values.items()
        if value["mean"] is not None
    }


def judge_frames(
    config: EvaluateConfig, answer: Answer, frames: FrameSet, folder: Path
) -> list[FrameScores]:
    """Return what became of each frame; the first ones are drawn.

    Raises:
        UserError: nobody in the frames counts.
    """
    body = open_model(BODY)
    judge = FrameJudge(body)
    scores: list[FrameScores] = []
    with progress.bar(len(frames.places), "frame", description="evaluating") as bar:
        for true in frames.read(body, config.scene.shown_min):
            found = answer(true)
            scores.append(judge.judge(found, true))
            if len(scores) <= config.examples:
                drawn = draw_frame(true, found, scores[-1])
                Image.fromarray(drawn).save(folder / f"frame-{len(scores)}.png")
            bar.update()
    if not any(map(len, scores)):
        raise UserError(
            f"data.shards={config.data.shards}: nobody there is labelled by the body model "
            f"{BODY} and shown by scene.shown_min={config.scene.shown_min:g} or more"
        )
    return scores

"""``python -m finetune evaluate``: errors of a run on people it has not seen.

Beside the mean pose and no pre-training.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data.config import CropPairDataConfig
from data.cropping.geometry import word_size
from data.format.clip import MADE
from data.loading.build import people_at
from data.sampling.seen import Seen
from engine.config.parser import flat, parse_keys, resumable_keys
from engine.errors import UserError
from engine.run.files import make_folder
from engine.training import eval_jobs
from finetune.attack import Attack
from finetune.evaluation import tables
from finetune.evaluation.clips import PLACE, TestClips, collect, feed, open_test
from finetune.evaluation.image_judge import ImageJudge, summarise_answers, write_answers
from finetune.evaluation.judge import Judge
from finetune.evaluation.prompted import Prompted, list_prompted
from finetune.evaluation.results import (
    clear_folder,
    list_numbers,
    summarise_run,
    write_results,
)
from finetune.evaluation.run_protocol import evaluate_protocol
from finetune.evaluation.scene.command import evaluate_scenes, shows_frames
from finetune.evaluation.scene.command import list_numbers as list_scene_numbers
from finetune.evaluation.scene.results import describe
from finetune.evaluation.score import describe_scores, write_scores
from finetune.evaluation.selection import choose_data
from finetune.heads.image_head import ImageHead
from finetune.inference.image_answers import require_answers
from finetune.inference.predictor import Predictor
from finetune.results_folder import find_results_folder
from finetune.two_views.judge import PairJudge
from finetune.verb_config import EvaluateConfig
from pretrain import header


def main(argv: list[str]) -> int:
    """``python -m finetune evaluate``; returns the exit code."""
    config, _ = parse_keys(EvaluateConfig, argv, "finetune evaluate")
    checkpoint = eval_jobs.run_of(config.run)
    if config.log and checkpoint is None:
        raise UserError(
            f"log=true, but {config.run} is no checkpoint: RUN/checkpoints/step-X names one"
        )
    if config.protocol:
        return _print_protocol(config)
    command = "python -m finetune evaluate " + shlex.join(argv)
    if shows_frames(config):
        found = evaluate_scenes(config, command)
        print(describe(found))
        return _finish(config, checkpoint, list_scene_numbers(found), command)
    evaluation = evaluate(config, command)
    print(tables.table(evaluation))
    if "prompts" in evaluation:
        print(f"\n{list_prompted(evaluation)}\n")
    print("\n".join(evaluation["notes"]))
    return _finish(config, checkpoint, list_numbers(evaluation), command)


def _finish(
    config: EvaluateConfig,
    checkpoint: tuple[Path, int] | None,
    numbers: Mapping[str, float],
    command: str,
) -> int:
    """Say where the results are, and put the numbers into the run's log if that is wanted."""
    print(f"wrote {find_results_folder(config)}")
    if config.log and checkpoint is not None:
        run, step = checkpoint
        eval_jobs.note(run, step, numbers, command)
        eval_jobs.settle(run)
    return 0


def _print_protocol(config: EvaluateConfig) -> int:
    protocol, scores = evaluate_protocol(config)
    folder = find_results_folder(config)
    make_folder(folder, f"out={folder}")
    print(describe_scores(protocol, scores))
    path = folder / f"{config.protocol}.json"
    write_scores(str(path), config.protocol, protocol, scores)
    print(f"wrote {path}")
    return 0


def evaluate(config: EvaluateConfig, command: str) -> dict:
    """Returns the dict of evaluation.json (docs/finetuning.md).

    Writes it, the errors of each crop, meshes and images.

    Args:
        command: what was typed.
    Raises:
        UserError: runs that do not fit each other or the shards; clips without labels.
    """
    predictor = require_answers(Predictor(config.run, config.device), "evaluate")
    plain = _without(config, predictor) if config.without else None
    beside = _beside(config, predictor) if config.beside else None
    data = choose_data(config, predictor)
    seen = {
        name: header.read_seen(run.checkpoint)
        for name, run in (("model", predictor), ("scratch", plain), ("beside", beside))
        if run
    }
    test = open_test(data, predictor, list(seen.values()), config.clips)
    arrays, clips = test.arrays, test.clips
    folder = find_results_folder(config)
    clear_folder(folder)
    if isinstance(predictor.model.head, ImageHead):
        if config.attack:
            raise UserError(f"attack={config.attack:g}: run={config.run} recovers no mesh")
        answers = ImageJudge(predictor, {"scratch": plain, "beside": beside})
        feed(answers, test, predictor.device)
        return finish_answers(config, answers, test, command, seen)
    attack = Attack(config.attack) if config.attack else None
    if not isinstance(data, CropPairDataConfig):
        takes = predictor.config.head.prompts or predictor.config.head.prompt_mask
        prompted = Prompted(predictor) if takes else None
        judge = Judge(predictor, plain, test.masks, beside, attack, prompted)
    elif attack is None:
        judge = PairJudge(predictor, plain, test.masks, beside)
    else:
        raise UserError(f"attack={config.attack:g}: run={config.run} is of two views")
    judge.made = all(
        source == MADE
        for source, _ in people_at(test.order, data, np.unique(arrays["tags"][:, PLACE], axis=0))
    )
    feed(judge, test, predictor.device)
    found = collect(judge)
    evaluation = summarise_run(config, predictor, judge, found, clips, command, seen)
    evaluation["notes"] += test.notes
    write_results(folder, evaluation, config.examples, arrays, found, clips, judge)
    return evaluation


def finish_answers(
    config: EvaluateConfig,
    judge: ImageJudge,
    test: TestClips,
    command: str,
    seen: Mapping[str, Seen],
) -> dict:
    """Returns the dict of answers.json (docs/maps.md), which is written.

    Args:
        judge: of a head without a mesh, that has seen all crops.
        command: what was typed.  seen: {row: what its weights saw}.
    """
    found = judge.finish()
    evaluation = summarise_answers(config, judge, found, test.clips, command, seen)
    evaluation["notes"] += test.notes
    write_answers(find_results_folder(config), evaluation, found, test.clips, judge.drawn)
    return evaluation


def _beside(config: EvaluateConfig, predictor: Predictor) -> Predictor:
    """The Predictor of another network, after a check that it recovers the same body model."""
    beside = require_answers(Predictor(config.beside, config.device, "beside"), "evaluate")
    if beside.config.head.name != predictor.config.head.name and not (
        beside.model.head.has_mesh and predictor.model.head.has_mesh
    ):
        raise UserError(
            f"beside={config.beside} has head.name={beside.config.head.name}, run={config.run} has "
            f"head.name={predictor.config.head.name}: their answers are not alike"
        )
    there, here = beside.config.model.size, predictor.config.model.size
    if there != here and isinstance(predictor.model.head, ImageHead):
        raise UserError(
            f"beside={config.beside} has model.image_size={word_size(there)}, run={config.run} "
            f"{word_size(here)}: answers in the image are compared on the same images"
        )
    if beside.body.name != predictor.body.name:
        raise UserError(
            f"beside={config.beside} recovers {beside.body.name}, run={config.run} "
            f"{predictor.body.name}"
        )
    return beside


def _without(config: EvaluateConfig, predictor: Predictor) -> Predictor:
    """The Predictor of the run without pre-training, after a check that the two are comparable."""
    plain = Predictor(config.without, config.device, "without")
    here, there = flat(predictor.config), flat(plain.config)
    free = resumable_keys(predictor.config)
    for name in sorted(here.keys() | there.keys()):
        if name not in free and here.get(name) != there.get(name):
            raise UserError(
                f"without={config.without} has {name}={there.get(name)}, run={config.run} has "
                f"{name}="
                f"{here.get(name)}: the two must differ in init alone"
            )
    if header.read_manifest_of(predictor.folder) != header.read_manifest_of(plain.folder):
        raise UserError(
            f"without={config.without} was trained on other shards than run={config.run}: compare "
            f"their "
            f"manifest.json"
        )
    if predictor.step != plain.step:
        raise UserError(
            f"without={config.without} is at step {plain.step}, run={config.run} at step "
            f"{predictor.step}"
        )
    if there["init"] or not here["init"]:
        raise UserError(
            f"run={config.run} began from init={here['init']}, without={config.without} from "
            f"init={there['init']}: "
            f"a run with pre-training and one without are compared"
        )
    return plain

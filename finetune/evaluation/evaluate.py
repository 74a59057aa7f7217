"""``python -m finetune evaluate``: errors of a run on people it has not seen.

Beside the mean pose and no pre-training.
"""

import shlex

import numpy as np
import torch

from data.config import CropPairDataConfig
from data.format.clip import MADE
from data.loading.build import (
    open_crop_order,
    open_crop_pair_order,
    people_at,
    val_crop_pairs,
    val_crops,
)
from data.loading.crops import TAGS
from data.storage.shard_store import Store
from engine.config.parser import flat, parse_keys, resumable_keys
from engine.errors import UserError
from engine.logging import progress
from engine.run.files import make_folder
from engine.training import eval_jobs
from finetune.evaluation import tables
from finetune.evaluation.judge import Judge
from finetune.evaluation.results import (
    clear_folder,
    list_numbers,
    summarise_run,
    write_results,
)
from finetune.evaluation.run_protocol import evaluate_protocol
from finetune.evaluation.score import describe_scores, write_scores
from finetune.evaluation.selection import (
    choose_data,
    leave_out,
    leave_out_known,
    leave_out_near,
    take_all,
)
from finetune.inference.predictor import Predictor
from finetune.results_folder import find_results_folder
from finetune.two_views.judge import PairJudge
from finetune.verb_config import EvaluateConfig
from pretrain import header

CHUNK = 32
PLACE = [TAGS.index(name) for name in ("source", "shard", "index")]


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
    evaluation = evaluate(config, "python -m finetune evaluate " + shlex.join(argv))
    print(tables.table(evaluation))
    print("\n".join(evaluation["notes"]))
    print(f"wrote {find_results_folder(config)}")
    if config.log and checkpoint is not None:
        run, step = checkpoint
        eval_jobs.note(run, step, list_numbers(evaluation), evaluation["command"])
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
    predictor = Predictor(config.run, config.device).require_mesh("evaluate")
    plain = _without(config, predictor) if config.without else None
    beside = _beside(config, predictor) if config.beside else None
    data = choose_data(config, predictor)
    pairs = data if isinstance(data, CropPairDataConfig) else None
    order = open_crop_pair_order(pairs, 1, 0) if pairs else open_crop_order(data, 1, 0)
    take_all(order)
    seen = {
        name: header.read_seen(run.checkpoint)
        for name, run in (("model", predictor), ("scratch", plain), ("beside", beside))
        if run
    }
    for one in seen.values():
        leave_out(order, one)
    store = Store(data.cache.open())
    people = leave_out_near(order, seen.values(), predictor, store)
    people += leave_out_known(order, seen.values(), store)
    choice = predictor.body.label_choice
    arrays = (
        val_crop_pairs(order, pairs, config.clips, choice=choice)
        if pairs
        else val_crops(order, data, config.clips, choice=choice)
    )
    if arrays is None:
        shards = ", ".join(source.shards for source in data.sources.values())
        raise UserError(
            f"{shards}: no labelled clip there that the run was not trained on, and of people that "
            f"it was not "
            f"trained on; data.shards= names others"
        )
    folder = find_results_folder(config)
    clear_folder(folder)
    # All ones stand for an image without a mask; a clip of nothing but those has none.
    clips = np.unique(arrays["tags"][:, PLACE], axis=0, return_inverse=True)[1].ravel()
    full = (arrays["mask"] == 255).all(1)
    known = not any(full[clips == clip].all() for clip in range(clips.max() + 1))
    judge = (PairJudge if pairs else Judge)(predictor, plain, known, beside)
    judge.made = all(
        source == MADE
        for source, _ in people_at(order, data, np.unique(arrays["tags"][:, PLACE], axis=0))
    )
    rows = len(arrays["tags"])
    with progress.bar(rows, "crop", description="evaluating") as bar:
        for first in range(0, rows, CHUNK):
            part = {
                name: torch.from_numpy(values[first : first + CHUNK])
                for name, values in arrays.items()
            }
            judge.add({name: values.to(predictor.device) for name, values in part.items()})
            bar.update(len(part["tags"]))
    found = {
        name: {metric: np.concatenate(parts) for metric, parts in values.items()}
        for name, values in judge.values.items()
    }
    evaluation = summarise_run(config, predictor, judge, found, clips, command, seen)
    evaluation["notes"] += people
    write_results(folder, evaluation, config.examples, arrays, found, clips, judge)
    return evaluation


def _beside(config: EvaluateConfig, predictor: Predictor) -> Predictor:
    """The Predictor of another network, after a check that it recovers the same body model."""
    beside = Predictor(config.beside, config.device, "beside").require_mesh("evaluate")
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

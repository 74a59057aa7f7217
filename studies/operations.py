"""How many floating-point operations a command of a study takes: of a step, and steps."""

import functools

from engine.config.parser import parse


@functools.cache
def count_pretraining(words: tuple[str, ...]) -> tuple[float | None, int]:
    """Return (operations of a step, steps) of a pre-training command, of words after its verb.

    None where its objective does not say what a step costs. A step has batch times
    targets_per_reference targets; what references cost is shared by theirs.
    """
    from pretrain.config import PretrainConfig
    from pretrain.objectives import OBJECTIVES

    run = parse(PretrainConfig, list(words), "pretrain train")
    of_target = OBJECTIVES.find(run.objective.name).count_step_flops(run)
    return None if of_target is None else of_target * run.samples, run.steps


def count_finetuning(words: list[str]) -> tuple[float | None, int]:
    """As count_pretraining, of a fine-tuning command; None where a step's cost is not known."""
    # The network depends on neither data, seed nor places.
    alike = ("run=", "init=", "seed=", "device=", "data.shards=")
    return _count_finetuning(tuple(word for word in words if not word.startswith(alike)))


@functools.cache
def _count_finetuning(words: tuple[str, ...]) -> tuple[float | None, int]:
    from finetune.config import FinetuneConfig
    from finetune.flops import count_crop_flops

    named = [*words, "run=unmade", "data.shards=unmade"]
    run = parse(FinetuneConfig, named, "finetune train")
    of_crop = count_crop_flops(run)
    return None if of_crop is None else of_crop * run.batch, run.steps

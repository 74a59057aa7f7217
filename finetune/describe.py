"""What the commands of fine-tuning say of themselves to ``python -m slurm``.

See engine.run.job_description.
"""

from pathlib import Path

from data.describe import CLIP_TRAINING, Evaluation, describe_clip_training
from engine.errors import UserError
from engine.run.job_description import (
    Command,
    CommandTraits,
    JobDescription,
    Words,
    answer,
    describe_keys,
)
from finetune.results_folder import find_results_folder
from finetune.verb_config import EvaluateConfig

TRAIN: Words = ("finetune", "train")
EVALUATE: Words = ("finetune", "evaluate")
EVALUATING = CommandTraits(folder_key="out", takes_config=False)


def describe_training(line: list[str]) -> JobDescription:
    """Return what a run says of a command line; reads the indexes of its shards."""
    from data.loading.build import open_crop_order
    from finetune.config import FinetuneConfig

    evaluation = Evaluation(EVALUATE, EvaluateConfig)
    return describe_clip_training(FinetuneConfig, line, TRAIN, open_crop_order, evaluation)


def describe_evaluate(line: list[str]) -> JobDescription:
    """Return what an evaluation says of a command line."""
    return describe_keys(EvaluateConfig, line, EVALUATE, find_results, least=1)


def find_results(config: EvaluateConfig, paths: list[str]) -> str:
    """Return the folder of the results, beside which a cluster's job keeps its record.

    Args:
        paths: none are taken.
    Raises:
        UserError: the run is not named, or not there.
    """
    if not config.run:
        raise UserError("run= is not set; see python -m finetune evaluate --help")
    if not Path(config.run).is_dir():
        raise UserError(f"{config.run}: there is no such folder")
    return str(find_results_folder(config))


COMMANDS = {
    TRAIN: Command(CLIP_TRAINING, describe_training),
    EVALUATE: Command(EVALUATING, describe_evaluate),
}

if __name__ == "__main__":
    answer(COMMANDS)

"""``python -m finetune train`` and ``replay``: the engine's loop with the task of the config."""

from engine.distributed.process_group import Processes
from engine.training import loop
from engine.training.trainer import Trainer
from finetune.config import FinetuneConfig
from finetune.tasks import TASKS
from pretrain.replay import replay as replay_step


def make_trainer(config: FinetuneConfig, processes: Processes) -> Trainer:
    """The Trainer of a run of the config's task."""
    return Trainer(TASKS.find(config.task)(config, processes))


def train(config: FinetuneConfig) -> int:
    """Train to ``config.steps``; returns the exit code."""
    return loop.train(config, make_trainer)


def replay(argv: list[str]) -> int:
    """``python -m finetune replay``; returns the exit code."""
    return replay_step(argv, FinetuneConfig, "finetune train", make_trainer)

"""``python -m pretrain`` and ``replay``: the engine's loop with the task of pre-training."""

from engine.distributed.process_group import Processes
from engine.training import loop
from engine.training.trainer import Trainer
from pretrain.config import PretrainConfig
from pretrain.task import PretrainTask


def make_trainer(config: PretrainConfig, processes: Processes) -> Trainer:
    """The Trainer of a run of pre-training."""
    return Trainer(PretrainTask(config, processes))


def train(config: PretrainConfig) -> int:
    """Train to ``config.steps``; returns the exit code."""
    return loop.train(config, make_trainer)

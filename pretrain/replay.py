"""``python -m pretrain|finetune replay RUN step=N``: a step's batch read again.

To see which samples made it bad.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from data.loading.reader import TAGS
from engine.checkpoint import history
from engine.config.parser import flat, is_assignment, parse, parse_keys
from engine.config.paths import refuse_commands
from engine.config.train_config import TrainConfig
from engine.distributed import process_group
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.run.run_folder import RunFolder
from engine.training import spike_guard
from engine.training.task import Arrays
from engine.training.trainer import Trainer
from pretrain.verb_config import ReplayConfig

Config = TypeVar("Config", bound=TrainConfig)
CHUNK = 64  # samples on the device at once


OWN = tuple(field.name for field in dataclasses.fields(ReplayConfig))


def main(argv: list[str]) -> int:
    """``python -m pretrain replay``; returns the exit code."""
    from pretrain.config import PretrainConfig
    from pretrain.train import make_trainer

    return replay(argv, PretrainConfig, "pretrain train", make_trainer)


def replay(
    argv: list[str],
    schema: type[Config],
    command: str,
    make_trainer: Callable[[Config, Processes], Trainer],
) -> int:
    """Print loss and gradient of each of a step's highest-loss samples.

    With the newest weights from before it.

    Args:
        argv: RUN, keys of ReplayConfig, and keys of the run that may differ, such as device or
            data.shards.
        schema, command: the config's dataclass and the command of the run.
    Raises:
        UserError: no such run, no weights from before the step, other shards than the run's; the
            run's config names a command, and nobody said that it may run.
    """
    own = [word for word in argv if not is_assignment(word) or word.split("=")[0] in OWN]
    verb = f"{command.split()[0]} replay"
    options, paths = parse_keys(ReplayConfig, own, verb)
    run = RunFolder(paths[0])
    folder = run.path
    if options.step is None:
        raise UserError(f"step= is not set; see python -m {verb} --help")
    if not run.config.is_file():
        raise UserError(f"{folder} is not a run's folder: it has no config.yaml")
    rest = [word for word in argv if word not in own]
    config = parse(schema, [str(run.config), f"run={folder}", "data.workers=0", *rest], command)
    read = {
        name: value for name, value in flat(config).items() if name.startswith(("data.", "probe."))
    }
    given = {word.split("=")[0] for word in rest}
    refuse_commands(read, given, str(run.config), options.allow_commands)
    if options.step >= config.steps:
        raise UserError(f"step={options.step} is none of this run's: steps={config.steps}")
    trainer = make_trainer(
        config, process_group.Processes(0, 1, process_group.device_of(config.device))
    )
    if run.manifest.exists():
        trainer.task.begin_run(folder)
    at = _load(trainer, folder, options.step)
    _, arrays = next(trainer.loader.batches(options.step, options.step + 1))
    losses, norm = measure(trainer, arrays)
    slot = options.step * config.batch
    print(
        f"step {options.step}, slots {slot} to {slot + config.batch - 1}, with the weights of step "
        f"{at}: "
        f"mean loss {losses.mean():.4g}, gradient norm {norm:.4g}"
    )
    capture = spike_guard.capture_file(folder, options.step)
    if capture.exists():
        then = json.loads(capture.read_text())
        print(
            f"then: {then['reason']}, gradient norm {then['gradient_norm']}, threshold "
            f"{then['threshold']}, {then['losses']}"
        )
    _tell(trainer, arrays, losses, options, config)
    return 0


def _load(trainer, folder, step):
    """Fill the network with the newest weights from ``step`` or before; returns their step."""
    path = spike_guard.last_good(folder, step + 1, 1)
    if path:
        return trainer.load(path)
    there = [path.name for _, path in history.list_checkpoints(folder)]
    if there:
        raise UserError(
            f"step={step}: no checkpoint of {folder} is so old, the first is {there[0]}; "
            f"checkpoint.keep says how "
            f"many are kept"
        )
    return 0  # as built: a run that never saved


def measure(trainer: Trainer, arrays: Arrays) -> tuple[np.ndarray, float]:
    """Return ((B,) loss of each sample, gradient norm of the batch).

    Of the loader's arrays of a whole batch.
    """
    losses, task = [], trainer.task
    trainer.optimizer.zero_grad()
    for first in range(0, len(arrays["tags"]), CHUNK):
        batch = task.to_device(
            {name: values[first : first + CHUNK] for name, values in arrays.items()}
        )
        with torch.no_grad():
            losses.append(task.score_samples(batch).float().cpu())
        task.compute_loss(trainer.wrapped, batch)[0].backward()
    norm = nn.utils.clip_grad_norm_(list(trainer.names), math.inf).item()
    trainer.optimizer.zero_grad()
    return torch.cat(losses).numpy(), norm


def _tell(trainer, arrays, losses, options, config):
    # NaN and Inf come first: they are what makes an update bad.
    order = np.argsort(-np.where(np.isfinite(losses), losses, np.inf), kind="stable")[
        : options.worst
    ]
    labels = []
    print(f"{'slot':>12} {'loss':>10} {'gradient':>10}  sample")
    for row in order:
        one = {name: values[row : row + 1] for name, values in arrays.items()}
        alone = measure(trainer, one)[1]
        source, shard, index = (
            int(one["tags"][0, TAGS.index(name)]) for name in ("source", "shard", "index")
        )
        path = trainer.task.order.sources[source].paths[shard]
        name = f"{path}:{index} key {trainer.loader.reader.store.index(path).keys[index]}"
        print(f"{options.step * config.batch + row:12d} {losses[row]:10.4g} {alone:10.4g}  {name}")
        labels.append(f"{losses[row]:.3g}")
    if options.out:
        image = trainer.task.draw_samples(
            {name: values[order] for name, values in arrays.items()}, labels, f"step {options.step}"
        )
        try:
            image.save(options.out)
        except (OSError, ValueError) as error:
            raise UserError(f"out={options.out} cannot be written: {error}") from None
        print(f"drawn into {options.out}")

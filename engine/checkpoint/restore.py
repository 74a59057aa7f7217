"""Models and optimizers filled from a checkpoint that was found complete a moment ago."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from engine.checkpoint.tensors import open_tensors
from engine.distributed.parallel import cut, own, spread_like
from engine.errors import EnvironmentFault, UserError, explain, failure_of
from engine.run.patience import read_again
from engine.run.run_folder import find_weights_file

TRAINED = "trained"  # part of a weight's state: itself, where the weights file holds an average
OF_TASK = "task-"  # begins the names of parts that are the task's, and not the optimizer's


def load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    frozen: Collection[str] = (),
) -> dict[str, Any]:
    """Fill a bare model and an optimizer from a checkpoint's folder; sharded ones get their shares.

    The model gets the weights that were trained, not their average, where there are both.

    Args:
        names: of the parameters that the optimizer moves.
        frozen: see load_optimizer.
    Returns:
        the state of state.json.
    Raises:
        UserError: names the first tensor that is missing, is too much or has another shape.
    """
    load_weights(path, model)
    load_optimizer(path, optimizer, names, frozen)
    return load_state(path)


def load_model(path: Path, model: nn.Module) -> int:
    """Fill a bare model alone from a checkpoint's folder; returns the step."""
    load_weights(path, model)
    return load_state(path)["step"]


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill a bare model from the weights of a checkpoint's folder.

    Raises:
        UserError: names the first tensor that does not fit.
    """
    targets = model.state_dict()
    with _open_own(find_weights_file(path)) as file:
        have = {name: tuple(value.shape) for name, value in targets.items()}
        names = list(file.keys())
        found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if have != found:
            every = sorted(have.keys() | found.keys())
            name = next(name for name in every if have.get(name) != found.get(name))
            raise UserError(
                f"{path}/model.safetensors: weight {name} is {found.get(name, 'missing')} there "
                f"and {have.get(name, 'missing')} in this run's model"
            )
    load_some(path, targets)


@torch.no_grad()
def load_some(path: Path, targets: Mapping[str, torch.Tensor]) -> None:
    """Fill tensors, whole or in shares, from those of their names in a checkpoint's weights."""
    with _open_own(find_weights_file(path)) as file:
        for name, target in targets.items():
            own(target).copy_(cut(file.get_tensor(name), target))


@torch.no_grad()
def load_of_task(path: Path, targets: Mapping[str, torch.Tensor]) -> None:
    """Fill tensors, whole or in shares, with what Task.list_state gave under their names.

    Raises:
        UserError: names the first that a checkpoint's folder does not hold.
    """
    with _open_own(path / "optimizer.safetensors") as file:
        held = set(file.keys())
        for key, target in targets.items():
            if OF_TASK + key not in held:
                raise UserError(f"{path}/optimizer.safetensors: {OF_TASK}{key} is missing")
            own(target).copy_(cut(file.get_tensor(OF_TASK + key), target))


def list_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]
) -> dict[str, torch.Tensor]:
    """Return {"exp_avg/NAME": tensor} of an optimizer's state: the very tensors, not copies."""
    found = {}
    for parameter, name in names.items():
        for part, value in optimizer.state.get(parameter, {}).items():
            found[f"{part}/{name}"] = value.detach()
    return found


def load_optimizer(
    path: Path,
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    frozen: Collection[str] = (),
) -> None:
    """Give an optimizer the state that a checkpoint's folder holds, in place of its own.

    Where the folder's weights are an average, the parameters become what was trained.

    Args:
        names: of the parameters that the optimizer moves, now or later.
        frozen: names of weights that no update had moved when it was written. They get no state;
            what it has of them is passed over.
    Raises:
        UserError: names the first weight whose state is missing or too much.
    """
    # torch keeps the step counter on the host unless the optimizer is fused or capturable.
    fused = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    with _open_own(path / "optimizer.safetensors") as file:
        parts: dict[str, list[str]] = {}
        for key in list(file.keys()):
            part, name = key.split("/", 1)
            parts.setdefault(name, []).append(part)
        wrong = (parts.keys() ^ set(names.values())).difference(frozen)
        if wrong:
            name = min(wrong)
            there, here = ("there", "not in this run's model")
            if name not in parts:
                there, here = ("missing", "in this run's model")
            raise UserError(
                f"{path}/optimizer.safetensors: the state of weight {name} is {there} and {here}"
            )
        for parameter, name in names.items():
            optimizer.state.pop(parameter, None)
            if name in frozen:
                continue
            optimizer.state[parameter] = {}
            for part in parts[name]:
                if part.startswith(OF_TASK):
                    continue
                value = file.get_tensor(f"{part}/{name}")
                if part == TRAINED:
                    own(parameter.detach()).copy_(cut(value, parameter))
                    continue
                if part == "step":
                    value = value.to(parameter.device if fused else "cpu", copy=True)
                else:
                    value = spread_like(value, parameter)
                optimizer.state[parameter][part] = value


def load_state(path: Path) -> dict[str, Any]:
    """Return the values in state.json of a checkpoint that was found complete a moment ago.

    Raises:
        Failure: any fault of reading.
    """
    try:
        return read_state(path)
    except OSError as error:
        raise failure_of(error, f"{path}/state.json cannot be read: {explain(error)}") from None


def read_state(path: Path) -> dict[str, Any]:
    """Return the values in state.json of a checkpoint.

    Raises:
        OSError, ValueError: as they come, after patience.
    """
    file = path / "state.json"
    return json.loads(read_again(file, file.read_bytes))


def _open_own(path: Path) -> Any:
    """``open_tensors`` of a checkpoint that was found complete; faults are Failures."""
    try:
        return open_tensors(path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except SafetensorError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from None

"""The running average of a run's weights, which its checkpoints give to whoever uses them.

After each update that counts, average = kept * average + (1 - kept) * weight, with

    kept = min(ema, (1 + t) / (10 + t))

and t the updates before it. The ramp is the one that TensorFlow's
``tf.train.ExponentialMovingAverage(decay, num_updates)`` documents: without it a thousand steps
would still hold a good part of the first weights, which were drawn at random.

The average changes nothing of the training. It is one fused operation a step, without a wait for
the device, over each rank's own shares; buffers and weights that are not trained have none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import sgd

from engine.checkpoint import restore
from engine.distributed.parallel import own

HEADER = "average"  # key of the weights file's header


class Average:
    """A running average of weights, in float32 where they are of fewer bits.

    Args:
        ema: the largest share that it keeps of itself an update, as of optim.ema.
        names: {weight: name} of what is trained, spread over the ranks as it is.
    Attributes:
        tensors: {weight: its average}, spread alike.
        updates: () int64 on the device, updates that the average is of.
    """

    def __init__(self, ema: float, names: Mapping[nn.Parameter, str]) -> None:
        self.ema, self.names = ema, names
        self.tensors = {weight: _copy_finely(weight.detach()) for weight in names}
        device = own(next(iter(names)).detach()).device
        self.updates = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, bad: torch.Tensor) -> None:
        """Move towards the weights after an update; all ranks call it.

        Args:
            bad: () bool on the device: the update was skipped, and nothing moves.
        """
        averages = [own(average) for average in self.tensors.values()]
        pairs = zip(self.tensors, averages, strict=True)
        weights = [own(weight.detach()).to(average.dtype) for weight, average in pairs]
        t = self.updates.double()
        kept = ((1 + t) / (10 + t)).clamp(max=self.ema)
        # Plain descent with a decay of 1, upwards along the weight: a -= lr * (a - w). Of torch's
        # kernels over many tensors this one takes its factor from the device, and leaves all as it
        # is where found_inf is 1.
        sgd.sgd(
            averages,
            weights,
            [None] * len(averages),
            fused=True,
            found_inf=bad.float(),
            weight_decay=1.0,
            momentum=0.0,
            lr=(1 - kept).float(),
            dampening=0.0,
            nesterov=False,
            maximize=True,
        )
        self.updates += ~bad

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Have the weights be the average within, and to the bit what they were after it.

        Takes room for one more copy of the weights.
        """
        trained = {weight: own(weight.detach()).clone() for weight in self.tensors}
        _fill({weight: own(average) for weight, average in self.tensors.items()})
        try:
            yield
        finally:
            _fill(trained)

    def replace(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a network's state with the average in place of each weight that has one.

        Args:
            state: as ``module.state_dict(keep_vars=True)`` gives it.
        """
        return {
            name: self.tensors[value]
            if isinstance(value, nn.Parameter) and value in self.tensors
            else value.detach()
            for name, value in state.items()
        }

    def list_trained(self) -> dict[str, torch.Tensor]:
        """Return {"trained/NAME": weight as the optimizer left it}, for beside its moments."""
        return {f"{restore.TRAINED}/{name}": weight.detach() for weight, name in self.names.items()}

    def describe(self) -> dict[str, Any]:
        """Return JSON values: the key and how many updates it is of. Waits for the device."""
        return {"ema": self.ema, "updates": int(self.updates)}

    def load(self, path: Path, state: Mapping[str, Any] | None) -> None:
        """Go on with the average of a checkpoint's folder.

        Args:
            state: as ``describe`` gave it; None of a checkpoint without an average: then it begins
                anew, at the checkpoint's weights.
        """
        named = {self.names[weight]: average for weight, average in self.tensors.items()}
        restore.load_some(path, named)
        self.updates.fill_(0 if state is None else int(state["updates"]))


@torch.no_grad()
def _fill(values: Mapping[nn.Parameter, torch.Tensor]) -> None:
    """Copy this rank's shares into its weights.

    In place, for DDP, FSDP and what is compiled hold on to their memory.
    """
    for weight, value in values.items():
        own(weight.detach()).copy_(value)


def _copy_finely(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in float32, or in the tensor's own type where that has as many bits."""
    coarse = tensor.element_size() < 4
    return tensor.to(torch.float32 if coarse else tensor.dtype, copy=True)

"""How a model is spread over the processes of a run.

As copies (DDP), as shares of its weights (FSDP2), or as copies in shares (HSDP).

With FSDP2 a weight is a DTensor: each process holds some of its rows, and the whole is gathered for
a block while it runs. Where several groups of neighbours hold a copy each, a group gathers within
itself, and only the sum of a share's gradient goes between groups. What leaves a process
(checkpoints, norms) is always whole, under the bare module's names.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from engine.distributed.process_group import Processes

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

BLOCKS = ("blocks", "layers")  # names of the lists whose members are gathered one at a time
# of these lists, whose members take their weights in bf16 while tokens stay in float32
IN_BF16 = "blocks"


# Buffers are tables and means that no step changes: not to be sent at each. torch 2.15 has another
# word for it than 2.6.
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


class Spread:
    """A model and what holds it, spread over the processes of a run.

    Args:
        holders: neighbouring processes that hold one copy of the weights together; divides their
            number. 1: each holds all.
        model: the bare network.
        step_module: holds it and no weights besides, called on parts of a batch.
        entries: the network's methods, beside ``forward``, that others call.
        bf16: the network runs under bf16 autocast, so its blocks' shared weights are gathered in
            bf16: half of what goes between processes, and no copy is kept beside them. Shares,
            gradients' sums and the optimizer stay float32.
    Attributes:
        module: what to call for the loss.  Gradients in it are means over the processes.
    """

    def __init__(
        self,
        holders: int,
        processes: Processes,
        model: nn.Module,
        step_module: nn.Module,
        entries: Sequence[str] = (),
        bf16: bool = False,
    ) -> None:
        self.model, self.module = model, step_module
        self._step_module, self._device = step_module, processes.device
        self.sharded = holders > 1
        self.copied = holders == 1 and processes.world > 1
        # The process group of those that have the same share, where there are several.
        self.copies: dist.ProcessGroup | None = None
        if self.copied:
            self.module = self._copy()
        if processes.world > 1:
            _send_buffers(model)
        if self.sharded:
            shard(model, self._mesh(holders, processes), entries, bf16)

    def _copy(self) -> nn.Module:
        ids = [self._device.index] if self._device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            self._step_module, ids, gradient_as_bucket_view=True, **_NO_BUFFERS
        )

    def follow_trained(self) -> None:
        """Sum the gradients of those weights that need one, after that was changed.

        Shares follow by themselves. Called by all ranks between two steps.
        """
        if self.copied:
            self.module = self._step_module
            # The old wrapper's hooks on the weights end with it, and it holds itself in circles.
            gc.collect()
            self.module = self._copy()

    def _mesh(self, holders: int, processes: Processes) -> DeviceMesh:
        if holders == processes.world:
            return init_device_mesh(processes.device.type, (holders,))
        groups = processes.groups(holders)
        self.copies = groups[0]
        ranks = torch.arange(processes.world).view(-1, holders)
        return DeviceMesh.from_group(
            list(groups), processes.device.type, ranks, mesh_dim_names=("copies", "shares")
        )

    @contextlib.contextmanager
    def unsynced(self) -> Iterator[None]:
        """Keep gradients made in here in this process.

        They are summed with those made outside later.
        """
        if isinstance(self.module, nn.parallel.DistributedDataParallel):
            with self.module.no_sync():
                yield
            return
        if self.sharded:
            self._root.set_requires_gradient_sync(False)
        yield
        if self.sharded:
            self._root.set_requires_gradient_sync(True)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float | None = None) -> torch.Tensor:
        """Return the norm of all gradients, () on the device and alike on all ranks.

        If it exceeds ``limit`` they are scaled down.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        if self.copies is not None:
            # Each copy summed it up for itself. In another sequence the last bit may differ, and
            # with it the verdict on an update, or a share of the weights from its copies for ever.
            dist.broadcast(norm, dist.get_global_rank(self.copies, 0), self.copies)
        if limit is not None:
            factor = (limit / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([own(gradient) for gradient in gradients], factor)
        return norm

    def gather(self) -> None:
        """Give every process all weights until ``release``: each may call the model as it likes.

        Otherwise a process that calls a sharded model once more than the others waits for them for
        ever.
        """
        if self.sharded:
            self._root.set_reshard_after_forward(False)
            for module in self._shards():
                module.unshard()

    def release(self) -> None:
        """Go back to shares. Also after weights were gathered by a forward without a backward."""
        if self.sharded:
            for module in self._shards():
                module.reshard()
                module.set_reshard_after_forward(module is not self.model, recurse=False)

    @property
    def _root(self) -> FSDPModule:
        """The model, which ``shard`` has made one."""
        return cast("FSDPModule", self.model)

    def _shards(self) -> list[FSDPModule]:
        from torch.distributed.fsdp import FSDPModule

        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]


def _send_buffers(model: nn.Module) -> None:
    """Send the first process's buffers to all, once.

    A mean over data may differ in its last bit where another device took it.
    """
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def shard(model: nn.Module, mesh: DeviceMesh, entries: Sequence[str], bf16: bool) -> None:
    """Cut a model's weights over a mesh, and gather them for a block at a time.

    Arguments are as for Spread.
    """
    # Imported here because it takes seconds and most runs have no use for it.
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    # Tokens come in as they are: the sum that runs through the blocks is float32, and autocast
    # chooses for each operation.
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for name, parts in list(model.named_modules()):
        last = name.rpartition(".")[2]
        if last in BLOCKS:
            policy = half if bf16 and last == IN_BF16 else MixedPrecisionPolicy()
            for block in parts.children():
                fully_shard(block, mesh=mesh, mp_policy=policy)
    # The root's own weights are wanted from the first layer to the last: they stay gathered until
    # the backward is over.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for name in entries:
        register_fsdp_forward_method(model, name)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without its shares.

    A DTensor is gathered by all processes at once; others stay as they are.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's share of a tensor, which may be empty; no copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the share of a whole tensor that this process has of ``like``.

    The processes exchange no word for it.
    """
    if isinstance(like, DTensor):
        coordinate = like.device_mesh.get_coordinate()
        if coordinate is None:
            raise ValueError(f"rank {dist.get_rank()} is not in the mesh of the tensor")
        for axis, placement in enumerate(like.placements):
            if isinstance(placement, Shard):
                parts = tensor.chunk(like.device_mesh.size(axis), placement.dim)
                number = coordinate[axis]
                # The last processes have nothing of a tensor with few rows.
                nothing = tensor.narrow(placement.dim, 0, 0)
                tensor = parts[number] if number < len(parts) else nothing
    return tensor


def spread_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor, spread and placed as ``like`` is: a copy of its own."""
    share = cut(tensor, like).to(like.device, copy=True, memory_format=torch.contiguous_format)
    if not isinstance(like, DTensor):
        return share
    return DTensor.from_local(
        share,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )

"""How a model is spread over the processes of a run: copies (DDP) or shares of its weights (FSDP2).

With FSDP2 a weight is a DTensor: each process holds some of its rows, and the whole is gathered for a block while it runs.
What leaves a process (checkpoints, norms) is always whole, under the bare module's names.
"""

import contextlib

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

BLOCKS = ("blocks", "layers")  # names of the lists whose members are gathered one at a time


class Spread:
    """A model and what holds it, spread over the processes of a run.

    Args:
        kind: "ddp" or "fsdp"; one process alone holds everything either way.  processes: engine.distributed.Processes.
        model: the bare network.  step_module: holds it and no weights besides, called on parts of a batch.
        entries: the network's methods, beside ``forward``, that others call.
    Attributes:
        module: what to call for the loss.  Gradients in it are means over the processes.
    """

    def __init__(self, kind, processes, model, step_module, entries=()):
        self.model, self.module = model, step_module
        self.sharded = kind == "fsdp" and processes.world > 1
        self.copied = kind == "ddp" and processes.world > 1
        if self.copied:
            ids = [processes.device.index] if processes.device.type == "cuda" else None
            self.module = nn.parallel.DistributedDataParallel(step_module, ids, gradient_as_bucket_view=True)
        if self.sharded:
            _shard(model, init_device_mesh(processes.device.type, (processes.world,)), entries)

    @contextlib.contextmanager
    def unsynced(self):
        """Gradients made in here stay in this process, to be summed with those made outside later."""
        if self.copied:
            with self.module.no_sync():
                yield
            return
        if self.sharded:
            self.model.set_requires_gradient_sync(False)
        yield
        if self.sharded:
            self.model.set_requires_gradient_sync(True)

    def gather(self):
        """From here to ``release`` every process has all weights, so that each may call the model as often as it likes.

        Otherwise a process that calls a sharded model once more than the others waits for them for ever.
        """
        if self.sharded:
            self.model.set_reshard_after_forward(False)
            for module in self._shards():
                module.unshard()

    def release(self):
        """Back to shares. Also after weights were gathered by a forward without a backward."""
        if self.sharded:
            for module in self._shards():
                module.reshard()
                module.set_reshard_after_forward(module is not self.model, recurse=False)

    def _shards(self):
        from torch.distributed.fsdp import FSDPModule

        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]


def _shard(model, mesh, entries):
    # Imported here because it takes seconds and most runs have no use for it.
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for name, parts in list(model.named_modules()):
        if name.rpartition(".")[2] in BLOCKS:
            for block in parts.children():
                fully_shard(block, mesh=mesh)
    # The root's own weights are wanted from the first layer to the last: they stay gathered until the backward is over.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for name in entries:
        register_fsdp_forward_method(model, name)


def whole(tensor):
    """A tensor without its shares: of a DTensor the whole of it, gathered by all processes at once; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor):
    """This process's share of a tensor, which may be empty; no copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut(tensor, like):
    """The share of a whole tensor that this process has of ``like``; no word between processes."""
    if isinstance(like, DTensor):
        place = like.device_mesh.get_coordinate()
        for axis, placement in enumerate(like.placements):
            if isinstance(placement, Shard):
                parts = tensor.chunk(like.device_mesh.size(axis), placement.dim)
                # The last processes have nothing of a tensor with few rows.
                tensor = parts[place[axis]] if place[axis] < len(parts) else tensor.narrow(placement.dim, 0, 0)
    return tensor


def spread_like(tensor, like):
    """A whole tensor, spread and placed as ``like`` is: a copy of its own."""
    share = cut(tensor, like).to(like.device, copy=True, memory_format=torch.contiguous_format)
    if not isinstance(like, DTensor):
        return share
    return DTensor.from_local(share, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())

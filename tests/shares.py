"""One of four processes that hold a small network in two copies of two shares: ``python
tests/shares.py RANK OUT``.

Writes OUT/RANK.pt, what it saw; tests/test_parallel.py judges it.
"""

import contextlib
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

BATCH, STEPS, LR, LIMIT = 8, 4, 0.02, 0.5
KINDS = {"allgather": "gather", "reducescatter": "scatter", "allreduce": "sum"}


class Net(nn.Module):
    """Blocks of its own, weights of its own; with 5 rows no share is as large as the other."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.last = nn.Linear(5, 1)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.last(x)


class Step(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return (self.model(x)[:, 0] - x.prod(1)).square().sum() / BATCH


class Words(TorchDispatchMode):
    """What is said between processes: [("gather", "scatter" or "sum", processes that it reaches),
    ...]."""

    def __enter__(self):
        self.said = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        import torch.distributed as dist

        space, name = function.name().split("::")
        kind = next((kind for word, kind in KINDS.items() if word in name.replace("_", "")), None)
        if "c10d" in space and kind:
            boxed = [
                a
                for a in args
                if isinstance(a, torch.ScriptObject) and "ProcessGroup" in str(a._type())
            ]
            group = (
                dist.ProcessGroup.unbox(boxed[0])
                if boxed
                else dist.distributed_c10d._resolve_process_group(args[-1])
            )
            self.said.append((kind, group.size()))
        return function(*args, **(kwargs or {}))


def rows(step):
    return torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(step))


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=LR, fused=True)


def main(rank, out):
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2" if rank < 2 else "1",
    }
    from engine.distributed import process_group
    from engine.distributed.parallel import Spread, cut, own, spread_like, whole

    torch.set_num_threads(1)
    processes = process_group.start("cpu", 77)
    torch.manual_seed(0)
    model = Net()
    holders = processes.of_a_node()
    spread = Spread(holders, processes, model, Step(model))
    seen = {
        "node": holders,
        "timeouts": [
            group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
            for group in processes.groups(2)
        ],
    }
    optimizer, norms = optimizer_of(model), []
    for step in range(STEPS):
        mine = rows(step)[2 * rank : 2 * rank + 2]
        with Words() as words:
            with spread.unsynced():
                spread.module(mine[:1]).mul(4).backward()
            seen["unsynced"] = words.said
        with Words() as words:
            spread.module(mine[1:]).mul(4).backward()
        seen["synced"] = words.said
        norms.append(spread.clip(model.parameters(), LIMIT))
        optimizer.step()
        optimizer.zero_grad()
    seen["norms"] = torch.stack(norms)
    # From here to the release each process may call the network as often as it likes.
    spread.gather()
    with torch.no_grad():
        seen["called"] = torch.stack([model(rows(99)) for _ in range(rank + 1)])[-1]
    spread.release()
    with Words() as words:
        seen["whole"] = {name: whole(p.detach()) for name, p in model.named_parameters()}
    seen["gathered"] = words.said
    seen["own"] = {name: own(p.detach()).clone() for name, p in model.named_parameters()}
    with Words() as words:
        seen["cut"] = {
            name: cut(seen["whole"][name], p).clone() for name, p in model.named_parameters()
        }
        again = {name: spread_like(seen["whole"][name], p) for name, p in model.named_parameters()}
    seen["cutting"] = words.said
    seen["spread"] = {name: own(value) for name, value in again.items()}
    seen["alike"] = all(
        again[name].placements == p.placements for name, p in model.named_parameters()
    )
    seen["disagreed"] = disagreeing(spread, model, rank)
    seen["completed"] = {
        (bf16, kind): completing(processes, kind, bf16)
        for bf16 in (False, True)
        for kind in (1, holders)
    }
    torch.save(seen, Path(out) / f"{rank}.pt")
    processes.stop()


def completing(processes, holders, bf16):
    """Two parts of a batch through pre-training's network: what was lost, the whole gradients, and
    which types were met."""
    from engine.distributed.parallel import Spread, whole
    from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig
    from pretrain.model import CrossCompletion

    torch.manual_seed(1)
    config = ModelConfig(
        32, 8, "rope", 100.0, EncoderConfig(16, 2, 2), decoder=DecoderConfig(16, 2, 2)
    )
    model, seen = CrossCompletion(config), {}
    with torch.no_grad():
        for parameter in model.parameters():  # gains and biases that rounding changes
            parameter.add_(0.1 * torch.randn_like(parameter))

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images, keep, masked):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return self.model.complete(*images, keep, masked).float().square().mean()

    model.register_buffer("mean", torch.tensor(float(processes.rank)), persistent=False)
    block = model.encoder.blocks[0]

    def note(module, tensors):
        seen["block"], seen["root"] = block.attn.qkv.weight.dtype, model.decoder.embed.weight.dtype
        seen["tokens"] = tensors[0].dtype

    hook = block.norm2.register_forward_pre_hook(note)
    spread = Spread(holders, processes, model, Loss(), ("complete",), bf16)
    draw = torch.Generator().manual_seed(processes.rank)
    losses = []
    for part in range(2):
        order = torch.rand(3, 16, generator=draw).argsort(1)
        images = torch.randn(2, 3, 3, 32, 32, generator=draw)
        with spread.unsynced() if part == 0 else contextlib.nullcontext():
            loss = spread.module(images, order[:, :4], order[:, 4:])
            loss.backward()
        losses.append(loss.detach())
    hook.remove()
    seen["mean"] = model.mean.item()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    return {"losses": torch.stack(losses), "gradients": gradients, **seen}


def disagreeing(spread, model, rank):
    """The norm and a gradient where the second copy adds up another norm than the first."""
    added_up = nn.utils.get_total_norm
    spread.module(rows(0)[2 * rank : 2 * rank + 2]).backward()
    nn.utils.get_total_norm = lambda gradients: added_up(gradients) * (1 + 1e-6 * (rank // 2))
    norm = spread.clip(model.parameters(), 1e-3)
    return norm, model.last.weight.grad.to_local().clone()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

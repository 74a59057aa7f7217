"""The state of a training run and the steps it takes, whatever it learns; ``engine.loop`` runs it."""

import contextlib

import numpy as np
import torch
from torch import nn

from engine import checkpoint
from engine.errors import UserError
from engine.schedule import warmup_cosine


class Trainer:
    """Weights, optimizer and running sums of a run.

    A room builds on it with ``loss(piece)``, ``losses(means)``, ``evaluate()``, ``draw(folder, step)`` and the papers of its
    folder (``open_run``, ``announce``, ``measured``, ``note_bad``, ``list_bad``), and sets ``order``,
    ``loader``, ``to_device`` ({name: array} -> {name: tensor} on the device) and ``held_out`` (None where nothing is).

    Args:
        config: engine.options.TrainConfig.  processes: engine.distributed.Processes.
        model: the bare network, whose weights are saved.  step_module: a module that holds it, called on parts of a batch.
        meters: how many numbers ``loss`` gives beside the loss.
        replaced: columns of the arrays' "tags" with the counts of replaced samples.
        scale: from a weight's name to a factor on its learning rate; None: 1 for all.
    """

    probe_every = 0  # steps between calls of ``probe()``, which gives more numbers for the log; 0: never
    BROKEN = ("training broke down and what is saved is from before. Start a new run=DIR with a lower optim.lr or with "
              "optim.clip")

    def __init__(self, config, processes, model, step_module, meters, replaced, scale=None):
        if config.batch % (processes.world * config.accumulate):
            raise UserError(f"batch={config.batch} does not divide by {processes.world} processes times "
                            f"accumulate={config.accumulate}")
        self.config, self.processes, self.device = config, processes, processes.device
        self.model, self.step_module, self.wrapped = model, step_module, step_module
        if processes.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.wrapped = nn.parallel.DistributedDataParallel(step_module, ids, gradient_as_bucket_view=True)
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(self.names, config.optim, self.device, scale or (lambda name: 1.0))
        self.replaced_columns = replaced
        # Samples replaced since the run began: bad bytes, nothing that the rules want.
        self.replaced = torch.zeros(2, dtype=torch.int64, device=self.device)
        # Sums since the last line of the log: the meters, then gradient norm and steps.
        self.sums = torch.zeros(meters + 2, dtype=torch.float64, device=self.device)

    def update(self, step, arrays):
        """One step: the loss summed over this rank's rows, its gradient over all ranks, AdamW."""
        config, batch = self.config, self.to_device(arrays)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step) * group["scale"]
        rows, parts = len(batch["tags"]), config.accumulate
        for part in range(parts):
            piece = {k: v[part * rows // parts:(part + 1) * rows // parts] for k, v in batch.items()}
            alone = part < parts - 1 and self.processes.world > 1
            with self.wrapped.no_sync() if alone else contextlib.nullcontext():
                loss, meters = self.loss(piece)
                # DDP averages gradients over ranks; this loss is a sum.
                (loss * self.processes.world).backward()
            self.sums[:-2] += meters
        norm = nn.utils.clip_grad_norm_(list(self.names), config.optim.clip if config.optim.clip is not None else float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.replaced += batch["tags"][:, self.replaced_columns].sum(0)
        self.sums[-2] += norm.detach()
        self.sums[-1] += 1

    def take_losses(self):
        """{"loss/NAME", "optim/grad_norm"} means since the last call, over all ranks.

        Raises:
            UserError: a loss or a gradient is no number.
        """
        sums = self.processes.sum(self.sums.clone()).tolist()
        self.sums.zero_()
        out = self.losses(sums[:-2])
        out["optim/grad_norm"] = sums[-2] / sums[-1]
        for name, value in out.items():
            if not np.isfinite(value):
                raise UserError(f"{name} is {value}: {self.BROKEN}")
        return out

    def load(self, path):
        """Go on from a checkpoint's folder; returns its step."""
        state = checkpoint.load(path, self.model, lambda t: checkpoint.load_optimizer(self.optimizer, self.names, t))
        if self.processes.first:
            self.sums.copy_(torch.tensor(state["sums"], dtype=torch.float64))
            self.replaced.copy_(torch.tensor(state["replaced"]))
        return state["step"]

    def save(self, run, step, write_model):
        """Write a checkpoint from rank 0; a failure there is raised on all, and so are weights that are no numbers."""
        if not torch.stack([p.detach().isfinite().all() for p in self.names]).all():
            raise UserError(f"weights at step {step} are not finite: {self.BROKEN}")
        sums, replaced = self.processes.sum(self.sums.clone()), self.processes.sum(self.replaced.clone())
        state = {"step": step, "slot": step * self.config.batch, "ledger": [], "sums": sums.tolist(),
                 "replaced": replaced.tolist(), "versions": checkpoint.versions()}
        self.processes.from_first(lambda: str(checkpoint.save(
            run.folder, step, write_model, checkpoint.optimizer_tensors(self.optimizer, self.names), state, run.lease.check,
            self.config.checkpoint.keep)))


def build_optimizer(names, optim, device, scale):
    """AdamW without decay on biases and norms. ``names``: {parameter: name}. ``scale``: as for Trainer."""
    groups = {}
    for parameter, name in names.items():
        group = groups.setdefault((parameter.ndim > 1, scale(name)), {"params": []})
        group["params"].append(parameter)
    groups = [{**group, "weight_decay": optim.weight_decay if decays else 0.0, "scale": factor}
              for (decays, factor), group in groups.items()]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=device.type == "cuda")


def learning_rate(config, step):
    scale = config.batch / 256
    return warmup_cosine(step, config.optim.lr * scale, config.optim.min_lr * scale, config.optim.warmup, config.steps)

"""Pre-training: what is built, and the loop."""

import contextlib
import os
import sys
import time

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.augment import augment, crop_masks
from data.feed import held_out_pairs, open_loader, open_order
from data.reader import TAGS
from data.shards import PAIR_KINDS
from engine import checkpoint, distributed
from engine.config import flat
from engine.errors import UserError
from engine.metrics import Log
from engine.schedule import warmup_cosine
from engine.signals import STOPPED, StopRequest
from pretrain import masking, objective, panels, watch, weights
from pretrain.model import CrossCompletion

REPLACED = slice(TAGS.index("bad"), TAGS.index("no_pair") + 1)


class Completion(nn.Module):
    """From the loader's arrays to the loss of each sample: everything that happens on the device.

    Only the network itself runs in bf16: in it a crop's corners would be off by half a pixel, and masks differ from a CPU's.
    """

    def __init__(self, model, config, bf16):
        super().__init__()
        self.model, self.config, self.bf16 = model, config, bf16

    def pairs(self, batch):
        """(a, b (B, 3, S, S) normalised, keep (B, V), masked (B, M), person (B, N)) of a batch of tensors."""
        size, rules = self.config.model.image_size, self.config.masking
        a, b = (augment(batch["pixels"][:, i], batch["numbers"][:, i], size) for i in (0, 1))
        sizes = batch["tags"][:, TAGS.index("size")]
        # Four mask pixels a patch's side are enough to tell how much of it is person.
        grid = self.model.grid
        masks = crop_masks(batch["mask"], batch["numbers"][:, 0], sizes, 4 * grid[0])
        person = masking.person_share(masks, grid)
        keep, masked = masking.choose(batch["noise"], person, rules.ratio, rules.person_bonus, rules.min_visible_person)
        return a, b, keep, masked, person

    def complete(self, a, b, keep, masked):
        """(B, M, P*P*3) float32 prediction for the masked patches."""
        with torch.autocast(a.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.complete(a, b, keep, masked).float()

    def forward(self, batch):
        """(B,) loss of each sample."""
        a, b, keep, masked, person = self.pairs(batch)
        predicted = self.complete(a, b, keep, masked)
        goal = self.config.objective
        target = objective.targets(a, self.config.model.patch, goal.target)
        target = target.gather(1, masked[..., None].expand(-1, -1, target.shape[-1]))
        weight = objective.patch_weight(person, goal.background_weight).gather(1, masked)
        return objective.per_sample_loss(predicted, target, weight)


class Trainer:
    """The state of a run and the steps it takes; ``train`` below is the loop.

    Args:
        config: PretrainConfig.  processes: engine.distributed.Processes.
    """

    def __init__(self, config, processes):
        self.config, self.processes, self.device = config, processes, processes.device
        if config.batch % (processes.world * config.accumulate):
            raise UserError(f"batch={config.batch} does not divide by {processes.world} processes times "
                            f"accumulate={config.accumulate}")
        self.order = processes.from_first(lambda: open_order(config.data, config.batch, config.seed))
        self.model = build(config).to(self.device)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda")
        self.step_module = self.wrapped = Completion(self.model, config, self.bf16)
        if processes.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.wrapped = nn.parallel.DistributedDataParallel(self.step_module, ids, gradient_as_bucket_view=True)
        self.names = {p: name for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(self.names, config.optim, self.device)
        workers = config.data.workers
        workers = min(16, distributed.share_cores() - 1) if workers is None else workers
        self.loader = open_loader(self.order, config.data, self.model.patches, processes.rank, processes.world, workers)
        self.held_out = held_out_pairs(self.order, config.data, self.model.patches, config.log.held_out_pairs)
        self.weighting = [torch.tensor(values, dtype=torch.float32, device=self.device)
                          for values in (config.objective.kind_weights(), self.order.shares)]
        # Samples replaced since the run began: bad bytes, no pair by the rules.
        self.replaced = torch.zeros(2, dtype=torch.int64, device=self.device)
        # Sums since the last line of the log: per kind the loss and the pairs, then gradient norm and steps.
        self.sums = torch.zeros(2 * len(PAIR_KINDS) + 2, dtype=torch.float64, device=self.device)

    BROKEN = ("training broke down and what is saved is from before. Start a new run=DIR with a lower optim.lr or with "
              "optim.clip, from there with init=RUN or anew")

    def to_device(self, arrays):
        return {name: torch.from_numpy(values).to(self.device, non_blocking=True) for name, values in arrays.items()}

    def update(self, step, arrays):
        """One step: the loss summed over this rank's rows, its gradient over all ranks, AdamW."""
        config, batch = self.config, self.to_device(arrays)
        lr = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        rows, parts = len(batch["tags"]), config.accumulate
        for part in range(parts):
            piece = {k: v[part * rows // parts:(part + 1) * rows // parts] for k, v in batch.items()}
            alone = part < parts - 1 and self.processes.world > 1
            with self.wrapped.no_sync() if alone else contextlib.nullcontext():
                losses = self.wrapped(piece)
                kind = piece["tags"][:, 0].long()
                loss = objective.combine(losses, kind, *self.weighting, config.batch)
                # DDP averages gradients over ranks; this loss is a sum.
                (loss * self.processes.world).backward()
            self._add(losses.detach().double(), kind)
        norm = nn.utils.clip_grad_norm_(list(self.names), config.optim.clip if config.optim.clip is not None else float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.replaced += batch["tags"][:, REPLACED].sum(0)
        self.sums[-2] += norm.detach()
        self.sums[-1] += 1

    def _add(self, losses, kind):
        for k in range(len(PAIR_KINDS)):
            chosen = kind == k
            self.sums[2 * k] += (losses * chosen).sum()
            self.sums[2 * k + 1] += chosen.sum()

    def take_losses(self):
        """{"loss/KIND", "optim/grad_norm"} means since the last call, over all ranks.

        Raises:
            UserError: a loss or a gradient is no number.
        """
        sums = self.processes.sum(self.sums.clone()).tolist()
        self.sums.zero_()
        out = {f"loss/{kind}": sums[2 * k] / sums[2 * k + 1] for k, kind in enumerate(PAIR_KINDS) if sums[2 * k + 1]}
        out["optim/grad_norm"] = sums[-2] / sums[-1]
        for name, value in out.items():
            if not np.isfinite(value):
                raise UserError(f"{name} is {value}: {self.BROKEN}")
        return out

    @torch.no_grad()
    def held_out_losses(self):
        """{"held_out/KIND": loss} of the fixed pairs; each rank takes its share."""
        total = torch.zeros(2 * len(PAIR_KINDS), dtype=torch.float64, device=self.device)
        rows = range(self.processes.rank, len(self.held_out["tags"]), self.processes.world)
        for first in range(0, len(rows), 64):
            batch = self.to_device({k: v[list(rows[first:first + 64])] for k, v in self.held_out.items()})
            losses = self.step_module(batch).double()
            for k in range(len(PAIR_KINDS)):
                chosen = batch["tags"][:, 0] == k
                total[2 * k] += (losses * chosen).sum()
                total[2 * k + 1] += chosen.sum()
        total = self.processes.sum(total).tolist()
        return {f"held_out/{kind}": total[2 * k] / total[2 * k + 1] for k, kind in enumerate(PAIR_KINDS) if total[2 * k + 1]}

    def load(self, path):
        """Go on from a checkpoint's folder; returns its step."""
        state = checkpoint.load(path, self.model, lambda t: checkpoint.load_optimizer(self.optimizer, self.names, t))
        if self.processes.first:
            self.sums.copy_(torch.tensor(state["sums"], dtype=torch.float64))
            self.replaced.copy_(torch.tensor(state["replaced"]))
        return state["step"]

    def save(self, run, step):
        """Write a checkpoint from rank 0; a failure there is raised on all, and so are weights that are no numbers."""
        if not torch.stack([p.detach().isfinite().all() for p in self.names]).all():
            raise UserError(f"weights at step {step} are not finite: {self.BROKEN}")
        sums, replaced = self.processes.sum(self.sums.clone()), self.processes.sum(self.replaced.clone())
        state = {"step": step, "slot": step * self.config.batch, "ledger": [], "sums": sums.tolist(),
                 "replaced": replaced.tolist(), "versions": checkpoint.versions()}
        self.processes.from_first(lambda: str(checkpoint.save(
            run.folder, step, lambda path: weights.save_model(self.model, path),
            checkpoint.optimizer_tensors(self.optimizer, self.names), state, run.lease.check, self.config.checkpoint.keep)))


def build(config):
    """The network of a config, from ``init`` if it is set, else from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = CrossCompletion(config.model)
    # A run that goes on has weights of its own, and needs its beginnings no more.
    if config.init and checkpoint.newest(config.run) is None:
        weights.init_from(model, config.init)
    return model


def build_optimizer(names, optim, device):
    """AdamW without decay on biases and norms."""
    groups = [{"params": [p for p in names if p.ndim > 1], "weight_decay": optim.weight_decay},
              {"params": [p for p in names if p.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=device.type == "cuda")


def learning_rate(config, step):
    scale = config.batch / 256
    return warmup_cosine(step, config.optim.lr * scale, config.optim.min_lr * scale, config.optim.warmup, config.steps)


def train(config):
    """Train to ``config.steps``; returns the exit code, 0 or engine.signals.STOPPED after a signal."""
    processes = distributed.start(config.device)
    torch.set_num_threads(distributed.threads())
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may vary, and torch refuses it
        torch.use_deterministic_algorithms(True)
    trainer = run = log = None
    stop = StopRequest()
    try:
        trainer = Trainer(config, processes)
        if processes.first:
            run, error = watch.open_run(config, trainer.order)
        newest = processes.from_first(lambda: watch.newest_of(run, error))
        start = trainer.load(newest) if newest else 0
        if processes.first:
            watch.cut_bad(run.folder, start * config.batch)
            log = Log(run.folder, start, config.log.wandb, run.folder.name, flat(config))
            watch.announce(config, trainer, start)
        return loop(config, trainer, run, log, stop, start)
    finally:
        if trainer:
            trainer.loader.close()
        if log:
            log.close()
        if run:
            run.close()
        processes.stop()


def loop(config, trainer, run, log, stop, start):
    """Steps ``start`` to ``config.steps``, with what is due after each."""
    clock, at = time.perf_counter(), start
    # A log file gets a line twice a minute, a person at a screen sees it move.
    bar = tqdm(total=config.steps, initial=start, unit="step", disable=not trainer.processes.first, dynamic_ncols=True,
               mininterval=0.5 if sys.stderr.isatty() else 30)
    for step, arrays in trainer.loader.batches(start, config.steps):
        trainer.update(step, arrays)
        done, last = step + 1, step + 1 == config.steps
        bar.update()
        evaluate = trainer.held_out is not None and due(done, config.log.held_out_every, last)
        draw = trainer.held_out is not None and due(done, config.log.pictures_every, last)
        if due(done, config.log.every, last) or evaluate or draw:
            line = trainer.take_losses()
            line |= watch.measured(trainer, step, (done - at) * config.batch, time.perf_counter() - clock)
            line |= trainer.held_out_losses() if evaluate else {}
            bar.set_postfix_str(" ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in line.items() if k.startswith("loss/")),
                                refresh=False)
            watch.note_bad(config.run, trainer.loader)
            if log:
                log.write(done, line, {"completions": panels.save(trainer, run.folder, done)} if draw else None)
            clock, at = time.perf_counter(), done
        # Asked of all ranks only now and then: it costs a word between them.
        stopped = (trainer.processes.world == 1 or done % 10 == 0) and trainer.processes.any(bool(stop))
        if due(done, config.checkpoint.every, last or stopped):
            watch.note_bad(config.run, trainer.loader)
            trainer.save(run, done)
        if stopped and not last:
            bar.close()
            watch.say(trainer, f"{stop.name or 'a signal'}: saved at step {done}; the same command goes on from there")
            return STOPPED
    bar.close()
    return 0


def due(done, every, last):
    return every > 0 and (last or done % every == 0)

"""The state of a training run and the steps it takes, whatever it learns; ``engine.training.loop``
runs it."""

import contextlib
import copy
import sys

import torch

from engine.checkpoint import checkpoints
from engine.checkpoint.saver import Saver
from engine.distributed import hardware
from engine.distributed.alive import kept_alive
from engine.distributed.heartbeat import Whereabouts
from engine.distributed.parallel import Spread
from engine.distributed.replicas import Replicas
from engine.distributed.stragglers import OwnTime
from engine.training import eval_jobs, spike_guard
from engine.training.schedule import warmup_cosine


class BrokenOff(Exception):
    """An evaluation ended early, on all ranks, because the run was asked to stop."""


class Trainer:
    """Weights, optimizer and running sums of a run.

    A room builds on it with ``loss(piece)``, ``losses(means)``, ``evaluate()``, ``draw(folder,
    step)`` and the papers of its folder (``open_run``, ``announce``, ``measured``, ``note_bad``,
    ``list_bad``), and sets ``order``, ``loader``, ``to_device`` ({name: array} -> {name: tensor} on
    the device), ``val`` (None where nothing is) and ``room``, its command. The loop sets
    ``stop`` (true once the run is asked to stop) and ``watch``.

    Args:
        config: engine.config.train_config.TrainConfig.  processes:
            engine.distributed.process_group.Processes.
        model: the bare network, whose weights are saved.  step_module: a module that holds it,
            called on parts of a batch.
        meters: how many numbers ``loss`` gives beside the loss.
        replaced: columns of the arrays' "tags" with the counts of replaced samples.
        scale: from a weight's name to a factor on its learning rate; None: 1 for all.
        entries: methods of the network, beside ``forward``, that are called while its weights may
            be sharded.
        bf16: the step module runs the network under bf16 autocast.
    """

    probe_every = (
        0  # steps between calls of ``probe()``, which gives more numbers for the log; 0: never
    )

    def __init__(
        self,
        config,
        processes,
        model,
        step_module,
        meters,
        replaced,
        scale=None,
        entries=(),
        bf16=False,
    ):
        self.config, self.processes, self.device = config, processes, processes.device
        self.stop, self.watch = False, Whereabouts()
        self.compiling = hardware.compiles(config.compile, self.device)  # in the step to come
        self.model, self.step_module = model, step_module
        holders = config.holders(processes.world, processes.of_a_node())
        self.spread = Spread(holders, processes, model, step_module, entries, bf16)
        self.replicas = Replicas(processes, holders)
        self.wrapped = self.spread.module
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(
            self.names, config.optim, self.device, scale or (lambda name: 1.0)
        )
        self.saver = Saver(config.checkpoint, processes.first, eval_jobs.needed(config))
        self.replaced_columns = replaced
        # Samples replaced since the run began: bad bytes, nothing that the rules want.
        self.replaced = torch.zeros(2, dtype=torch.int64, device=self.device)
        # Sums since the last line of the log, of updates that were not skipped: the meters, then
        # gradient norm and steps.
        self.sums = torch.zeros(meters + 2, dtype=torch.float64, device=self.device)
        self.guard = spike_guard.Guard(config.guard, meters, self.device)
        self.own_time = OwnTime(self.device)

    def update(self, step, arrays):
        """One step: the loss summed over this rank's rows, its gradient over all ranks, AdamW
        unless the update is bad."""
        if not self.compiling:
            self._update(step, arrays)
            return
        if self.processes.first:
            print(
                "the first step compiles the network's blocks, for a minute or several",
                file=sys.stderr,
                flush=True,
            )
        allowed = self.config.guard.compile_s
        self.watch.at(step, f"compiling (guard.compile_s={allowed:g})")
        with kept_alive(self.watch, allowed):
            self._update(step, arrays)
            self._wait_for_device()
        self.compiling = False

    def _wait_for_device(self):
        # Until it is through the compiled step, whose collectives wait for the slowest rank to have
        # compiled.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _update(self, step, arrays):
        config = self.config
        with self.own_time.running():
            batch = self.to_device(arrays)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step) * group["scale"]
        rows, parts = len(batch["tags"]), config.grad_accum_steps
        sums = torch.zeros_like(self.sums)
        for part in range(parts):
            piece = {
                k: v[part * rows // parts : (part + 1) * rows // parts] for k, v in batch.items()
            }
            alone = part < parts - 1 and self.processes.world > 1
            with self.spread.unsynced() if alone else contextlib.nullcontext():
                with self.own_time.running():
                    loss, meters = self.loss(piece)
                # Gradients are averaged over ranks; this loss is a sum. A loss that is no number
                # makes the factor one as well, and with it the gradient of all ranks.
                (loss * (self.processes.world + 0 * loss.detach())).backward()
            sums[:-2] += meters
        norm = self.spread.clip(self.names, config.optim.max_grad_norm)
        bad = self.guard.judge(step, norm, sums[:-2])
        # The fused kernel leaves weights, moments and step counters as they are where this is 1;
        # the host need not know.
        self.optimizer.found_inf = bad.float()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.replaced += batch["tags"][:, self.replaced_columns].sum(0)
        sums[-2] = norm.detach()
        sums[-1] = 1
        self.sums += sums.where(~bad, 0.0)

    def take_losses(self):
        """{"loss/NAME", "optim/grad_norm"} means since the last call, over all ranks, and what the
        guard did since the start.

        Skipped updates count in no mean; where all were skipped there are none.
        """
        sums = self.processes.sum(self.sums.clone()).tolist()
        self.forget_losses()
        out = self.losses(sums[:-2]) | {"optim/grad_norm": sums[-2] / sums[-1]} if sums[-1] else {}
        return out | {
            "guard/skipped": int(self.guard.skipped),
            "guard/rollbacks": self.guard.rollbacks,
        }

    def forget_losses(self):
        self.sums.zero_()

    def note(self):
        """Write what is to be known of single samples and updates: bad bytes, bad updates. All
        ranks call it."""
        self.note_bad()
        for step, norm, limit, sums in self.guard.take_records(self.processes.sum):
            if self.processes.first:
                self.guard.capture(
                    self.config.run, step, self.config.batch, norm, limit, self.losses(sums)
                )

    def shares(self, total, size=64):
        """Yield this rank's rows of ``total``, ``size`` at a time; ends early once the run is asked
        to stop (see ``total``)."""
        rows = range(self.processes.rank, total, self.processes.world)
        for first in range(0, len(rows), size):
            if self.stop:
                return
            self.watch.alive()
            yield list(rows[first : first + size])

    def total(self, sums):
        """The sum over ranks of what each gathered from ``shares``, as a list.

        Raises:
            BrokenOff: on all ranks, if any was asked to stop.
        """
        *out, stopped = self.processes.sum(
            torch.cat([sums, sums.new_full((1,), bool(self.stop))])
        ).tolist()
        if stopped:
            raise BrokenOff
        return out

    def go_back(self, run, done, row):
        """Back to the last good checkpoint, and on at step ``done``; False, with a report, if that
        is no way out.

        Args:
            run: rank 0's engine.run.folder.Run.  row: bad updates in a row, as the ranks agreed
                after step ``done``.
        """
        config, first = self.config, done - spike_guard.LAG - row
        self.watch.at(done, "going back")
        self.settle(run)
        self.note()
        path = None
        if self.guard.rollbacks < config.guard.rollbacks:
            path = self.processes.from_first(
                lambda: spike_guard.last_good(run.folder, first, config.checkpoint.every)
            )
        if path is None:
            if self.processes.first:
                print(
                    "error: "
                    + spike_guard.report(
                        run.folder, self.room, first, row, self.guard, config.guard
                    ),
                    file=sys.stderr,
                    flush=True,
                )
            return False
        skipped, ledger = self.guard.skipped, self.guard.ledger
        start = self.load(path)
        self.guard.went_back(skipped, ledger, start, done)
        self.forget_losses()
        if self.processes.first:
            print(
                f"warning: {row} bad updates in a row from step {first} on: back to the checkpoint "
                f"of step {start}, and over "
                f"steps {start} to {done - 1} ({self.guard.rollbacks} of {config.guard.rollbacks} "
                f"such returns); captures/ "
                f"has the batches",
                file=sys.stderr,
                flush=True,
            )
        return True

    def load(self, path):
        """Go on from a checkpoint's folder; returns its step."""
        state = checkpoints.load(path, self.model, self.optimizer, self.names)
        sums, replaced = (
            torch.tensor(state["sums"], dtype=torch.float64),
            torch.tensor(state["replaced"]),
        )
        if not self.processes.first:
            sums[:-2], replaced = 0, torch.zeros_like(replaced)
        self.sums.copy_(sums)
        self.replaced.copy_(replaced)
        if "guard" in state:  # not in checkpoints from before there was one
            self.guard.load(state["guard"])
        return state["step"]

    def save(self, run, step, last, metadata):
        """Have rank 0 write a checkpoint, while training goes on unless it is the last.

        Args:
            run: rank 0's engine.run.folder.Run.  last: wait for it.  metadata: {text: text} for the
                header of the weights' file.
        Raises:
            UserError: on all ranks: the folder is lost to another run.
            EnvironmentFault: on all ranks: replicas of the weights differ, so none is saved; with
                ``last``, the checkpoint could not be written.
        """
        self.watch.at(step, "saving")
        self.settle(run)
        self.note()
        weights = self.model.state_dict()
        moments = checkpoints.optimizer_tensors(self.optimizer, self.names)
        self.replicas.check(
            step, weights | {f"optimizer state {name}": tensor for name, tensor in moments.items()}
        )
        sums, replaced = (
            self.processes.sum(self.sums.clone()),
            self.processes.sum(self.replaced.clone()),
        )
        sums[-2:] = self.sums[-2:]  # each rank counts the same norms and steps
        state = {
            "step": step,
            "slot": step * self.config.batch,
            "guard": copy.deepcopy(self.guard.state()),
            "sums": sums.tolist(),
            "replaced": replaced.tolist(),
            "versions": checkpoints.versions(),
        }
        self.saver.begin(run, step, weights, metadata, moments, state)
        if last:
            self.settle(run, last=True)

    def settle(self, run, last=False):
        """Wait for the checkpoint that is being written.

        Raises:
            UserError: on all ranks: another run took the folder over; with ``last``, the checkpoint
                was not written.
        """
        self.processes.from_first(lambda: self.saver.settle(last))
        self.check_folder(run)

    def check_folder(self, run):
        """Raises UserError on all ranks if another run took the folder over, before anything more
        is written to it."""
        self.processes.from_first(lambda: run.check())

    def close(self):
        """Stop the loader's workers and wait for the checkpoint that is being written."""
        self.loader.close()
        self.saver.wait()


def build_optimizer(names, optim, device, scale):
    """AdamW without decay on biases and norms. ``names``: {parameter: name}. ``scale``: as for
    Trainer."""
    groups = {}
    for parameter, name in names.items():
        group = groups.setdefault((parameter.ndim > 1, scale(name)), {"params": []})
        group["params"].append(parameter)
    groups = [
        {**group, "weight_decay": optim.weight_decay if decays else 0.0, "scale": factor}
        for (decays, factor), group in groups.items()
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)


def learning_rate(config, step):
    scale = config.samples / 256
    return warmup_cosine(
        step,
        config.optim.lr * scale,
        config.optim.min_lr * scale,
        config.optim.warmup,
        config.steps,
    )

"""The state of a training run and the steps it takes, whatever it learns.

``engine.training.loop`` runs it.
"""

import contextlib
import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from engine import version
from engine.checkpoint import restore
from engine.checkpoint.saver import Saver
from engine.config.train_config import OptimConfig, TrainConfig
from engine.distributed import hardware
from engine.distributed.alive import kept_alive
from engine.distributed.hardware import memory_gib, peak_flops
from engine.distributed.heartbeat import Whereabouts
from engine.distributed.parallel import Spread
from engine.distributed.replicas import Replicas
from engine.distributed.stragglers import OwnTime
from engine.errors import Failure, explain, failure_of
from engine.logging.console import get_logger
from engine.logging.metric_registry import ENGINE_METRICS, name_speeds, write_metrics
from engine.run.folder import Run
from engine.run.signals import StopRequest
from engine.training import eval_jobs, spike_guard
from engine.training.average import HEADER, Average
from engine.training.schedule import warmup_again, warmup_cosine
from engine.training.shares import BrokenOff, Shares
from engine.training.task import Arrays, Task

log = get_logger(__name__)


class Trainer:
    """Weights, optimizer and running sums of a run of a task.

    Attributes:
        task: what is trained.  config, processes, device, model, loader: the task's.
        spread: how ranks share the weights; ``wrapped``: the task's step module under it.
        names: {parameter: name} of what is trained.
        begins: {name: the step from which on it is}; before, it needs no gradient.
        average: of the weights, with optim.ema; else None.
        stop: true once the run is asked to stop.  watch: gets where the rank is.  shares: how
            an evaluation is divided; it has the same two.
    """

    def __init__(self, task: Task) -> None:
        self.task, config, processes = task, task.config, task.processes
        self.config, self.processes, self.device = config, processes, processes.device
        self.shares = Shares(processes)
        self.stop, self.watch = self.shares.stop, self.shares.watch
        self.compiling = hardware.compiles(config.compile, self.device)  # in the step to come
        self.model, self.loader = task.model, task.loader
        trained = [name for name, p in task.model.named_parameters() if p.requires_grad]
        self.begins = {name: task.trained_from(name) for name in trained}
        self.released = -1  # how many of the steps at which weights begin to be trained have come
        self._set_trained(0)
        holders = config.holders(processes.world, processes.of_a_node())
        self.spread = Spread(
            holders, processes, task.model, task.step_module, task.entries, task.bf16
        )
        self.replicas = Replicas(processes, holders)
        # Sharded weights are other objects than the bare module's.
        self.names = {p: name for name, p in task.model.named_parameters() if name in self.begins}
        self.optimizer = build_optimizer(
            self.names, config.optim, self.device, task.lr_mult, task.trained_from
        )
        self.saver = Saver(config.checkpoint, processes.first, eval_jobs.needed(config))
        # Samples replaced since the run began, such as those with bad bytes.
        columns = task.replaced_columns
        self.replaced = torch.zeros(
            columns.stop - columns.start, dtype=torch.int64, device=self.device
        )
        # Sums since the last line of the log, of updates that were not skipped: the meters, then
        # gradient norm and steps.
        meters = task.meter_count
        self.sums = torch.zeros(meters + 2, dtype=torch.float64, device=self.device)
        self.guard = spike_guard.Guard(config.guard, meters, self.device)
        self.average = Average(config.optim.ema, self.names) if config.optim.ema else None
        self.own_time = OwnTime(self.device)

    @property
    def wrapped(self) -> torch.nn.Module:
        """The task's step module, as the ranks share its weights and gradients."""
        return self.spread.module

    def follow(self, stop: StopRequest, watch: Whereabouts) -> None:
        """Heed a request to stop, and tell a watch where this rank is."""
        self.stop = self.shares.stop = stop
        self.watch = self.shares.watch = watch
        self.loader.alive = watch.alive

    def _set_trained(self, step: int) -> bool:
        """Have those weights need a gradient that are trained in a step; whether others are."""
        released = sum(begins <= step for begins in set(self.begins.values()))
        if released == self.released:
            return False
        self.released = released
        for name, parameter in self.model.named_parameters():
            if name in self.begins:
                parameter.requires_grad_(self.begins[name] <= step)
        return True

    def _release(self, step: int) -> None:
        """Begin to train those weights whose step has come."""
        if self._set_trained(step):
            self.spread.follow_trained()
            # More weights have a larger gradient, which is no spike.
            self.guard.forget_norms()

    def open_run(self) -> tuple[Run | None, Failure | None]:
        """(Run, None) of the run's folder, with what the task keeps in it; or (None, the error).

        The error is handed back, not raised, because only rank 0 opens the folder and all ranks
        must stop.
        """
        run = None
        try:
            run = Run(self.config.run, self.config, self.task.command, self.device.type)
            self.task.begin_run(run.folder)
            self._describe_metrics(run.folder)
        except Failure as error:
            if run:
                run.close()
            return None, error
        return run, None

    def _describe_metrics(self, folder):
        book = ENGINE_METRICS.extend(name_speeds(self.task.unit)).extend(self.task.metrics)
        try:
            write_metrics(folder, book)
        except OSError as error:
            raise failure_of(error, f"run={folder}: {explain(error)}") from None

    def prepare(self, step: int) -> bool:
        """Have the task do what is due before a step.

        Returns:
            False if a request to stop broke it off: then nothing has changed.
        """
        try:
            self.task.prepare_step(step, self.shares)
        except BrokenOff:
            return False
        return True

    def update(self, step: int, arrays: Arrays) -> None:
        """Take one step: loss, gradient, and AdamW unless the update is bad.

        The loss is summed over this rank's rows, its gradient over all ranks.
        """
        if not self.compiling:
            self._update(step, arrays)
            return
        if self.processes.first:
            log.info("the first step compiles the network's blocks, for a minute or several")
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
            batch = self.task.to_device(arrays)
        self._release(step)
        for group in self.optimizer.param_groups:
            own_factor = group["scale"] * warmup_again(step, group["begins"], config.optim.warmup)
            group["lr"] = learning_rate(config, step) * own_factor
        rows, parts = len(batch["tags"]), config.grad_accum_steps
        sums = torch.zeros_like(self.sums)
        for part in range(parts):
            piece = {
                k: v[part * rows // parts : (part + 1) * rows // parts] for k, v in batch.items()
            }
            alone = part < parts - 1 and self.processes.world > 1
            with self.spread.unsynced() if alone else contextlib.nullcontext():
                with self.own_time.running():
                    loss, meters = self.task.compute_loss(self.wrapped, piece)
                # Gradients are averaged over ranks; this loss is a sum. A loss that is NaN or
                # Inf makes the factor NaN as well, and with it the gradient of all ranks.
                (loss * (self.processes.world + 0 * loss.detach())).backward()
            sums[:-2] += meters
        norm = self.spread.clip(self.names, config.optim.max_grad_norm)
        bad = self.guard.judge(step, norm, sums[:-2])
        # The fused kernel leaves weights, moments and step counters as they are where this is 1;
        # the host need not know.
        self.optimizer.found_inf = bad.float()  # pyrefly: ignore - GradScaler's, undeclared
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(bad)
        self.task.finish_update(step, bad)
        self.replaced += batch["tags"][:, self.task.replaced_columns].sum(0)
        sums[-2] = norm.detach()
        sums[-1] = 1
        self.sums += sums.where(~bad, 0.0)

    @contextlib.contextmanager
    def viewed(self) -> Iterator[None]:
        """Have each rank hold all weights within, of the average where there is one.

        So validated, probed and drawn is what checkpoints give.
        """
        with self.average.shown() if self.average else contextlib.nullcontext():
            self.spread.gather()
            try:
                yield
            finally:
                self.spread.release()

    def take_losses(self) -> dict[str, float]:
        """Return means since the last call, over all ranks: {"loss/NAME", "optim/grad_norm"}.

        Also what the guard did since the start.

        Skipped updates count in no mean; where all were skipped there are none.
        """
        sums = self.processes.sum(self.sums.clone()).tolist()
        self.forget_losses()
        out = {}
        if sums[-1]:
            out = self.task.name_losses(sums[:-2])
            out["optim/grad_norm"] = sums[-2] / sums[-1]
        return out | {
            "guard/skipped": int(self.guard.skipped),
            "guard/rollbacks": self.guard.rollbacks,
        }

    def forget_losses(self) -> None:
        """Begin the means of the next line anew."""
        self.sums.zero_()

    def measure(self, step: int, samples: int, seconds: float) -> dict[str, float]:
        """The numbers beside the losses, of all ranks where the docs say no other.

        Args:
            step: the last one taken.  samples, seconds: since the last line.
        """
        unit, world, rate = self.task.unit, self.processes.world, samples / seconds
        replaced = self.processes.sum(self.replaced.clone()).tolist()
        out = {
            "optim/lr": learning_rate(self.config, step),
            "optim/param_norm": param_norm(self.names),
            f"speed/{unit}_per_s": rate,
            f"speed/{unit}_per_s_device": rate / world,
            "speed/data_wait_share": self.loader.take_waited() / seconds,
            unit: (step + 1) * self.config.samples,
        }
        flops = self.task.count_flops()
        # A share of a peak that is not known, or that float32 cannot reach, would be a made-up
        # number.
        if flops and self.task.bf16 and (peak := device_peak(self.device)):
            out["speed/mfu"] = flops * rate / world / peak
        return out | memory_gib(self.device) | self.task.measure_data(step, replaced)

    def note(self) -> None:
        """Write what is to be known of single samples and updates: bad bytes, bad updates.

        All ranks call it.
        """
        self.task.note_bad()
        for step, norm, limit, sums in self.guard.take_records(self.processes.sum):
            if self.processes.first:
                self.guard.capture(
                    self.config.run,
                    step,
                    self.config.batch,
                    norm,
                    limit,
                    self.task.name_losses(sums),
                )

    def go_back(self, run: Run | None, done: int, row: int) -> bool:
        """Back to the last good checkpoint, and on at step ``done``.

        False, with a report, if that is no way out.

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
                lambda: spike_guard.last_good(_opened(run).folder, first, config.checkpoint.every)
            )
        if path is None:
            if self.processes.first:
                log.error(
                    spike_guard.report(
                        _opened(run).folder, self.task.package, first, row, self.guard, config.guard
                    )
                )
            return False
        skipped, ledger = self.guard.skipped, self.guard.ledger
        start = self.load(path)
        self.guard.went_back(skipped, ledger, start, done)
        self.forget_losses()
        if self.processes.first:
            log.warning(
                f"{row} bad updates in a row from step {first} on: back to the checkpoint of step "
                f"{start}, and over steps {start} to {done - 1} ({self.guard.rollbacks} of "
                f"{config.guard.rollbacks} such returns); captures/ has the batches"
            )
        return True

    def load(self, path: Path) -> int:
        """Resume from a checkpoint's folder; returns its step."""
        self.task.read_metadata(path)
        step = restore.load_state(path)["step"]
        # The last update before the checkpoint was of step - 1.
        if self._set_trained(step - 1):
            self.spread.follow_trained()
        names = (name for name, _ in self.model.named_parameters())
        frozen = {name for name in names if self.begins.get(name, step) >= step}
        state = restore.load(path, self.model, self.optimizer, self.names, frozen)
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
        if self.average:
            self.average.load(path, state.get(HEADER))
        self.task.load_state(path)
        return state["step"]

    def save(self, run: Run | None, step: int, last: bool) -> None:
        """Have rank 0 write a checkpoint, while training continues unless it is the last.

        Args:
            run: rank 0's engine.run.folder.Run.  last: wait for it.
        Raises:
            UserError: on all ranks: the folder is lost to another run.
            EnvironmentFault: on all ranks: replicas of the weights differ, so none is saved; with
                ``last``, the checkpoint could not be written.
        """
        self.watch.at(step, "saving")
        self.settle(run)
        self.note()
        weights, metadata = self.model.state_dict(), self.task.make_metadata()
        moments = restore.list_optimizer_tensors(self.optimizer, self.names)
        moments |= {restore.OF_TASK + key: state for key, state in self.task.list_state().items()}
        averaged = {}
        if self.average:
            weights = self.average.replace(self.model.state_dict(keep_vars=True))
            moments |= self.average.list_trained()
            averaged = {HEADER: self.average.describe()}
            metadata |= {HEADER: json.dumps(averaged[HEADER])}
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
            "versions": version.library_versions(),
            **averaged,
        }
        self.saver.begin(run, step, weights, metadata, moments, state)
        if last:
            self.settle(run, last=True)

    def settle(self, run: Run | None, last: bool = False) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            UserError: on all ranks: another run took the folder over; with ``last``, the checkpoint
                was not written.
        """
        self.processes.from_first(lambda: self.saver.settle(last))
        self.check_folder(run)

    def check_folder(self, run: Run | None) -> None:
        """Raise UserError on all ranks if another run took the folder over.

        To be called before anything more is written to it.
        """
        self.processes.from_first(lambda: _opened(run).check())

    def close(self) -> None:
        """Stop the loader's workers and wait for the checkpoint that is being written."""
        self.loader.close()
        self.saver.wait()


def build_optimizer(
    names: Mapping[nn.Parameter, str],
    optim: OptimConfig,
    device: torch.device,
    lr_mult: Callable[[str], float],
    trained_from: Callable[[str], int] = lambda name: 0,
) -> torch.optim.AdamW:
    """AdamW without decay on biases and norms.

    Args:
        lr_mult: from a weight's name to a factor on its learning rate.
        trained_from: from a weight's name to the step from which on it is trained.
    """
    groups = {}
    for parameter, name in names.items():
        kind = (parameter.ndim > 1, lr_mult(name), trained_from(name))
        groups.setdefault(kind, {"params": []})["params"].append(parameter)
    groups = [
        {
            **group,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "scale": factor,
            "begins": begins,
        }
        for (decays, factor, begins), group in groups.items()
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, before the factors of single weights."""
    return warmup_cosine(
        step,
        config.peak_lr,
        config.scale_lr(config.optim.min_lr),
        config.optim.warmup,
        config.steps,
        config.optim.fall_share,
    )


def param_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Length of all weights as one vector. Waits for the device: for logged lines alone."""
    norm = nn.utils.get_total_norm([p.detach() for p in parameters])
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def device_peak(device: torch.device) -> float | None:
    """Operations a second that a device may reach in bf16; None where that is not known."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device))


def _opened(run: Run | None) -> Run:
    """The run's folder; RuntimeError on another rank than the one that has it open."""
    if run is None:
        raise RuntimeError("the run's folder is open on rank 0 alone")
    return run

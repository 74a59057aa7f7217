"""The loop of every training run."""

import contextlib
import os
from collections.abc import Callable
from signal import Signals
from typing import TypeVar

import torch

from engine.config.parser import flat
from engine.config.train_config import TrainConfig
from engine.distributed import process_group
from engine.distributed.consensus import Agreement
from engine.distributed.heartbeat import Watch
from engine.distributed.process_group import Processes
from engine.distributed.rank_env import read_rank_env
from engine.errors import ExitCode
from engine.logging import progress
from engine.logging.console import get_logger
from engine.logging.log_schedule import Lines, due, last_step
from engine.logging.metrics import Log
from engine.run import preflight, private
from engine.run.folder import Run
from engine.run.signals import StoppedEarly, StopRequest
from engine.training import gc_control
from engine.training.eval_jobs import Evaluations
from engine.training.trainer import Trainer

console = get_logger(__name__)

# A collective outlasts guard.hang_s by this, so that the watch names who failed before torch ends
# the process.
PATIENCE_S = 300

Config = TypeVar("Config", bound=TrainConfig)


def train(config: Config, make_trainer: Callable[[Config, Processes], Trainer]) -> int:
    """Train to ``config.steps``.

    Returns the exit code: DONE, STOPPED or DIVERGED of engine.errors.ExitCode.

    With several processes, one that fails or dies ends all of them, each with one line that says
    which and why.

    Args:
        config: engine.config.train_config.TrainConfig.  make_trainer: (config, processes) ->
            engine.training.trainer.Trainer.
    """
    with contextlib.ExitStack() as closing:
        stop = StopRequest()
        closing.callback(stop.close)
        try:
            # The watch stands first, so that whatever fails on one rank from here on is reported to
            # all.
            patience_s = _collectives_may_take_s(config)
            with Watch(read_rank_env(), config.guard.hang_s, stop, patience_s) as watch:
                processes = process_group.start(config.device, patience_s, watch.store)
                closing.callback(processes.stop)
                _settle(config, processes.device)
                code = _train(config, make_trainer, processes, stop, watch, closing)
                stop.leaving()
                return code
        except StoppedEarly as signal:
            console.info("%s: stopped before the first step; there was nothing to save", signal)
            return ExitCode.STOPPED


def _collectives_may_take_s(config):
    # One rank may have compiled, and wait in a collective, long before another.
    return (
        config.guard.hang_s
        + PATIENCE_S
        + (0 if config.compile == "off" else config.guard.compile_s)
    )


def _settle(config, device):
    if config.compile == "on" or (config.compile == "auto" and device.type == "cuda"):
        os.environ |= private.compiled_code()
    torch.set_num_threads(process_group.threads())
    if config.deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # without it cuBLAS may vary, and torch refuses it
        torch.use_deterministic_algorithms(True)


def _train(config, make_trainer, processes, stop, watch, closing):
    """Build everything, resume from the newest checkpoint and run the loop."""
    config.check_processes(processes.world, processes.of_a_node())
    trainer = make_trainer(config, processes)
    closing.callback(trainer.close)
    trainer.follow(stop, watch)
    run = log = error = evaluations = None
    if processes.first:
        run, error = trainer.open_run()
    if run:
        closing.callback(run.close)
        # What is registered later is called first: the folder is let go of once nothing more is
        # written to it.
        closing.callback(trainer.saver.wait)
        watch.saving, watch.closing = trainer.saver.finish, run.close
    newest = processes.from_first(lambda: _newest(run, error))
    preflight.check(config, trainer)
    start = trainer.load(newest) if newest else 0
    if run:
        trainer.task.list_bad(run.folder, start * config.batch)
        log = Log(run.folder, start, config.log.wandb, run.folder.name, flat(config))
        closing.callback(log.close)
        evaluations = Evaluations(config, run.folder, log, stop)
        closing.callback(evaluations.close)
        trainer.task.announce(start)
    written = processes.from_first(lambda: run is not None and last_step(run.folder) == start)
    bar = progress.bar(config.steps, "step", start, hidden=not processes.first)
    closing.callback(bar.close)
    stop.ready()
    lines = Lines(config, trainer, run, log, watch, bar, start, evaluations)
    code = loop(config, trainer, run, lines, watch, start, written)
    return ExitCode.STOPPED if evaluations and code == 0 and not evaluations.finish(watch) else code


def loop(
    config: TrainConfig,
    trainer: Trainer,
    run: Run | None,
    lines: Lines,
    watch: Watch,
    start: int,
    written: bool,
) -> int:
    """Steps ``start`` to ``config.steps``, with what is due after each.

    ``written``: the log has the line of ``start``.
    """
    if written:
        trainer.forget_losses()
    elif start and lines.due(start) and not lines.write(start):
        return ExitCode.STOPPED  # nothing is new since the checkpoint
    stop = trainer.stop
    if isinstance(stop, bool):
        raise RuntimeError("the trainer heeds no request to stop; call its follow first")
    agreement = Agreement(trainer.processes)
    agreement.send(0, trainer.guard.before())
    saved = True  # what the run begins with
    for step, arrays in gc_control.between(
        watch.reading(trainer.loader.batches(start, config.steps))
    ):
        if not trainer.prepare(step):
            agreement.hear()
            if not step:
                raise StoppedEarly(stop.name or "a signal to another process")
            if saved:
                trainer.settle(run, last=True)
            else:
                trainer.save(run, step, True)
            return _stop(trainer, lines, stop, stop.number, step)
        trainer.update(step, arrays)
        done, last = step + 1, step + 1 == config.steps
        lines.bar.update()
        stopped, row = agreement.hear()
        if row >= config.guard.skips and not trainer.go_back(run, done, row):
            return ExitCode.DIVERGED
        # After a return nothing of before it may be heard again.
        agreement.send(stop.number, trainer.guard.row())
        saved = (
            last or stopped or (due(done, config.checkpoint.every, False) and trainer.guard.calm())
        )
        if saved:
            trainer.save(run, done, last or bool(stopped))
        whole = not lines.due(done) or lines.write(done)
        if not whole and not saved:
            trainer.save(run, done, True)
        elif not whole:
            trainer.settle(run, last=True)
        if not whole or (stopped and not last):
            agreement.hear()
            return _stop(trainer, lines, stop, stopped, done)
    agreement.hear()
    return 0


def _stop(trainer: Trainer, lines: Lines, stop: StopRequest, number: int, step: int) -> int:
    """Say that the run was saved at a step. ``number``: of the signal that ended it, 0: none."""
    lines.bar.close()
    if trainer.processes.first:
        name = Signals(number).name if number else stop.name or "a signal to another process"
        console.info("%s: saved at step %d; the same command resumes from there", name, step)
    return ExitCode.STOPPED


def _newest(run, error):
    if error:
        raise error
    return run.newest

"""The loop of every training run."""

import os
import time

import torch

from engine import distributed, progress
from engine.config import flat
from engine.metrics import Log
from engine.signals import STOPPED, StopRequest


def train(config, make_trainer):
    """Train to ``config.steps``; returns the exit code, 0 or engine.signals.STOPPED after a signal.

    Args:
        config: engine.options.TrainConfig.  make_trainer: (config, processes) -> engine.trainer.Trainer.
    """
    processes = distributed.start(config.device)
    torch.set_num_threads(distributed.threads())
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may vary, and torch refuses it
        torch.use_deterministic_algorithms(True)
    trainer = run = log = None
    stop = StopRequest()
    try:
        trainer = make_trainer(config, processes)
        error = None
        if processes.first:
            run, error = trainer.open_run()
        newest = processes.from_first(lambda: _newest(run, error))
        start = trainer.load(newest) if newest else 0
        if processes.first:
            trainer.list_bad(run.folder, start * config.batch)
            log = Log(run.folder, start, config.log.wandb, run.folder.name, flat(config))
            trainer.announce(start)
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
    bar = progress.bar(config.steps, "step", start, hidden=not trainer.processes.first)
    for step, arrays in trainer.loader.batches(start, config.steps):
        trainer.update(step, arrays)
        done, last = step + 1, step + 1 == config.steps
        bar.update()
        evaluate = trainer.held_out is not None and due(done, config.log.held_out_every, last)
        draw = trainer.held_out is not None and due(done, config.log.pictures_every, last)
        probe = due(done, trainer.probe_every, last)
        if due(done, config.log.every, last) or evaluate or draw or probe:
            line = trainer.take_losses()
            line |= trainer.measured(step, (done - at) * config.batch, time.perf_counter() - clock)
            line |= trainer.evaluate() if evaluate else {}
            line |= trainer.probe() if probe else {}
            bar.set_postfix_str(" ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in line.items() if k.startswith("loss/")),
                                refresh=False)
            trainer.note_bad()
            if log:
                log.write(done, line, trainer.draw(run.folder, done) if draw else None)
            clock, at = time.perf_counter(), done
        # Asked of all ranks only now and then: it costs a word between them.
        stopped = (trainer.processes.world == 1 or done % 10 == 0) and trainer.processes.any(bool(stop))
        if due(done, config.checkpoint.every, last or stopped):
            trainer.note_bad()
            trainer.save(run, done)
        if stopped and not last:
            bar.close()
            if trainer.processes.first:
                print(f"{stop.name or 'a signal'}: saved at step {done}; the same command goes on from there", flush=True)
            return STOPPED
    bar.close()
    return 0


def due(done, every, last):
    return every > 0 and (last or done % every == 0)


def _newest(run, error):
    if error:
        raise error
    return run.newest

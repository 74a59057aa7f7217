"""The lines of a run's log: when one is due, and what goes into it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from engine.distributed.stragglers import Stragglers
from engine.logging.metrics import read
from engine.training.shares import BrokenOff

if TYPE_CHECKING:
    from engine.config.train_config import TrainConfig
    from engine.distributed.heartbeat import Watch
    from engine.logging.metrics import Log
    from engine.run.folder import Run
    from engine.training.eval_jobs import Evaluations
    from engine.training.trainer import Trainer


class Lines:
    """Measures and writes.

    Args:
        run, log, evaluations: rank 0's; None on other ranks.  bar: shows the newest losses.  start:
            the step that the run resumes from.
    """

    def __init__(
        self,
        config: TrainConfig,
        trainer: Trainer,
        run: Run | None,
        log: Log | None,
        watch: Watch,
        bar: tqdm,
        start: int,
        evaluations: Evaluations | None = None,
    ) -> None:
        self.evaluations = evaluations
        self.config, self.trainer, self.run, self.log, self.watch, self.bar = (
            config,
            trainer,
            run,
            log,
            watch,
            bar,
        )
        self.stragglers = Stragglers(trainer.processes)
        self.clock, self.at = time.perf_counter(), start

    def due(self, done: int) -> bool:
        """Return whether a line follows step ``done``."""
        last = done == self.config.steps
        # What is found about this step later goes into its line.
        beside = due(done, self.config.evaluate.every, last)
        return (
            beside
            or due(done, self.config.log.every, last)
            or self._evaluates(done)
            or self._draws(done)
            or self._probes(done)
        )

    def write(self, done: int) -> bool:
        """Write the line of step ``done``.

        Returns:
            False if a request to stop broke off the evaluation: then nothing has changed.
        """
        trainer, trained = self.trainer, done - self.at
        seconds = time.perf_counter() - self.clock  # of training alone
        trainer.check_folder(self.run)
        evaluated, images = {}, None
        if self._evaluates(done) or self._draws(done) or self._probes(done):
            try:
                with trainer.viewed():
                    evaluated = self._evaluate(done) if self._evaluates(done) else {}
                    evaluated |= self._probe(done) if self._probes(done) else {}
                    images = self._draw(done) if self._draws(done) else None
            except BrokenOff:
                return False
        self.watch.at(done, "logging")
        line = trainer.take_losses()
        line |= trainer.measure(done - 1, trained * self.config.samples, seconds)
        line |= self.stragglers.find(trainer.own_time.take() + self.watch.take_waited())
        if not trained:  # a run that resumes right at this step has no speed yet
            line = {name: value for name, value in line.items() if not name.startswith("speed/")}
        line |= evaluated
        self.bar.set_postfix_str(
            " ".join(
                f"{name.removeprefix('loss/')} {value:.3f}"
                for name, value in line.items()
                # Not those of one source, or of people without an image: there are many.
                if name.startswith("loss/") and name.count("/") == 1
            ),
            refresh=False,
        )
        trainer.note()
        if self.log:
            line["checkpoint/failed"] = trainer.saver.failed
            self.log.write(done, line, images)
            if self.evaluations:
                self.evaluations.turn()
        self.clock, self.at = time.perf_counter(), done
        return True

    def _evaluates(self, done):
        return self.trainer.task.val is not None and due(
            done, self.config.log.val_every, done == self.config.steps
        )

    def _draws(self, done):
        return self.trainer.task.val is not None and due(
            done, self.config.log.images_every, done == self.config.steps
        )

    def _probes(self, done):
        return due(done, self.trainer.task.probe_every, done == self.config.steps)

    def _evaluate(self, done):
        self.watch.at(done, "evaluating")
        return self.trainer.task.evaluate(self.trainer.shares)

    def _probe(self, done):
        self.watch.at(done, "probing")
        return self.trainer.task.probe(self.trainer.shares)

    def _draw(self, done):
        self.watch.at(done, "drawing")
        return self.trainer.task.draw_images(self.run.folder, done) if self.run else None


def due(done: int, every: int, last: bool) -> bool:
    """Return whether what comes every so many steps, and after the last, comes now."""
    return every > 0 and (last or done % every == 0)


def last_step(folder: str | Path) -> int | None:
    """Return the step of the last line of a run's log, None where there is none."""
    lines = read(folder)
    return lines[-1]["step"] if lines else None

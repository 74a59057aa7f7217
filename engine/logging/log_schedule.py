"""The lines of a run's log: when one is due, and what goes into it."""

import time

from engine.distributed.stragglers import Stragglers
from engine.logging.metrics import read
from engine.training.shares import BrokenOff


class Lines:
    """Measures and writes.

    Args:
        config: engine.config.train_config.TrainConfig.  trainer: engine.training.trainer.Trainer.
            run, log: rank 0's; None elsewhere.
        watch: engine.distributed.heartbeat.Watch.  bar: shows the newest losses.  start: the step
            that the run goes on from.
        evaluations: rank 0's engine.training.eval_jobs.Evaluations; None elsewhere.
    """

    def __init__(self, config, trainer, run, log, watch, bar, start, evaluations=None):
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

    def due(self, done):
        """Whether a line follows step ``done``."""
        last = done == self.config.steps
        beside = due(
            done, self.config.evaluate.every, last
        )  # what is found about this step later goes into its line
        return (
            beside
            or due(done, self.config.log.every, last)
            or self._evaluates(done)
            or self._draws(done)
            or self._probes(done)
        )

    def write(self, done):
        """Write the line of step ``done``; False if a request to stop broke off the evaluation:
        then nothing has changed."""
        trainer, trained = self.trainer, done - self.at
        seconds = time.perf_counter() - self.clock  # of training alone
        trainer.check_folder(self.run)
        if self._evaluates(done) or self._draws(done) or self._probes(done):
            trainer.spread.gather()
        try:
            evaluated = self._evaluate(done) if self._evaluates(done) else {}
            evaluated |= self._probe(done) if self._probes(done) else {}
        except BrokenOff:
            trainer.spread.release()
            return False
        self.watch.at(done, "logging")
        line = trainer.take_losses()
        line |= trainer.measure(done - 1, trained * self.config.samples, seconds)
        line |= self.stragglers.find(trainer.own_time.take() + self.watch.take_waited())
        if not trained:  # a run that goes on right at this step has no speed yet
            line = {name: value for name, value in line.items() if not name.startswith("speed/")}
        line |= evaluated
        self.bar.set_postfix_str(
            " ".join(
                f"{k.split('/')[1]} {v:.3f}" for k, v in line.items() if k.startswith("loss/")
            ),
            refresh=False,
        )
        trainer.note()
        self.watch.at(done, "drawing")
        if self.log:
            line["checkpoint/failed"] = trainer.saver.failed
            self.log.write(
                done,
                line,
                trainer.task.draw_images(self.run.folder, done) if self._draws(done) else None,
            )
            if self.evaluations:
                self.evaluations.turn()
        trainer.spread.release()
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


def due(done, every, last):
    return every > 0 and (last or done % every == 0)


def last_step(folder):
    """The step of the last line of a run's log, None where there is none."""
    lines = read(folder)
    return lines[-1]["step"] if lines else None

"""The evaluations of a training run, as its leading supervisor looks after them: submitted, and
missed where they died."""

import contextlib
import subprocess
import time

from engine.cli import last_word
from engine.errors import ExitCode, Failure
from engine.training import eval_jobs
from slurm import job_record, site
from slurm.submit import evaluate
from slurm.supervisor import ranks

LOOK_S, WATCH_S = 2, 60  # between looks at the folder, and at the jobs' states
AWAY_S = 30  # until the next try where the controller was not reached
FINISH_S = 300  # for the last ones to be submitted


class Beside:
    """``turn`` is to be called every second or so and never waits. ``job``: slurm.job_record.Job of
    a training run."""

    def __init__(self, job):
        self.job, self.child = job, None
        self.looked = self.watched = self.away = 0.0
        self.said = set()

    def turn(self):
        now = time.monotonic()
        if now - self.looked < LOOK_S:
            return
        self.looked = now
        # A folder that is away for a moment, or full, is no reason to end a run; the next look
        # tries again.
        with contextlib.suppress(OSError, Failure):
            if self.child:
                self._follow()
            elif now > self.away and evaluate.unsent(self.job):
                self._submit()
            elif now - self.watched > WATCH_S:
                self.watched = now
                self._watch()

    def finish(self):
        """After the run's end: submit what is left."""
        deadline = time.monotonic() + FINISH_S
        while (self.child or evaluate.unsent(self.job)) and time.monotonic() < deadline:
            self.looked = 0.0
            self.turn()
            time.sleep(0.2)

    def _log(self):
        return self.job.home / "evaluations.log"

    def _submit(self):
        with open(self._log(), "wb") as log:
            # A scheduler signals all processes of a step; one that is just submitting is to end
            # that, or nobody knows the job.
            words = ranks.ignoring(["TERM", "USR2"], evaluate.command(self.job))
            self.child = subprocess.Popen(
                words,
                env=evaluate.environment(),
                cwd=self.job.cwd,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def _follow(self):
        code = self.child.poll()
        if code is None:
            return
        self.child = None
        if code:
            reason = last_word(self._log(), 0, code)
            if code == ExitCode.ENVIRONMENT:
                self.away = time.monotonic() + AWAY_S
                self._say(reason)
                return
            for step in evaluate.unsent(self.job) if code != ExitCode.USER else ():
                eval_jobs.fail(self.job.folder, step, f"not submitted: {reason}")
            self._say(reason)

    def _watch(self):
        """Give up those whose jobs have ended without a word, so that their checkpoints may go."""
        for step, number in evaluate.sent(self.job).items():
            try:
                state = site.state(number)
            except Failure:
                return  # the controller does not answer: later
            if state in site.ALIVE or eval_jobs.file_of(self.job.folder, step).exists():
                continue
            told = job_record.history(eval_jobs.place(self.job.folder, step) / "slurm")
            ends = [line for line in told if line["event"] == "stop"]
            reason = ends[-1]["reason"] if ends else f"job {number} is {(state or 'gone').lower()}"
            eval_jobs.fail(self.job.folder, step, reason)
            self._say(f"the evaluation of step {step} failed: {reason}")

    def _say(self, reason):
        """Each reason once, in the job's words and in the run's history."""
        if reason not in self.said:
            self.said.add(reason)
            print(f"warning: {reason}", flush=True)
            job_record.note(self.job.home, "evaluation", reason=reason)

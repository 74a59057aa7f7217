"""The evaluations of a training run, as its coordinator looks after them.

They are submitted, and given up where their jobs died.
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from engine.cli import last_word
from engine.errors import ExitCode, Failure
from engine.logging.console import get_logger
from engine.run.run_folder import RunFolder
from engine.training import eval_jobs
from slurm import evaluations, job_record, site
from slurm.supervisor import ranks
from slurm.supervisor.allocation import OF_JOBS, OF_SITE

log = get_logger(__name__)

LOOK_S = 2  # between checks of the run's folder
WATCH_S = 60  # between checks of the jobs' states
AWAY_S = 30  # until the next try where the controller was not reached
FINISH_S = 300  # for the last ones to be submitted


class EvaluationSupervisor:
    """Submits what is due and follows its jobs.

    Args:
        job: of a training run whose checkpoints are evaluated.
    """

    def __init__(self, job: job_record.Job) -> None:
        self.job = job
        self.child: subprocess.Popen | None = None  # that is just submitting
        self.looked_at = self.watched_at = self.away_until = 0.0
        self.said: set[str] = set()

    def tick(self) -> None:
        """Do what there is to do, without a wait; to be called every second or so."""
        now = time.monotonic()
        if now - self.looked_at < LOOK_S:
            return
        self.looked_at = now
        # A folder that is away for a moment, or full, is no reason to end a run; the next look
        # tries again.
        with contextlib.suppress(OSError, Failure):
            if self.child:
                self._follow(self.child)
            elif now > self.away_until and evaluations.find_unsent(self.job):
                self._submit()
            elif now - self.watched_at > WATCH_S:
                self.watched_at = now
                self._watch()

    def finish(self) -> None:
        """After the run's end: submit what is left."""
        deadline = time.monotonic() + FINISH_S
        while time.monotonic() < deadline:
            if not self.child and not evaluations.find_unsent(self.job):
                return
            self.looked_at = 0.0
            self.tick()
            time.sleep(0.2)

    @property
    def _log(self) -> Path:
        return self.job.home / "evaluations.log"

    def _submit(self) -> None:
        # A scheduler signals all processes of a step; one that is just submitting is to finish
        # that, or nobody knows the job.
        words = ranks.ignore_signals(["TERM", "USR2"], command_of(self.job))
        with open(self._log, "wb") as file:
            self.child = subprocess.Popen(
                words,
                env=clean_environment(),
                cwd=self.job.cwd,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )

    def _follow(self, child: subprocess.Popen) -> None:
        code = child.poll()
        if code is None:
            return
        self.child = None
        if not code:
            return
        reason = last_word(self._log, 0, code)
        if code == ExitCode.ENVIRONMENT:
            self.away_until = time.monotonic() + AWAY_S
        elif code != ExitCode.USER:  # of what SLURM refused the child itself has written down
            for step in evaluations.find_unsent(self.job):
                eval_jobs.fail(self.job.folder, step, f"not submitted: {reason}")
        self._say(reason)

    def _watch(self) -> None:
        """Give up those whose jobs have ended without a word, so that their checkpoints may go."""
        for step, number in evaluations.find_sent(self.job).items():
            try:
                state = site.read_state(number)
            except Failure:
                return  # the controller does not answer: later
            if state in site.ALIVE or eval_jobs.file_of(self.job.folder, step).exists():
                continue
            history = job_record.read_events(
                RunFolder(eval_jobs.place(self.job.folder, step)).slurm
            )
            ends = [line for line in history if line["event"] == "stop"]
            reason = ends[-1]["reason"] if ends else f"job {number} is {(state or 'gone').lower()}"
            eval_jobs.fail(self.job.folder, step, reason)
            self._say(f"the evaluation of step {step} failed: {reason}")

    def _say(self, reason: str) -> None:
        """Tell each reason once, and note it in the run's history."""
        if reason not in self.said:
            self.said.add(reason)
            log.warning("%s", reason)
            job_record.add_event(self.job.home, "evaluation", reason=reason)


def command_of(job: job_record.Job) -> list[str]:
    """Return the words that submit what is due, from a job's copy of the code.

    A process of its own: submitit takes a second to import, and the coordinator must stay quick.
    """
    launch = str(Path(job.code) / "slurm" / "launch.py")
    return [sys.executable, launch, "slurm.submit.evaluate", job.folder, "--due"]


def clean_environment() -> dict[str, str]:
    """Return the variables of this process without those of the job that it runs in."""
    own = (*OF_JOBS, "SBATCH_")  # the last are the run's: what it asks for is in its record
    return {
        name: value
        for name, value in os.environ.items()
        if name in OF_SITE or not name.startswith(own)
    }

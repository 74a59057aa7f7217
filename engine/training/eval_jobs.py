"""Evaluations of a run's checkpoints in processes of their own.

Also the way of their numbers into the run's log.

    RUN/evaluations/step-00000100.json   {"step", "numbers": {"evaluation/NAME": value}, "command"},
    or {"step", "error"} RUN/evaluations/step-00000100/       what the evaluating command wrote, and
    in said.log what it said RUN/evaluations/shown.json           steps whose numbers the dashboard
    has

Who evaluates writes the first file; who holds the run's folder puts its numbers into the log's line
of that step. A checkpoint that is due stays until its file is there. No torch here: slurm's
supervisor reads these files too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from engine.checkpoint.history import list_complete
from engine.cli import last_word
from engine.errors import Failure, UserError, explain, failure_of
from engine.logging import metrics
from engine.logging.console import get_logger
from engine.run.files import write_file
from engine.run.patience import exists
from engine.run.run_folder import RunFolder, step_of
from engine.run.run_lock import Lease

if TYPE_CHECKING:
    from engine.config.train_config import TrainConfig
    from engine.distributed.heartbeat import Whereabouts
    from engine.logging.metrics import Log
    from engine.run.signals import StopRequest

console = get_logger(__name__)

LAUNCH = (
    Path(__file__).resolve().parents[2] / "slurm" / "launch.py"
)  # this copy of the code, whatever folder one is in
ASKED = (
    -signal.SIGTERM,
    -signal.SIGINT,
    75,
    130,
    143,
)  # it was ended from outside, which says nothing about the checkpoint
POLL_S = 0.2
FOLDER_S = 120  # for a run that has reached its last step to let go of its folder
# What a process does before it becomes the evaluation: it dies with the run, and takes only time
# that nobody else wants.
LOWLY = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.nice(19); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def due(step: int, every: int, steps: int) -> bool:
    """Return whether the checkpoint of a step is to be evaluated.

    That is each of every so many steps, and the last.
    """
    return every > 0 and step > 0 and (step % every == 0 or step == steps)


def place(run: str | Path, step: int) -> Path:
    """The folder of one evaluation; beside it, with .json, stands what came of it."""
    return RunFolder(run).evaluation(step)


def file_of(run: str | Path, step: int) -> Path:
    """Return the path of the file with what the evaluation of a step's checkpoint found."""
    return RunFolder(run).outcome(step)


def checkpoint_of(run: str | Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return RunFolder(run).checkpoint(step)


def run_of(path: str | Path) -> tuple[Path, int] | None:
    """(run's folder, step) of a checkpoint's path, or None of another."""
    path = Path(path).resolve()
    step = step_of(path.name)
    return None if step is None else (path.parents[1], step)


def outstanding(run: str | Path, every: int, steps: int) -> list[int]:
    """Return the steps of complete checkpoints that are due and not yet evaluated.

    Nobody has said anything of them, neither numbers nor an error.
    """
    return [
        step
        for step in list_complete(run)
        if due(step, every, steps) and not exists(file_of(run, step))
    ]


def needed(config: TrainConfig) -> Callable[[int], bool]:
    """From a step to whether its checkpoint must stay for its evaluation.

    ``config``: engine.config.train_config.TrainConfig.
    """

    def is_needed(step):
        if not due(step, config.evaluate.every, config.steps):
            return False
        try:
            return not file_of(config.run, step).exists()
        except OSError:
            return True  # a later save asks again

    return is_needed


def outcomes(run: str | Path) -> dict[int, dict[str, Any]]:
    """{step: what came of its evaluation} of a run."""
    found = {}
    for path in sorted(RunFolder(run).evaluations.glob("step-*.json")):
        try:
            outcome = json.loads(path.read_text(encoding="utf-8"))
            found[int(outcome["step"])] = outcome
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no outcome of an evaluation: {error}; remove it, and it is evaluated "
                f"again"
            ) from None
    return found


def note(run: str | Path, step: int, numbers: Mapping[str, float], command: str) -> None:
    """Write what an evaluation found: {"evaluation/NAME": value}. ``command``: what was typed."""
    _write(run, step, {"step": step, "numbers": numbers, "command": command})


def fail(run: str | Path, step: int, reason: str) -> None:
    """Write that the evaluation of a step came to nothing; its checkpoint may then go."""
    _write(run, step, {"step": step, "error": reason})


def _write(run, step, outcome):
    path = file_of(run, step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**outcome, "time": round(time.time(), 3)}))
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


class Evaluations:
    """Evaluates beside a training run, in its first process.

    Starts what is due, one at a time, and takes up what has come in.

    Args:
        config: engine.config.train_config.TrainConfig.  run: the folder.  log:
            engine.logging.metrics.Log.  stop: true once the run is to stop.
    """

    def __init__(self, config: TrainConfig, run: Path, log: Log, stop: StopRequest) -> None:
        self.every, self.here, self.steps = (
            config.evaluate.every,
            config.evaluate.here,
            config.steps,
        )
        self.words, self.run, self.log, self.stop = (
            config.evaluation("{checkpoint}"),
            run,
            log,
            stop,
        )
        self.step: int | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.taken = {}  # {step: time of change of its file} of what is in the log
        self.tried, self.warned = (
            set(),
            set(),
        )  # steps that are not begun again in this attempt; what was said once

    def turn(self) -> None:
        """To be called now and then; costs a look into a folder.

        Nothing that goes wrong here ends the run.
        """
        if not self.every:
            return
        try:
            self._follow()
            take_up(self.run, self.log, self.taken)
        except (
            OSError,
            ValueError,
            Failure,
        ) as error:  # a full disk, a file that somebody wrote into
            if str(error) not in self.warned:
                self.warned.add(str(error))
                console.warning("evaluations: %s", error)

    def _left(self):
        """Steps that are still to be evaluated here."""
        every = self.every if self.here else 0
        return [
            step
            for step in outstanding(self.run, every, self.steps)
            if step not in self.tried or (self.child and step == self.step)
        ]

    def finish(self, watch: Whereabouts) -> bool:
        """After the last step: wait for what is outstanding here.

        False if the run was asked to stop meanwhile.

        Args:
            watch: engine.distributed.heartbeat.Whereabouts.
        """
        left = self._left()
        if left:
            console.info("evaluating: %d checkpoint%s to go", len(left), "s" * (len(left) > 1))
        while left and not self.stop:
            watch.alive()
            self.turn()
            time.sleep(POLL_S)
            left = self._left()
        self.turn()
        self.log.show_all()
        with contextlib.suppress(
            OSError
        ):  # wandb may then get them twice, in rows that are the same
            _shown(self.run, self.log)
        if left:
            console.info(
                "%s: %d evaluations are left; the same command resumes with them",
                self.stop.name,
                len(left),
            )
        return not left

    def close(self) -> None:
        """End the evaluation under way; the next start of the run begins it anew."""
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            self.child = None

    def _follow(self):
        if self.child and self.step is not None and (code := self.child.poll()) is not None:
            self.child, said = None, place(self.run, self.step) / "said.log"
            if code in ASKED:
                self.tried.discard(self.step)
            elif not file_of(self.run, self.step).exists():
                reason = last_word(said, 0, code)
                console.warning(
                    "the evaluation of step %d failed: %s; %s has what it said",
                    self.step,
                    reason,
                    said,
                )
                fail(self.run, self.step, reason)
        if self.child or not self.here or self.stop:
            return
        left = self._left()
        if left:
            self.step = left[0]
            self.tried.add(self.step)
            self.child = self._start(self.step)

    def _start(self, step):
        words = [
            word.replace("{checkpoint}", str(checkpoint_of(self.run, step))) for word in self.words
        ]
        own = (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
            "GROUP_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
        )
        env = {name: value for name, value in os.environ.items() if name not in own}
        place(self.run, step).mkdir(parents=True, exist_ok=True)
        with open(place(self.run, step) / "said.log", "wb") as said:
            # A session of its own: Ctrl-C at a terminal is for the run, which ends this one itself.
            return subprocess.Popen(
                [sys.executable, "-c", LOWLY, sys.executable, str(LAUNCH), *words],
                env=env,
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


def take_up(run: str | Path, log: Log, taken: dict[int, float]) -> None:
    """Put numbers that are not ``taken`` yet into a Log, and so on the dashboard.

    ``taken``: {step: time of change of its file}.
    """
    fresh = {}
    for path in RunFolder(run).evaluations.glob("step-*.json"):
        changed = path.stat().st_mtime_ns
        if (found := re.fullmatch(r"step-(\d+)", path.stem)) and taken.get(
            int(found[1])
        ) != changed:
            fresh[int(found[1])] = changed
    if fresh:
        known = outcomes(run)
        numbers = {
            step: known[step]["numbers"] for step in fresh if "numbers" in known.get(step, {})
        }
        there = log.amend(numbers, _read_shown(run)) if numbers else set()
        taken |= {
            step: changed
            for step, changed in fresh.items()
            if step in there or "error" in known.get(step, {})
        }
    _shown(run, log)


def _read_shown(run):
    path = RunFolder(run).shown_evaluations
    return set(json.loads(path.read_text())) if path.exists() else set()


def _shown(run, log):
    """Keep which steps the dashboard has got, over all attempts of a run."""
    if log.sent:
        path = RunFolder(run).shown_evaluations
        write_file(path, json.dumps(sorted(_read_shown(run) | log.sent)))
        log.sent = set()


def unsettled(run: str | Path) -> list[int]:
    """Steps whose numbers the log's lines do not hold, though they have one or could get one."""
    lines = {line["step"]: line for line in metrics.read(run)}
    last = max(lines, default=0)
    return [
        step
        for step, outcome in outcomes(run).items()
        if step <= last
        and "numbers" in outcome
        and not outcome["numbers"].items() <= lines.get(step, {}).items()
    ]


def settle(run: str | Path, ended: bool = False, patience_s: float = FOLDER_S) -> None:
    """Put numbers that came after a run's end into its log and its dashboard.

    Nothing while somebody else will do that.

    Args:
        ended: nobody will resume the run; without it only one that has reached its last step
            counts as over.
    """
    folder = RunFolder(run)
    if not folder.log.exists() or not folder.config.exists():
        return
    tree = yaml.load(folder.config.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    lines = metrics.read(run)
    if not lines or not (ended or lines[-1]["step"] == int(tree["steps"])):
        return
    deadline = time.monotonic() + patience_s
    while unsettled(run):
        try:
            lease = Lease(
                run
            )  # the run itself may still wait for its dashboard, or another evaluation be at this
        except Failure as error:
            if time.monotonic() > deadline:
                console.info(
                    "note: numbers of evaluations are not in the log yet: %s; python -m slurm "
                    "status %s brings them there",
                    error,
                    run,
                )
                return
            time.sleep(1)
            continue
        try:
            log = metrics.Log(
                run, metrics.read(run)[-1]["step"], tree["log"]["wandb"], Path(run).name, {}
            )
            try:
                take_up(run, log, {})
                log.show_all()
                _shown(run, log)
            finally:
                log.close()
        finally:
            lease.release()

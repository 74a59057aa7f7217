"""Runs the rows of a study, several side by side; what a stopped study left is resumed."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from engine.errors import ExitCode, UserError, explain, failure_of
from engine.logging.console import get_logger
from studies import plan, rows
from studies.config import StudyConfig

log = get_logger(__name__)

WAIT_S = 1.0


class Runner:
    """Lanes of commands, each with a share of the cores.

    Args:
        config: StudyConfig.  todo: Rows, in order.  measure: from a Row to the words after
            ``python -m`` that write it.
    """

    def __init__(
        self,
        config: StudyConfig,
        todo: list[plan.Row],
        measure: Callable[[plan.Row], list[str]],
    ) -> None:
        self.config, self.measure, self.lanes = config, measure, config.lanes or count_lanes()
        self.left, self.lock, self.running = (
            deque(group_rows(config, todo)),
            threading.Lock(),
            set(),
        )
        self.under_way: set[tuple[str, int]] = set()  # arms and seeds that lanes are at
        self.stop = False
        self.failed = ""  # what the first command that failed said
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._asked)

    def run(self) -> int:
        """Run all; returns 0, or 75 where it was stopped and the same command resumes it.

        Raises:
            UserError: a command failed, or a folder cannot be written; the others were stopped and
                are saved.
        """
        timer = threading.Timer(self.config.limit_s, self._halt)
        timer.daemon = True
        if self.config.limit_s:
            timer.start()
        # Sets of people first, one after the other, on all cores; the command itself knows what is
        # there already.
        for words in plan.list_sets(self.config).values():
            if not self.command([*words, f"workers={len(os.sched_getaffinity(0))}"]):
                break
        else:
            self._refuse_other_people()
        with ThreadPoolExecutor(self.lanes) as pool:
            running = [pool.submit(self._lane) for _ in range(self.lanes)]
        timer.cancel()
        for lane in running:
            lane.result()  # what went wrong in it is raised here
        if self.failed:
            raise UserError(self.failed)
        return ExitCode.STOPPED if self.stop else 0

    def _refuse_other_people(self) -> None:
        """Raise UserError where rows are of other people than the sets.

        Before hours of training, not after.
        """
        there = rows.read_rows(self.config)
        who = plan.find_people(self.config) if there else {}
        for row, found in there.items():
            plan.refuse_other_people(
                who,
                plan.people_of_row(self.config, found),
                plan.place_of(self.config, row),
                self.config.work,
            )

    def _lane(self) -> None:
        try:
            while not self.stop:
                with self.lock:
                    if not self.left:
                        return
                    group = self._take_ready()
                if group is None:
                    time.sleep(WAIT_S)  # a teacher is being trained in another lane
                    continue
                self._group(group)
                with self.lock:
                    self.under_way.discard(name_group(self.config, group[0]))
        except BaseException:
            self._halt()
            raise

    def _take_ready(self) -> list[plan.Row] | None:
        """The first group that waits for no teacher, out of those that are left; None: all wait."""
        waiting = {name_group(self.config, group[0]) for group in self.left} | self.under_way
        for place, group in enumerate(self.left):
            name, seed = name_group(self.config, group[0])
            if (self.config.arms[name].teacher, seed) not in waiting:
                del self.left[place]
                self.under_way.add((name, seed))
                return group
        return None

    def _group(self, group: list[plan.Row]) -> None:
        """The rows of one pre-training."""
        words = plan.pretrain_words(self.config, group[0])
        if words is not None and not self.command(words):
            return
        for row in group:
            words = [plan.finetune_words(self.config, row), self.measure(row)]
            if not all(self.command(one) for one in words if one):
                return
            log.info("finished %s", row.name)

    def command(self, words: list[str]) -> bool:
        """Run ``python -m WORDS`` unless all is to stop; whether it ended well.

        Its output goes to a file beside its folder.
        """
        if self.stop:
            return False
        folder = next(word.split("=", 1)[1] for word in words if word.startswith(("run=", "out=")))
        threads = max(1, len(os.sched_getaffinity(0)) // self.lanes)
        began = time.time()
        try:
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            file = open(f"{folder}.txt", "w", encoding="utf-8")  # noqa: SIM115 - closed below
        except OSError as error:
            raise failure_of(
                error,
                f"{folder}.txt cannot be written: {explain(error)}; work= names another folder",
            ) from None
        with file:
            # A session of its own: a Ctrl-C reaches it once, through us, and it saves; a second one
            # would end it at once.
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            with self.lock:
                self.running.add(process)
                if self.stop:
                    process.send_signal(signal.SIGTERM)
            code = process.wait()
        with self.lock:
            self.running.discard(process)
        if code and not self.stop:
            with open(f"{folder}.txt", encoding="utf-8", errors="replace") as file:
                said = file.read().strip().splitlines()[-1:] or ["nothing"]
            took = f"{time.time() - began:.0f} s"
            self.failed = (
                f"exit code {code} after {took}: python -m {shlex.join(words)}: {said[0][-300:]}"
            )
            self._halt()
        return code == 0

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._halt()

    def _halt(self) -> None:
        """Have all save and end. Called from a signal too, so it takes no lock."""
        self.stop = True
        for process in list(self.running):
            process.send_signal(signal.SIGTERM)


def name_group(config: StudyConfig, row: plan.Row) -> tuple[str, int]:
    """Return the arm and the seed of the pre-training that a row uses."""
    return plan.pretrained_arm(config, row), row.seed


def group_rows(config: StudyConfig, todo: list[plan.Row]) -> list[list[plan.Row]]:
    """Return [[Row, ...], ...]: rows that share their pre-training together.

    In the order of their firsts.
    """
    groups = {}
    for row in todo:
        groups.setdefault(name_group(config, row), []).append(row)
    return list(groups.values())


def count_lanes() -> int:
    """Return the runs side by side where config.lanes does not say."""
    import torch

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))

"""One node's part: its ranks, as the chief says; signals passed on; nothing left behind."""

import contextlib
import os
import signal
import time

from engine.cli import last_word
from engine.errors import ExitCode, Failure, explain, failure_of
from engine.run import private
from slurm import job_record
from slurm.supervisor import ranks, triage, wire

BEAT_S = 5
POLL_S = 0.2
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Node:
    """Connected to the chief; ``run`` returns the exit code, which is the job's on node 0.

    Args:
        job: slurm.job_record.Job.  allocation: slurm.supervisor.allocation.Allocation; without
            SLURM rank 0's words are shown here too.
        line: slurm.supervisor.wire.Wire to the chief.  command:
            slurm.supervisor.supervise.command_of(job).
    """

    def __init__(self, job, allocation, line, command):
        self.job, self.allocation, self.line = job, allocation, line
        self.identity, self.number = allocation.identity, allocation.node
        self.command, self.screen, self.shown = command, allocation.number is None, 0
        self.ranks, self.reported, self.check = [], set(), None
        self.signals, self.asked = [], None
        self.heard, self.beaten, self.patient = 0.0, 0.0, False

    def listen(self):
        """Take signals over; to be called in the main thread, as soon as possible."""
        for number in STOPS:
            signal.signal(number, lambda number, frame: self.signals.append(number))

    def run(self):
        self.heard = time.monotonic()
        try:
            while True:
                code = self._turn()
                if code is not None:
                    return code
        except wire.Lost as error:
            print(
                f"node {self.number}: the supervisor of node 0 is gone ({error}); ranks here are "
                f"ended",
                flush=True,
            )
            return ExitCode.LOST_RANK
        finally:
            ranks.kill(self.ranks)
            if self.check:
                self.check.end()
            self._show()

    def _turn(self):
        for message in self.line.wait(POLL_S):
            self.heard = time.monotonic()
            code = self._obey(message)
            if code is not None:
                return code
        while self.signals:
            self._pass_on(self.signals.pop(0))
        for rank in self.ranks:
            code = ranks.ended(rank)
            if code is not None and rank.number not in self.reported:
                self.reported.add(rank.number)
                # A rank's own line begins with its number too; who shows the reason names rank and
                # node.
                reason = last_word(rank.log, rank.offset, code).removeprefix(
                    f"rank {rank.number}: "
                )
                self.line.send(end={"rank": rank.number, "code": code, "reason": reason})
        if self.check and (report := self.check.report()):
            self.check = None
            self.line.send(triage=report)
        self._show()
        now = time.monotonic()
        if now - self.beaten > BEAT_S:
            self.beaten = now
            self.line.send(beat=True)
            self._look_for_successor()
        if now - self.heard > self.job.settings["lost_s"] and not self.patient:
            raise wire.Lost(f"no sign of life for {now - self.heard:.0f} s")
        return None

    def _obey(self, message):
        if "triage" in message:
            if self.check:
                self.check.end()
            self.check = triage.Check(
                self.command(["slurm.supervisor.triage"]),
                message["triage"],
                self.job.home / "ranks" / f"triage-{self.number}.log",
            )
        if "start" in message:
            ranks.kill(self.ranks)
            self.reported = set()
            self.ranks = []
            if self.asked:  # the signal came between two rounds: nothing new is begun
                self._begin_nothing(ExitCode.STOPPED, self.asked)
                return None
            words = self.command([*self.job.words, *self.job.arguments, *message["extra"]])
            try:
                self.ranks = ranks.start(
                    self.job,
                    words,
                    self.number,
                    message["address"],
                    message["port"],
                    self._environment(),
                )
            except OSError as error:
                failure = failure_of(
                    error, f"{error.filename or 'a process'} cannot be started: {explain(error)}"
                )
                self._begin_nothing(failure.exit_code, str(failure))
                return None
            self.shown = self.ranks[0].offset
        if "kill" in message:
            ranks.kill(self.ranks)
        self.patient = self.patient or "patience" in message
        if "leave" in message:
            if message["reason"]:
                print(f"error: {message['reason']}", flush=True)
            return (
                0 if self.number else message["leave"]
            )  # srun would end node 0 in the middle for another's code
        return None

    def _begin_nothing(self, code, reason):
        for local in range(self.job.ranks):
            self.line.send(
                end={
                    "rank": self.number * self.job.ranks + local,
                    "code": code,
                    "reason": reason,
                    "early": True,
                }
            )

    def _pass_on(self, number):
        """Once: a second signal would end the ranks while they save."""
        name = signal.Signals(number).name
        if self.asked is None:
            self.asked = name
            print(f"node {self.number}: {name} passed on to {len(self.ranks)} ranks", flush=True)
            ranks.ask_to_stop(self.ranks, self.job.training)
            self.line.send(asked=name)

    def _look_for_successor(self):
        """A node that was cut off may find its job started again elsewhere: then nothing here may
        go on."""
        with contextlib.suppress(
            OSError, ValueError
        ):  # a folder that is away for a moment proves nothing
            life = job_record.read(self.job.home / "life.json")
            if life and life["identity"] != self.identity:
                job, restart = life["identity"]
                raise wire.Lost(
                    f"{self.job.home} is worked in by job {job}, start {restart}, by now"
                )

    def _environment(self):
        """Variables of the ranks that depend on the node."""
        here = self.line.sock.getsockname()[0]
        interface = self.job.settings["interface"]
        out = {}
        if interface:
            out |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        elif "GLOO_SOCKET_IFNAME" not in os.environ and (found := wire.interface_of(here)):
            out["GLOO_SOCKET_IFNAME"] = (
                found  # else gloo looks its own name up, which may lead nowhere
            )
        cores = len(os.sched_getaffinity(0))
        given = self.allocation.cores or cores
        if "OMP_NUM_THREADS" not in os.environ:
            out["OMP_NUM_THREADS"] = str(max(1, min(cores, given) // self.job.ranks))
        try:
            out |= private.compiled_code(self.job.settings["node_cache"] or "")
        except Failure as error:
            print(
                f"node {self.number}: warning: {error}", flush=True
            )  # ranks that compile stop with the same words
        return out

    def _show(self):
        if self.screen and self.ranks:
            with open(self.ranks[0].log, "rb") as file:
                file.seek(self.shown)
                fresh = file.read()
            self.shown += len(fresh)
            os.write(1, fresh) if fresh else None

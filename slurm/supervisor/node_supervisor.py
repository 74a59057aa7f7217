"""One node's part: its ranks, as the coordinator says; signals passed on; nothing left behind."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from engine.cli import last_word
from engine.distributed.addresses import interface_of
from engine.distributed.transport import Lost, Wire
from engine.errors import ExitCode, Failure, explain, failure_of
from engine.logging.console import get_logger
from engine.run import private
from slurm import job_record
from slurm.supervisor import ranks, triage
from slurm.supervisor.allocation import Allocation
from slurm.supervisor.coordinator import BEAT_S

log = get_logger(__name__)

POLL_S = 0.2
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class NodeSupervisor:
    """Starts, watches and ends the ranks of one node.

    Args:
        job: what is run.
        allocation: this node's; without SLURM rank 0's words are shown here too.
        command: from [module, argument, ...] to the words that start it where the ranks run.
    """

    def __init__(
        self,
        job: job_record.Job,
        allocation: Allocation,
        command: Callable[[list[str]], list[str]],
    ) -> None:
        self.job, self.allocation, self.command = job, allocation, command
        self.number = allocation.node
        self.ranks: list[ranks.Rank] = []
        self.reported: set[int] = set()  # ranks whose end the coordinator has been told
        self.check: triage.Check | None = None  # under way
        self.signals: list[int] = []  # that came and were not passed on yet
        self.asked: str | None = None  # the name of the one that was
        self.beaten_at = 0.0
        self.patient = False  # the coordinator is busy, and its silence is no reason to end
        self.shown = 0  # bytes of rank 0's log that are on the screen

    def listen(self) -> None:
        """Take signals over; to be called in the main thread, as soon as possible."""
        for number in STOPS:
            signal.signal(number, lambda number, frame: self.signals.append(number))

    def run(self, wire: Wire) -> int:
        """Work until the coordinator says to leave; return the exit code, the job's on node 0.

        Args:
            wire: to the coordinator.
        """
        try:
            while True:
                code = self._tick(wire)
                if code is not None:
                    return code
        except Lost as error:
            log.warning(
                "node %d: the supervisor of node 0 is gone (%s); ranks here are ended",
                self.number,
                error,
            )
            return ExitCode.LOST_RANK
        finally:
            ranks.kill_ranks(self.ranks)
            if self.check:
                self.check.end()
            self._show()

    def _tick(self, wire: Wire) -> int | None:
        for message in wire.wait(POLL_S):
            code = self._obey(message, wire)
            if code is not None:
                return code
        while self.signals:
            self._pass_on(self.signals.pop(0), wire)
        self._report_ends(wire)
        if self.check and (report := self.check.report()):
            self.check = None
            wire.send(triage=report)
        self._show()
        now = time.monotonic()
        if now - self.beaten_at > BEAT_S:
            self.beaten_at = now
            wire.send(beat=True)
            self._look_for_successor()
        if wire.silent_s > self.job.settings["lost_s"] and not self.patient:
            raise Lost(f"no heartbeat for {wire.silent_s:.0f} s")
        return None

    def _report_ends(self, wire: Wire) -> None:
        for rank in self.ranks:
            code = ranks.poll_rank(rank)
            if code is None or rank.number in self.reported:
                continue
            self.reported.add(rank.number)
            # A rank's own line begins with its number too; who shows the reason names rank and
            # node.
            reason = last_word(rank.log, rank.offset, code).removeprefix(f"rank {rank.number}: ")
            wire.send(end={"rank": rank.number, "code": code, "reason": reason})

    def _obey(self, message: dict, wire: Wire) -> int | None:
        """Do what the coordinator says; return the exit code where it says to leave."""
        if "triage" in message:
            if self.check:
                self.check.end()
            path = self.job.home / "ranks" / f"triage-{self.number}.log"
            words = self.command(["slurm.supervisor.triage"])
            self.check = triage.Check(words, message["triage"], path)
        if "start" in message:
            self._start_ranks(message, wire)
        if "kill" in message:
            ranks.kill_ranks(self.ranks)
        self.patient = self.patient or "patience" in message
        if "leave" not in message:
            return None
        if message["reason"]:
            log.error("%s", message["reason"])
        # srun would end node 0 in the middle for another's code
        return 0 if self.number else message["leave"]

    def _start_ranks(self, message: dict, wire: Wire) -> None:
        ranks.kill_ranks(self.ranks)
        self.reported = set()
        self.ranks = []
        if self.asked:  # the signal came between two rounds: nothing new is begun
            self._begin_nothing(ExitCode.STOPPED, self.asked, wire)
            return
        words = self.command([*self.job.words, *self.job.arguments, *message["extra"]])
        address, port, extra_env = message["address"], message["port"], self._environment(wire)
        try:
            self.ranks = ranks.start_ranks(self.job, words, self.number, address, port, extra_env)
        except OSError as error:
            failure = failure_of(
                error, f"{error.filename or 'a process'} cannot be started: {explain(error)}"
            )
            self._begin_nothing(failure.exit_code, str(failure), wire)
            return
        self.shown = self.ranks[0].offset

    def _begin_nothing(self, code: int, reason: str, wire: Wire) -> None:
        first = self.number * self.job.ranks
        for rank in range(first, first + self.job.ranks):
            wire.send(end={"rank": rank, "code": code, "reason": reason, "early": True})

    def _pass_on(self, number: int, wire: Wire) -> None:
        """Pass a signal on, once: a second one would end the ranks while they save."""
        name = signal.Signals(number).name
        if self.asked is None:
            self.asked = name
            log.info("node %d: %s passed on to %d ranks", self.number, name, len(self.ranks))
            ranks.ask_to_stop(self.ranks, self.job.training)
            wire.send(asked=name)

    def _look_for_successor(self) -> None:
        """Raise Lost where the job was started again on other nodes.

        A node that was cut off may find that; then nothing here may run any longer.
        """
        # a folder that is away for a moment proves nothing
        with contextlib.suppress(OSError, ValueError):
            attempt = job_record.read_json(self.job.home / "attempt.json")
            if attempt and attempt["identity"] != self.allocation.identity:
                job, restart = attempt["identity"]
                raise Lost(f"{self.job.home} is worked in by job {job}, start {restart}, by now")

    def _environment(self, wire: Wire) -> dict[str, str]:
        """Return the variables of the ranks that depend on the node."""
        interface = self.job.settings["interface"]
        out = {}
        if interface:
            out |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        elif "GLOO_SOCKET_IFNAME" not in os.environ:
            # else gloo looks its own name up, which may lead nowhere
            found = interface_of(wire.sock.getsockname()[0])
            out |= {"GLOO_SOCKET_IFNAME": found} if found else {}
        if "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0))
            given = self.allocation.cores or cores
            out["OMP_NUM_THREADS"] = str(max(1, min(cores, given) // self.job.ranks))
        try:
            out |= private.compiled_code(self.job.settings["node_cache"] or "")
        except Failure as error:
            # ranks that compile stop with the same words
            log.warning("node %d: %s", self.number, error)
        return out

    def _show(self) -> None:
        """Without SLURM: print what rank 0 has said since the last call."""
        if self.allocation.number is not None or not self.ranks:
            return
        with open(self.ranks[0].log, "rb") as file:
            file.seek(self.shown)
            fresh = file.read()
        self.shown += len(fresh)
        if fresh:
            os.write(1, fresh)

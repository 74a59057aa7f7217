"""Node 0's word to the supervisors of all nodes: start, kill, leave.

It keeps the record of what happened.
"""

import os
import secrets
import socket
import threading
import time
import traceback

from engine.distributed.addresses import free_port
from engine.distributed.transport import Hub, Lost
from engine.errors import ExitCode, Failure
from engine.logging.console import get_logger
from slurm import job_record, site
from slurm.supervisor import exit_policy, triage
from slurm.supervisor.allocation import Allocation
from slurm.supervisor.eval_supervisor import EvaluationSupervisor
from slurm.supervisor.exit_policy import ENVIRONMENT, Fault, Verdict, judge

log = get_logger(__name__)

BEAT_S = 5  # between heartbeats, of the coordinator and of each node's supervisor
GATHER_S = 300  # in which all nodes must have come
SETTLE_S = 10  # for the others to say how they ended, after the first fault
SAVE_S = 900  # for the others to end, after the first one is done or has saved
EVALUATING_S = 7 * 86400  # the same, where the first process waits for evaluations on this machine
BACKOFF_S = (1, 10, 60, 300)
# in which the controller must take a node out; SLURM ends this process KillWait after the requeue
EXCLUDE_S = 10
LEAVE_S = 5  # for the others to leave
REQUEUE_S = 600  # in which a controller that is away may come back


class Coordinator(threading.Thread):
    """Runs beside node 0's own supervisor, which it talks to as to the others.

    Args:
        job: what is run.
        allocation: of node 0.
        hub: of the nodes' numbers.
        address: where rank 0 listens.
    """

    def __init__(self, job: job_record.Job, allocation: Allocation, hub: Hub, address: str) -> None:
        super().__init__(name="coordinator", daemon=True)
        self.job, self.allocation, self.hub, self.address = job, allocation, hub, address
        self.on_slurm = allocation.number is not None
        self.began_at, self.beaten_at = time.monotonic(), 0.0
        self.asked: str | None = None  # the name of the signal that ends the job
        self.lost: Fault = {}  # of the first node that was lost
        self.ends: list[Fault] = []  # of the ranks, as they are heard of
        self.reports: dict[str, triage.Report] = {}  # of the nodes' checks
        self.checked = False  # all nodes passed
        self.evaluations = EvaluationSupervisor(job) if job.evaluation and self.on_slurm else None

    def run(self) -> None:
        """Work until the job ends; called by ``start``."""
        try:
            self._work()
        except Exception:
            # A fault of this very code: the job must not hang on it.
            said = traceback.format_exc()
            self._note(
                "stop", code=ExitCode.PROGRAM.value, reason=said.strip().splitlines()[-1], step=0
            )
            self._leave(ExitCode.PROGRAM, said)

    def _work(self) -> None:
        self._gather()
        found = self._judge_lost_node() if self.lost else None
        number = 0
        while found is None or found.what == "again":
            stop = self._handle_fault(found) if found else None
            if stop:
                found = stop
                break
            found = self._check_nodes() or self._run_ranks(number)
            number += 1
        self._end(found)

    def _gather(self) -> None:
        """Wait until all nodes have joined, or one is lost."""
        deadline = time.monotonic() + GATHER_S
        while self.hub.missing and time.monotonic() < deadline and not self.lost:
            self._pump(deadline - time.monotonic())
        if not self.hub.missing or self.lost:
            return
        missing = self.hub.missing[0]
        names = site.list_nodes(self.allocation.display)
        name = names[missing] if len(names) == self.job.nodes else ""
        which = f"node {missing} of {self.job.nodes}{f', {name},' if name else ''}"
        self.lost = {
            "reason": f"{which} did not come within {GATHER_S} s; its own words are in the job's "
            f"log",
            "node": name,
        }

    def _judge_lost_node(self) -> Verdict:
        return Verdict("again", ExitCode.ENVIRONMENT, self.lost, ENVIRONMENT)

    def _check_nodes(self) -> Verdict | None:
        """Have each node check itself; return the Verdict on those that fail, None without any."""
        wanted = self.on_slurm and self.job.training and self.job.settings["triage"]
        if not wanted or self.checked or self.asked:
            return None
        self._gather_reports()
        if self.lost:
            return self._judge_lost_node()
        if self.asked:
            return None
        for name, report in self.reports.items():
            if report["user"]:
                first = {"reason": f"node {name}: {report['user'][0]}", "node": name}
                return Verdict("stop", ExitCode.USER, first)
        names = self._names_of_members()
        bad = triage.find_failing({name: self.reports.get(name) for name in names})
        self.checked = not bad
        if not bad:
            return None
        first = {
            "reason": "; ".join(f"node {name}: {text}" for name, text in bad.items()),
            "node": next(iter(bad)),
            "triage": list(bad),
        }
        return Verdict("again", ExitCode.ENVIRONMENT, first, ENVIRONMENT)

    def _gather_reports(self) -> None:
        """Order the checks and wait for their reports, as long as they may take."""
        token = secrets.token_hex(16)  # of its own, for it is sent in clear
        sink = triage.Sink(self.address, token)
        cache = self.job.settings["node_cache"] or os.environ.get("TMPDIR", "/tmp")
        order = {
            "gpus": self.job.settings["gpus_per_node"],
            "disks": [cache, str(self.job.home)],
            "sink": sink.place,
            "token": token,
        }
        self.reports = {}
        self.hub.tell(triage=order)
        deadline = time.monotonic() + triage.LIMIT_S
        while len(self.reports) < self.job.nodes and time.monotonic() < deadline:
            if self.lost or self.asked:
                break
            self._pump(0.5)
        sink.close()

    def _run_ranks(self, number: int) -> Verdict:
        """Start all ranks and wait for their ends; return the Verdict.

        Args:
            number: of this round of the job, from 0.
        """
        if self.asked:
            return Verdict("requeue", ExitCode.STOPPED)
        self.ends = []
        self._note(
            "start",
            job=self.allocation.display or None,
            restart=self.allocation.restart,
            round=number,
            nodes=self._names_of_members(),
        )
        extra = []
        if self.job.wandb_online and not _reaches_wandb():
            extra.append("log.wandb=offline")
        if self.evaluations:
            extra.append("evaluate.here=false")
        self.hub.tell(start=number, address=self.address, port=free_port(), extra=extra)
        self._wait_for_ranks()
        if self.lost:
            self.hub.tell(kill=True)
            return self._judge_lost_node()
        return judge(self.ends, self.asked)

    def _wait_for_ranks(self) -> None:
        """Wait until all ranks have ended; after the first one the others have a set time."""
        world, deadline, killed = self.job.nodes * self.job.ranks, float("inf"), False
        while len(self.ends) < world and not self.lost:
            self._pump(1.0)
            if not self.ends or killed:
                continue
            deadline = min(deadline, self.ends[-1]["at"] + self._patience_s())
            if time.monotonic() > deadline:
                killed = True
                self.hub.tell(kill=True)

    def _patience_s(self) -> float:
        """Return the seconds that the other ranks have after the last one of ``ends``."""
        if "early" in self.ends[-1]:
            return 0
        if any(end["code"] not in (ExitCode.DONE, ExitCode.STOPPED) for end in self.ends):
            return SETTLE_S
        return EVALUATING_S if self.job.evaluation and not self.evaluations else SAVE_S

    def _handle_fault(self, found: Verdict) -> Verdict | None:
        """Note a fault and wait before the next try.

        Returns:
            A Verdict where it is not for this job to try again here, else None.
        """
        first, kind, step = found.first, found.kind, job_record.find_newest_step(self.job.folder)
        kept = {key: value for key, value in first.items() if key != "at"}
        self._note("lost" if self.lost else "fault", step=step, kind=kind, **kept)
        told = job_record.read_events(self.job.home)
        key = "environment_retries" if kind == ENVIRONMENT else "retries"
        count, most = exit_policy.count_tries(told, step, kind), self.job.settings[key]
        where = f"rank {first['rank']} on {first['node']}" if "rank" in first else "supervisor"
        said = f"{where}: {first['reason']}"
        log.info("%s (fault %d of the %s at step %d)", said, count, kind, step)
        if count > most:
            reason = f"{said}; {count} times at step {step}, more than slurm.{key}={most}"
            return Verdict("stop", found.code, {**first, "reason": reason})
        self.checked = self.checked and kind != ENVIRONMENT
        exclude = self._nodes_to_exclude(told, first, kind)
        if self.asked or self.lost or exclude:
            return Verdict("requeue", ExitCode.STOPPED, first, kind, exclude)
        deadline = time.monotonic() + BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
        while time.monotonic() < deadline and not self.asked and not self.lost:
            self._pump(deadline - time.monotonic())
        return Verdict("requeue", ExitCode.STOPPED, first) if self.asked or self.lost else None

    def _nodes_to_exclude(self, told: list[Fault], first: Fault, kind: str) -> tuple[str, ...]:
        """Return nodes that failed their checks, or that the environment names twice.

        None of them where no others can take their place.
        """
        node, nodes = first.get("node"), first.get("triage", ())
        if kind == ENVIRONMENT and node and exit_policy.is_named_twice(told, node):
            nodes = nodes or (node,)
        if not nodes or not self.on_slurm:
            return ()
        try:
            return tuple(nodes) if site.can_spare(self.allocation.display, nodes) else ()
        except Failure as error:
            # the controller does not answer: these nodes once more
            log.info("note: %s", error)
            return ()

    def _end(self, found: Verdict) -> None:
        """Act on the last Verdict, note it, and have all leave."""
        ran_out = self.job.anew and self.asked == "SIGUSR2" and self._is_out_of_time()
        if found.what == "requeue" and ran_out:
            hours = self.job.settings["hours"]
            reason = f"not done within slurm.hours={hours:g}; it would begin from nothing again"
            found = Verdict("stop", ExitCode.PROGRAM, {"reason": reason})
        if self.evaluations and found.what != "requeue":
            self.hub.tell(patience=True)
            self.evaluations.finish()
        reason = found.first.get("reason")
        if found.what == "requeue":
            again = self._requeue() if self.on_slurm else None
            if again and found.exclude:
                self._exclude(found.exclude)
            # Left without a requeue of ours, what SLURM does with the job decides: it was
            # cancelled, or SLURM itself requeues.
            codes = sorted({end["code"] for end in self.ends})
            self._note("requeue" if again else "left", signal=self.asked, codes=codes)
        else:
            self._note(found.what, code=found.code, reason=reason)
        self._leave(found.code, reason if found.what == "stop" else None)

    def _is_out_of_time(self) -> bool:
        """Return whether a warning that came now is that of the time limit.

        SLURM gives it up to a minute early.
        """
        limit_s = 3600 * self.job.settings["hours"] - self.job.settings["warn_s"] - 60
        return time.monotonic() - self.began_at > limit_s

    def _requeue(self) -> bool | None:
        """Return whether this put the job back into the queue; None where nobody could be asked."""
        self.hub.tell(patience=True)
        deadline = time.monotonic() + REQUEUE_S
        while True:
            try:
                return site.requeue(self.allocation.display)
            except Failure as error:
                log.info("note: %s", error)
                if time.monotonic() > deadline:
                    return None
            time.sleep(BEAT_S)

    def _exclude(self, nodes: tuple[str, ...]) -> None:
        """Have the next start, which waits in the queue by now, keep from some nodes."""
        deadline = time.monotonic() + EXCLUDE_S
        while True:
            try:
                site.exclude(self.allocation.display, nodes)
                job_record.add_event(self.job.home, "exclude", nodes=list(nodes))
                return
            except Failure as error:
                if time.monotonic() > deadline:
                    names = ", ".join(nodes)
                    log.info("note: the next start may come to %s again: %s", names, error)
                    return
            time.sleep(0.5)

    def _leave(self, code: int, reason: str | None) -> None:
        """Tell all nodes to leave, node 0 last: with its process this thread ends."""
        for node in list(self.hub.members):
            if node:
                self.hub.send(node, leave=code, reason=reason)
        deadline = time.monotonic() + LEAVE_S
        while self.hub.members.keys() - {0} and time.monotonic() < deadline:
            self.hub.poll(0.1)
        self.hub.send(0, leave=code, reason=reason)

    def _names_of_members(self) -> list[str]:
        return [self.hub.names[node] for node in sorted(self.hub.members)]

    def _note(self, event: str, **facts: object) -> None:
        """Append to the job's history, with the step that it stands at."""
        if "step" not in facts:
            facts["step"] = job_record.find_newest_step(self.job.folder)
        job_record.add_event(self.job.home, event, **facts)

    def _lose(self, name: str, words: str) -> None:
        self.lost = self.lost or {"reason": f"node {name} {words}", "node": name}

    def _pump(self, seconds: float) -> None:
        """Take in what comes within some time, up to a second; see who is lost."""
        now = time.monotonic()
        if now - self.beaten_at > BEAT_S:
            self.beaten_at = now
            self.hub.tell(beat=True)
        if self.evaluations:
            self.evaluations.tick()
        for node, message in self.hub.poll(max(0.0, min(seconds, 1.0))):
            name = self.hub.names[node]
            if isinstance(message, Lost):
                self._lose(name, f"is gone: {message}")
            else:
                self._take(message, name)
        for node, wire in self.hub.members.items():
            if wire.silent_s > self.job.settings["lost_s"]:
                self._lose(self.hub.names[node], f"sent no heartbeat for {wire.silent_s:.0f} s")

    def _take(self, message: dict, name: str) -> None:
        if "end" in message:
            self.ends.append({**message["end"], "node": name, "at": time.monotonic()})
        if "triage" in message:
            self.reports[name] = message["triage"]
        if "asked" in message and not self.asked:
            self.asked = message["asked"]
            self._note("signal", signal=self.asked, node=name)


def _reaches_wandb() -> bool:
    """Return whether wandb's server answers from here."""
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=5).close()
    except OSError:
        return False
    return True

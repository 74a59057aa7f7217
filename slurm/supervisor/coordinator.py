"""Node 0's word to the supervisors of all nodes: start, kill, leave; and the record of what
happened."""

import os
import secrets
import socket
import threading
import time
import traceback

from engine.errors import ExitCode, Failure
from slurm import job_record, site
from slurm.supervisor import exit_policy, triage, wire
from slurm.supervisor.eval_supervisor import Beside
from slurm.supervisor.exit_policy import ENVIRONMENT, Verdict, judge

BEAT_S = 5
GATHER_S = 300  # in which all nodes must have come
SETTLE_S = 10  # for the others to say how they ended, after the first fault
SAVE_S = 900  # for the others to end, after the first one is done or has saved
EVALUATING_S = 7 * 86400  # the same, where the first process waits for evaluations on this machine
BACKOFF_S = (1, 10, 60, 300)
# in which the controller must take a node out; SLURM ends this process KillWait after the requeue
EXCLUDE_S = 10
LEAVE_S = 5  # for the others to leave
REQUEUE_S = 600  # in which a controller that is away may come back


class Chief(threading.Thread):
    """Runs beside node 0's own supervisor, which it talks to as to the others.

    Args:
        job: slurm.job_record.Job.  identity: [job number or None, restart].  display: the number
            people know the job by.
        listener: a listening socket.  token: what the others prove themselves with.  address: where
            rank 0 listens.
    Attributes:
        hub: engine.distributed.transport.Hub of the nodes' numbers; who does not know the token is
            never heard.
    """

    def __init__(self, job, identity, display, listener, token, address):
        super().__init__(name="chief", daemon=True)
        self.job, self.identity, self.display = job, identity, display
        self.hub, self.token, self.address = (
            wire.Hub(listener, token, range(job.nodes)),
            token,
            address,
        )
        self.heard, self.beaten = {}, 0.0
        self.asked, self.ends, self.lost = None, [], None
        self.reports, self.checked = (
            {},
            False,
        )  # of the nodes' triage: {name: report}; whether all is well
        self.began = time.monotonic()
        self.beside = Beside(job) if job.evaluation and identity[0] else None

    def run(self):
        try:
            self._work()
        except Exception:
            # A fault of this very code: the job must not hang on it.
            said = traceback.format_exc()
            job_record.note(
                self.job.home,
                "stop",
                code=int(ExitCode.PROGRAM),
                reason=said.strip().splitlines()[-1],
                step=0,
            )
            self._leave(ExitCode.PROGRAM, said)

    def _work(self):
        self._gather()
        found = self._lost_node() if self.lost else None
        number = 0
        while found is None or found.what == "again":
            if found is not None and (stop := self._after_fault(found)):
                found = stop
                break
            found = self._triage() or self._round(number)
            number += 1
        self._end(found)

    def _gather(self):
        deadline = time.monotonic() + GATHER_S
        while len(self.nodes) < self.job.nodes and time.monotonic() < deadline and not self.lost:
            self._pump(deadline - time.monotonic())
        missing = sorted(set(range(self.job.nodes)) - set(self.nodes))
        if missing and not self.lost:
            names = site.names_of_nodes(self.display)
            name = names[missing[0]] if len(names) == self.job.nodes else ""
            self.lost = {
                "reason": f"node {missing[0]} of {self.job.nodes}{f', {name},' if name else ''} "
                f"did not come within "
                f"{GATHER_S} s; its own words are in the job's log",
                "node": name,
            }

    def _lost_node(self):
        return Verdict("again", ExitCode.ENVIRONMENT, self.lost, ENVIRONMENT)

    def _triage(self):
        """Have each node check itself; returns the Verdict on those that fail, None where there are
        none."""
        wanted = self.identity[0] and self.job.training and self.job.settings["triage"]
        if not wanted or self.checked or self.asked:
            return None
        token = secrets.token_hex(
            16
        )  # of its own, for it is sent in clear: the job's is only ever proven
        sink = triage.Sink(self.address, token)
        disks = [
            self.job.settings["node_cache"] or os.environ.get("TMPDIR", "/tmp"),
            str(self.job.home),
        ]
        self.reports = {}
        self._tell(
            triage={
                "gpus": self.job.settings["gpus_per_node"],
                "disks": disks,
                "sink": sink.place,
                "token": token,
            }
        )
        deadline = time.monotonic() + triage.LIMIT_S
        while (
            len(self.reports) < self.job.nodes
            and time.monotonic() < deadline
            and not self.lost
            and not self.asked
        ):
            self._pump(0.5)
        sink.close()
        if self.lost or self.asked:
            return self._lost_node() if self.lost else None
        for name, report in self.reports.items():
            if report["user"]:
                return Verdict(
                    "stop",
                    ExitCode.USER,
                    {"reason": f"node {name}: {report['user'][0]}", "node": name},
                )
        bad = triage.failing({name: self.reports.get(name) for _, name in self.nodes.values()})
        self.checked = not bad
        if not bad:
            return None
        first = {
            "reason": "; ".join(f"node {name}: {text}" for name, text in bad.items()),
            "node": next(iter(bad)),
            "triage": list(bad),
        }
        return Verdict("again", ExitCode.ENVIRONMENT, first, ENVIRONMENT)

    def _round(self, number):
        """Start all ranks and wait for their ends; returns the Verdict."""
        if self.asked:
            return Verdict("requeue", ExitCode.STOPPED)
        self.ends = []
        port = wire.free_port()
        job_record.note(
            self.job.home,
            "start",
            job=self.display,
            restart=self.identity[1],
            round=number,
            nodes=[self.nodes[n][1] for n in sorted(self.nodes)],
            step=job_record.newest_step(self.job.folder),
        )
        offline = self.job.wandb_online and not _reaches_wandb()
        extra = ["log.wandb=offline"] * offline + ["evaluate.here=false"] * (
            self.beside is not None
        )
        self._tell(start=number, address=self.address, port=port, extra=extra)
        world, deadline, killed = self.job.nodes * self.job.ranks, None, False
        save_s = EVALUATING_S if self.job.evaluation and not self.beside else SAVE_S
        while len(self.ends) < world and not self.lost:
            self._pump(1.0)
            if self.ends and not killed:
                fault = any(
                    end["code"] not in (ExitCode.DONE, ExitCode.STOPPED) for end in self.ends
                )
                if deadline is None or fault or "early" in self.ends[-1]:
                    patience = 0 if "early" in self.ends[-1] else SETTLE_S if fault else save_s
                    deadline = min(deadline or float("inf"), self.ends[-1]["at"] + patience)
                if time.monotonic() > deadline:
                    killed = True
                    self._tell(kill=True)
        if self.lost:
            self._tell(kill=True)
            return self._lost_node()
        return judge(self.ends, self.asked)

    def _after_fault(self, found):
        """Note a fault; returns a Verdict where it is not for this job to try again here, None
        after a short wait."""
        first, kind, step = found.first, found.kind, job_record.newest_step(self.job.folder)
        kept = {key: value for key, value in first.items() if key != "at"}
        job_record.note(
            self.job.home, "lost" if self.lost else "fault", step=step, kind=kind, **kept
        )
        told = job_record.history(self.job.home)
        key = "environment_retries" if kind == ENVIRONMENT else "retries"
        count, most = exit_policy.tries(told, step, kind), self.job.settings[key]
        where = f"rank {first['rank']} on {first['node']}" if "rank" in first else "supervisor"
        print(
            f"{where}: {first['reason']} (fault {count} of the {kind} at step {step})", flush=True
        )
        if count > most:
            words = f"{where}: {first['reason']}; {count} times at step {step}, more than slurm.{key}={most}"
            return Verdict("stop", found.code, {**first, "reason": words})
        self.checked = self.checked and kind != ENVIRONMENT
        exclude = self._nodes_to_leave_out(told, first, kind)
        if self.asked or self.lost or exclude:
            return Verdict("requeue", ExitCode.STOPPED, first, kind, exclude)
        deadline = time.monotonic() + BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
        while time.monotonic() < deadline and not self.asked and not self.lost:
            self._pump(deadline - time.monotonic())
        return Verdict("requeue", ExitCode.STOPPED, first) if self.asked or self.lost else None

    def _nodes_to_leave_out(self, told, first, kind):
        """Nodes that failed their triage, or that the environment names twice, if others can take
        their place; else none."""
        node, nodes = first.get("node"), first.get("triage", ())
        if kind == ENVIRONMENT and node and exit_policy.names_itself_twice(told, node):
            nodes = nodes or (node,)
        if not nodes or not self.identity[0]:
            return ()
        try:
            return tuple(nodes) if site.can_spare(self.display, nodes) else ()
        except Failure as error:
            print(
                f"note: {error}", flush=True
            )  # the controller does not answer: these nodes once more
            return ()

    def _end(self, found):
        if (
            found.what == "requeue"
            and self.job.anew
            and self.asked == "SIGUSR2"
            and self._out_of_time()
        ):
            words = f"not done within slurm.hours={self.job.settings['hours']:g}; it would begin from nothing again"
            found = Verdict("stop", ExitCode.PROGRAM, {"reason": words})
        if self.beside and found.what != "requeue":
            self._tell(patience=True)
            self.beside.finish()
        if found.what == "requeue":
            again = self._requeue() if self.identity[0] else None
            if again and found.exclude:
                self._exclude(found.exclude)
            # Left without a requeue of ours, what SLURM does with the job decides: it was
            # cancelled, or SLURM itself requeues.
            job_record.note(
                self.job.home,
                "requeue" if again else "left",
                signal=self.asked,
                codes=sorted({end["code"] for end in self.ends}),
                step=job_record.newest_step(self.job.folder),
            )
        else:
            reason = found.first["reason"] if found.first else None
            job_record.note(
                self.job.home,
                found.what,
                code=int(found.code),
                reason=reason,
                step=job_record.newest_step(self.job.folder),
            )
        self._leave(
            found.code, found.first["reason"] if found.first and found.what == "stop" else None
        )

    def _out_of_time(self):
        """Whether a warning that came now is that of the time limit; SLURM gives it up to a minute
        early."""
        return (
            time.monotonic() - self.began
            > 3600 * self.job.settings["hours"] - self.job.settings["warn_s"] - 60
        )

    def _requeue(self):
        """Whether this put the job back into the queue; None where nobody could be asked."""
        self._tell(patience=True)
        deadline = time.monotonic() + REQUEUE_S
        while True:
            try:
                return site.requeue(self.display)
            except Failure as error:
                print(f"note: {error}", flush=True)
                if time.monotonic() > deadline:
                    return None
            time.sleep(BEAT_S)

    def _exclude(self, nodes):
        """Have the next start, which waits in the queue by now, keep from some nodes."""
        deadline = time.monotonic() + EXCLUDE_S
        while True:
            try:
                site.exclude(self.display, nodes)
                return job_record.note(self.job.home, "exclude", nodes=list(nodes))
            except Failure as error:
                if time.monotonic() > deadline:
                    print(
                        f"note: the next start may come to {', '.join(nodes)} again: {error}",
                        flush=True,
                    )
                    return None
            time.sleep(0.5)

    def _leave(self, code, reason):
        """Node 0 last, with whose process this thread ends, so that the others hear the word before
        the line breaks."""
        for node in list(self.hub.members):
            if node:
                self.hub.send(node, leave=code, reason=reason)
        deadline = time.monotonic() + LEAVE_S
        while self.hub.members.keys() - {0} and time.monotonic() < deadline:
            self.hub.poll(0.1)
        self.hub.send(0, leave=code, reason=reason)

    @property
    def nodes(self):
        """{number: (Wire, name)} of those that are there."""
        return {node: (line, self.hub.names[node]) for node, line in self.hub.members.items()}

    def _tell(self, **message):
        self.hub.tell(**message)

    def _lose(self, name, words):
        self.lost = self.lost or {"reason": f"node {name} {words}", "node": name}

    def _pump(self, seconds):
        """Take in what comes within some time, up to a second; see who is lost."""
        now = time.monotonic()
        if now - self.beaten > BEAT_S:
            self.beaten = now
            self._tell(beat=True)
        if self.beside:
            self.beside.turn()
        for node, message in self.hub.poll(max(0.0, min(seconds, 1.0))):
            if isinstance(message, wire.Lost):
                self._lose(self.hub.names[node], f"is gone: {message}")
                continue
            self.heard[node] = time.monotonic()
            self._take(message, self.hub.names[node])
        for node in self.hub.members:
            silent = time.monotonic() - self.heard[node]
            if silent > self.job.settings["lost_s"]:
                self._lose(self.hub.names[node], f"gave no sign of life for {silent:.0f} s")

    def _take(self, message, name):
        if "end" in message:
            self.ends.append({**message["end"], "node": name, "at": time.monotonic()})
        if "triage" in message:
            self.reports[name] = message["triage"]
        if "asked" in message and not self.asked:
            self.asked = message["asked"]
            job_record.note(
                self.job.home,
                "signal",
                signal=self.asked,
                node=name,
                step=job_record.newest_step(self.job.folder),
            )


def _reaches_wandb():
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=5).close()
    except OSError:
        return False
    return True

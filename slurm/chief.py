"""Node 0's word to the supervisors of all nodes: start, kill, leave; and the record of what happened."""

import os
import socket
import threading
import time
import traceback

from engine.errors import Failure
from slurm import record, site, wire
from slurm.beside import Beside
from slurm.verdict import DONE, SAVED, Verdict, judge, tries

BEAT_S = 5
GATHER_S = 300  # in which all nodes must have come
SETTLE_S = 10  # for the others to say how they ended, after the first fault
SAVE_S = 900  # for the others to end, after the first one is done or has saved
EVALUATING_S = 7 * 86400  # the same, where the first process waits for evaluations on this machine
BACKOFF_S = (1, 10, 60)
LEAVE_S = 5  # for the others to leave
REQUEUE_S = 600  # in which a controller that is away may come back


class Chief(threading.Thread):
    """Runs beside node 0's own supervisor, which it talks to as to the others.

    Args:
        job: slurm.record.Job.  identity: [job number or None, restart].  display: the number people know the job by.
        listener: a listening socket.  token: what the others prove themselves with.  address: where rank 0 listens.
    Attributes:
        hub: engine.wire.Hub of the nodes' numbers; who does not know the token is never heard.
    """

    def __init__(self, job, identity, display, listener, token, address):
        super().__init__(name="chief", daemon=True)
        self.job, self.identity, self.display = job, identity, display
        self.hub, self.token, self.address = wire.Hub(listener, token, range(job.nodes)), token, address
        self.heard, self.beaten = {}, 0.0
        self.asked, self.ends, self.lost = None, [], None
        self.began = time.monotonic()
        self.beside = Beside(job) if job.evaluation and identity[0] else None

    def run(self):
        try:
            self._work()
        except Exception:
            # A fault of this very code: the job must not hang on it.
            said = traceback.format_exc()
            record.note(self.job.home, "stop", code=1, reason=said.strip().splitlines()[-1], step=0)
            self._leave(1, said)

    def _work(self):
        late = self._gather()
        verdict = Verdict("again", 1, late) if late else None
        number = 0
        while verdict is None or verdict.what == "again":
            if verdict is not None and (stop := self._after_fault(verdict.first)):
                verdict = stop
                break
            verdict = self._round(number)
            number += 1
        self._end(verdict)

    def _gather(self):
        deadline = time.monotonic() + GATHER_S
        while len(self.nodes) < self.job.nodes and time.monotonic() < deadline and not self.lost:
            self._pump(deadline - time.monotonic())
        missing = sorted(set(range(self.job.nodes)) - set(self.nodes))
        if self.lost:
            return self.lost
        if missing:
            return {"reason": f"node {missing[0]} of {self.job.nodes} did not come within {GATHER_S} s", "node": ""}
        return None

    def _round(self, number):
        """Start all ranks and wait for their ends; returns the Verdict."""
        if self.asked:
            return Verdict("requeue", SAVED)
        self.ends = []
        port = wire.free_port()
        record.note(self.job.home, "start", job=self.display, restart=self.identity[1], round=number,
                    nodes=[self.nodes[n][1] for n in sorted(self.nodes)], step=record.newest_step(self.job.folder))
        offline = self.job.wandb_online and not _reaches_wandb()
        extra = ["log.wandb=offline"] * offline + ["evaluate.here=false"] * (self.beside is not None)
        self._tell(start=number, address=self.address, port=port, extra=extra)
        world, deadline, killed = self.job.nodes * self.job.ranks, None, False
        save_s = EVALUATING_S if self.job.evaluation and not self.beside else SAVE_S
        while len(self.ends) < world and not self.lost:
            self._pump(1.0)
            if self.ends and not killed:
                fault = any(end["code"] not in (DONE, SAVED) for end in self.ends)
                if deadline is None or fault or "early" in self.ends[-1]:
                    patience = 0 if "early" in self.ends[-1] else SETTLE_S if fault else save_s
                    deadline = min(deadline or float("inf"), self.ends[-1]["at"] + patience)
                if time.monotonic() > deadline:
                    killed = True
                    self._tell(kill=True)
        if self.lost:
            self._tell(kill=True)
            return Verdict("again", 1, self.lost)
        return judge(self.ends, self.asked)

    def _after_fault(self, first):
        """Note a fault; returns a Verdict where it is not for this job to try again, None after a short wait."""
        step = record.newest_step(self.job.folder)
        kept = {key: value for key, value in first.items() if key != "at"}
        record.note(self.job.home, "lost" if self.lost else "fault", step=step, **kept)
        count, most = tries(record.history(self.job.home), step), self.job.settings["retries"]
        where = f"rank {first['rank']} on {first['node']}" if "rank" in first else "supervisor"
        print(f"{where}: {first['reason']} (fault {count} at step {step})", flush=True)
        if count > most:
            words = f"{where}: {first['reason']}; {count} times at step {step}, more than slurm.retries={most}"
            return Verdict("stop", 1, {**first, "reason": words})
        if self.asked or self.lost:
            return Verdict("requeue", SAVED, first)
        deadline = time.monotonic() + BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
        while time.monotonic() < deadline and not self.asked and not self.lost:
            self._pump(deadline - time.monotonic())
        return Verdict("requeue", SAVED, first) if self.asked or self.lost else None

    def _end(self, verdict):
        if verdict.what == "requeue" and self.job.anew and self.asked == "SIGUSR2" and self._out_of_time():
            words = f"not done within slurm.hours={self.job.settings['hours']:g}; it would begin from nothing again"
            verdict = Verdict("stop", 1, {"reason": words})
        if self.beside and verdict.what != "requeue":
            self._tell(patience=True)
            self.beside.finish()
        if verdict.what == "requeue":
            again = self._requeue() if self.identity[0] else None
            # Left without a requeue of ours, what SLURM does with the job decides: it was cancelled, or SLURM itself requeues.
            record.note(self.job.home, "requeue" if again else "left", signal=self.asked,
                        codes=sorted({end["code"] for end in self.ends}), step=record.newest_step(self.job.folder))
        else:
            reason = verdict.first["reason"] if verdict.first else None
            record.note(self.job.home, verdict.what, code=verdict.code, reason=reason, step=record.newest_step(self.job.folder))
        self._leave(verdict.code, verdict.first["reason"] if verdict.first and verdict.what == "stop" else None)

    def _out_of_time(self):
        """Whether a warning that came now is that of the time limit; SLURM gives it up to a minute early."""
        return time.monotonic() - self.began > 3600 * self.job.settings["hours"] - self.job.settings["warn_s"] - 60

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

    def _leave(self, code, reason):
        """Node 0 last, with whose process this thread ends, so that the others hear the word before the line breaks."""
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
        if "asked" in message and not self.asked:
            self.asked = message["asked"]
            record.note(self.job.home, "signal", signal=self.asked, node=name, step=record.newest_step(self.job.folder))


def _reaches_wandb():
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=5).close()
    except OSError:
        return False
    return True

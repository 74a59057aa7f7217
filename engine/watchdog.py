"""Ranks that watch each other: one that fails, dies or hangs is named by all others, which then leave.

Each rank has a thread with a line to rank 0, over which it says where its main thread is. A rank that fails says why. One
that dies closes its line, whatever it was doing: the kernel does that. One that hangs stops moving while the others wait
for it, so of the ranks the one that is furthest behind is named. Nothing of this needs the main thread, which may sit in a
collective that never ends: the thread ends the process.
"""

import os
import re
import socket
import sys
import threading
import time
import traceback

import torch.distributed as dist

from engine.errors import EnvironmentFault, ExitCode, Failure
from engine.signals import StoppedEarly
from engine.wire import Hub, Wire

TICK_S = 0.5
GRACE_S = 2.0    # an error that may only follow from another rank's end waits so long for the first cause
SILENT_S = 5.0   # without a word a process is taken to be stopped: said when it is named, never a reason to name it
CLOSING_S = 2.0  # for letting go of the run's folder
SAVE_S = 120.0   # for a save whose copy in host memory is complete: without it the steps since the last one would be lost
# What gloo and NCCL say on the ranks that are left when one is gone.
SECONDARY = re.compile("gloo|nccl|connection|timed? ?out", re.I)


class Whereabouts:
    """Where a main thread is.

    Attributes:
        now: (place, beats, step, doing). Places count up alike on all ranks; beats are signs of life within one.
    """

    def __init__(self):
        self.now = 0, 0, 0, "starting"

    def at(self, step, doing):
        """The main thread begins something; ``doing`` in words, such as "saving". All ranks say the same in turn."""
        self.now = self.now[0] + 1, 0, step, doing

    def alive(self):
        """What was begun goes on well; for what may take long in pieces."""
        place, beats, step, doing = self.now
        self.now = place, beats + 1, step, doing

    def reading(self, batches):
        """Yield (step, arrays) of a loader, and say when they are waited for and when they are worked on."""
        step = self.now[2]
        while True:
            self.at(step, "waiting for data")
            item = next(batches, None)
            if item is None:
                return
            self.at(item[0], "in forward and backward")
            step = item[0] + 1
            yield item


class Watch(Whereabouts):
    """The thread, from ``with Watch(...)`` on; at the end of that block the others are told how it ended.

    With several processes an exception in the block ends the process there: one line (or a traceback), the exit code.

    Args:
        processes: engine.distributed.Processes; all ranks construct it together.
        hang_s: seconds without progress, once the first step was begun, after which a rank hangs.
        stop: engine.signals.StopRequest; a request to one rank becomes one to all.
    Attributes:
        saving: called before the process is ended, with the seconds that a save under way may take.
        closing: called after it, for a moment.
    """

    def __init__(self, processes, hang_s, stop):
        super().__init__()
        self.rank, self.world, self.hang_s, self.stop = processes.rank, processes.world, hang_s, stop
        self.saving, self.closing = lambda limit_s: None, lambda: None
        self.verdict = None  # (rank, text, exit code) of the first that failed
        self.known = {rank: Known() for rank in range(self.world)}
        self.suspect = None
        self._ended, self._decided, self._last_word = threading.Event(), threading.Event(), threading.Lock()
        self._failing = self._spread = False
        self._said = 0.0
        self.wire = self.hub = None
        if self.world > 1:
            self._connect(processes)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None or self.world == 1:
            self._ended.set()
            self._say({"bye": True})
            return
        self._failing = True
        self._fail(*told(error))
        # Others may have failed before this one, and this one because of them.
        self._decided.wait(GRACE_S + 3)
        with self._last_word:
            if self.verdict and self.verdict[0] != self.rank:
                self._end(said(self.verdict), self.verdict[2])
            if not isinstance(error, (Failure, StoppedEarly)):
                traceback.print_exception(error)
            text, code, _ = told(error)
            self._end(f"error: rank {self.rank}: {text}", code)

    def _connect(self, processes):
        """Every rank but the first calls the first; all wait until all are there."""
        if self.rank == 0:
            self.hub = Hub(self.world)
        host = os.environ["MASTER_ADDR"]
        port, token = processes.from_first(lambda: self.hub and self.hub.address)
        if self.rank:
            try:
                self.wire = Wire(socket.create_connection((host, port), 30))
            except OSError as error:
                raise EnvironmentFault(f"rank {self.rank} cannot reach rank 0 at {host}:{port}: {error}; processes of a run must be "
                                f"able to connect to each other") from None
            self.wire.send({"rank": self.rank, "token": token})
        else:
            self.hub.gather()
        dist.barrier()

    def _run(self):
        last = time.monotonic()
        while not self._ended.wait(0 if self.world > 1 else TICK_S):
            for rank, message in self._listen():
                self._take(rank, message)
            now = time.monotonic()
            if now - last > 10 * TICK_S:
                # This process itself was stopped for a while (a suspended job): that time counts for nobody.
                for known in self.known.values():
                    known.moved += now - last
                    known.heard += now - last
            last = now
            self._tick(now)
            if self.verdict and not self._ended.is_set():
                self._decided.set()
                if self._failing:
                    self._ended.wait(CLOSING_S)  # the main thread, on its way out, has the last word
                with self._last_word:
                    self._end(said(self.verdict), self.verdict[2])

    def _listen(self):
        """[(rank, message)] of half a second; message None: the line is closed."""
        if self.hub:
            return self.hub.listen(TICK_S)
        return self.wire.listen(TICK_S) if self.wire else []

    def _take(self, rank, message):
        known = self.known[rank]
        if message is None:
            if not known.left:
                self._decide(rank, f"died, last seen{known.place()}: its process is gone, and the node's log may say why "
                             f"(often a lack of memory)", ExitCode.LOST_RANK)
            known.left = True
            return
        known.heard = time.monotonic()
        if "now" in message:
            known.see(tuple(message["now"]))
        if "bye" in message:
            known.left = True
        if "stop" in message:
            self.stop.heard(message["stop"])
        if "failed" in message:
            self._failed(rank, *message["failed"])
        if "verdict" in message:
            self._decide(*message["verdict"])

    def _tick(self, now):
        self.known[self.rank].see(self.now)
        self.known[self.rank].heard = now
        news = self.stop and not self._spread
        # A message wakes the other side: without a measure the two would wake each other all the time.
        if news or now - self._said > TICK_S * 0.9:
            self._said, self._spread = now, bool(self.stop)
            self._say({"now": self.now, "stop": self.stop.name} if news else {"now": self.now})
        if self.suspect and now - self.suspect[0] > GRACE_S:
            self._decide(*self.suspect[1:])
        self._look_for_hangs(now)

    def _look_for_hangs(self, now):
        there = {rank: known for rank, known in self.known.items() if not known.left and known.now[0]}
        if self.rank == 0:
            if there and max(now - known.moved for known in there.values()) > self.hang_s:
                behind = min(known.now[0] for known in there.values())
                slow = {rank: known for rank, known in there.items() if known.now[0] == behind}
                silent = {rank: known for rank, known in slow.items() if now - known.heard > SILENT_S}
                self._decide(*hang(silent or slow, bool(silent), now, self.hang_s))
        elif self.known[0].now[0] and not self.known[0].left and now - self.known[self.rank].moved > self.hang_s + 4 * TICK_S \
                and now - self.known[0].heard > SILENT_S:
            self._decide(*hang({0: self.known[0]}, True, now, self.hang_s))

    def _say(self, message):
        if self.hub:
            self.hub.send(message)
        elif self.wire:
            self.wire.send(message)

    def _fail(self, text, code, secondary):
        self.known[self.rank].see(self.now)
        if self.wire:
            self._say({"now": self.now, "failed": [text, code, secondary]})
        else:
            self._failed(self.rank, text, code, secondary)

    def _failed(self, rank, text, code, secondary):
        text = f"stopped{self.known[rank].place()}: {text}"
        if not secondary:
            self._decide(rank, text, code)
        elif not self.suspect:
            self.suspect = time.monotonic(), rank, text, code

    def _decide(self, rank, text, code):
        if self.verdict is None:
            self.verdict = rank, text, code
            if self.hub:
                self._say({"verdict": self.verdict})

    def _end(self, text, code):
        """The process's last line, and its end. Does not return."""
        # Rank 0's progress bar may stand in the line.
        os.write(2, f"{'' if self.rank else chr(10)}{text}\n".encode())
        self._ended.set()
        self.saving(SAVE_S)
        thread = threading.Thread(target=self.closing, daemon=True)
        thread.start()
        thread.join(CLOSING_S)
        sys.stdout.flush()
        os._exit(code)


class Known:
    """What is known of a rank: where it was seen last, and when it moved and was heard of."""

    def __init__(self):
        self.now, self.left = (0, 0, 0, "starting"), False
        self.moved = self.heard = time.monotonic()

    def see(self, now):
        if now != self.now:
            self.now, self.moved = now, time.monotonic()

    def place(self):
        _, _, step, doing = self.now
        return f" at step {step}, {doing}" if self.now[0] else " while starting"


def told(error):
    """(text, exit code of the other ranks too, whether another rank's end may be the cause) of an exception."""
    if isinstance(error, StoppedEarly):
        return f"{error} before the first step; there was nothing to save", ExitCode.STOPPED, False
    if isinstance(error, Failure):
        return str(error), error.exit_code, False
    if isinstance(error, SystemExit):
        return "left", error.code if isinstance(error.code, int) else 1, False
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return text, ExitCode.LOST_RANK, isinstance(error, RuntimeError) and bool(SECONDARY.search(str(error)))


def said(verdict):
    """The line that a rank prints which did not fail itself."""
    rank, text, code = verdict
    again = "; start the same command again" if code in (ExitCode.LOST_RANK, ExitCode.STOPPED) else ""
    return f"error: rank {rank} {text} (exit code {code}{again})"


def hang(slow, silent, now, hang_s):
    """(rank, text, code) about the ranks in ``slow``: {rank: Known}."""
    ranks = sorted(slow)
    first = slow[ranks[0]]
    others = f" (and so do ranks {', '.join(map(str, ranks[1:9]))})" if len(ranks) > 1 else ""
    state = f", and its process has given no sign of life for {now - first.heard:.0f} s" if silent else ""
    return ranks[0], (f"hangs{first.place()}, for {now - first.moved:.0f} s{others}{state}; guard.hang_s={hang_s:g}"), ExitCode.LOST_RANK

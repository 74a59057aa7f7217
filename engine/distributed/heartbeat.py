"""Ranks that watch each other: one that fails, dies or hangs is named by all others, which then
leave.

Each rank has a thread with a line to rank 0, over which it says where its main thread is. A rank
that fails says why. One that dies closes its line, whatever it was doing: the kernel does that. One
that hangs stops moving while the others wait for it, so of the ranks the one that is furthest
behind is named. Nothing of this needs the main thread, which may sit in a collective that never
ends: the thread ends the process.

The watch stands before the process group, which is made under it: the ranks find rank 0 by torch's
store alone.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
import traceback

from engine.distributed.process_group import MEET_S, RelayedFault, open_store
from engine.distributed.transport import Hub, Lost, join, listen_at, own_address
from engine.errors import EnvironmentFault, ExitCode, Failure, explain
from engine.run.signals import StoppedEarly

TICK_S = 0.5
LINGER_S = (
    30.0  # in which rank 0, after a failure, waits for ranks that still start, to tell them too
)
GRACE_S = (
    2.0  # an error that may only follow from another rank's end waits so long for the first cause
)
# without a word a process is taken to be stopped: said when it is named, never a reason to name it
SILENT_S = 5.0
CLOSING_S = 2.0  # for letting go of the run's folder
# for a save whose copy in host memory is complete: without it the steps since the last one would be
# lost
SAVE_S = 120.0
# What gloo and NCCL say on the ranks that are left when one is gone.
SECONDARY = re.compile("gloo|nccl|connection|timed? ?out", re.I)


class Whereabouts:
    """Where a main thread is.

    Attributes:
        now: (place, beats, step, doing). Places count up alike on all ranks; beats are signs of
            life within one.
    """

    def __init__(self):
        self.now = 0, 0, 0, "starting"
        self._waited = 0.0

    def at(self, step, doing):
        """The main thread begins something; ``doing`` in words, such as "saving". All ranks say the
        same in turn."""
        self.now = self.now[0] + 1, 0, step, doing

    def alive(self):
        """What was begun goes on well; for what may take long in pieces."""
        place, beats, step, doing = self.now
        self.now = place, beats + 1, step, doing

    def reading(self, batches):
        """Yield (step, arrays) of a loader, and say when they are waited for and when they are
        worked on."""
        step = self.now[2]
        while True:
            self.at(step, "waiting for data")
            began = time.perf_counter()
            item = next(batches, None)
            self._waited += time.perf_counter() - began
            if item is None:
                return
            self.at(item[0], "in forward and backward")
            step = item[0] + 1
            yield item

    def take_waited(self):
        """Seconds for which ``reading`` waited for the loader since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


class Watch(Whereabouts):
    """The thread, from ``with Watch(...)`` on; at the end of that block the others are told how it
    ended.

    With several processes an exception in the block ends the process there: one line (or a
    traceback), the exit code.

    Args:
        place: engine.distributed.place.Place; all ranks construct it, each when it gets there.
        hang_s: seconds without progress, once the first step was begun, after which a rank hangs.
        stop: engine.run.signals.StopRequest; a request to one rank becomes one to all. None: nobody
            asks.
        meet_s: seconds for all ranks to come.
    Attributes:
        saving: called before the process is ended, with the seconds that a save under way may take.
        closing: called after it, for a moment.
        store: torch's, by which the ranks met; None where there is one process alone.
    Raises:
        EnvironmentFault: rank 0 cannot be reached.
    """

    def __init__(self, place, hang_s, stop=None, meet_s=MEET_S):
        super().__init__()
        self.rank, self.world, self.hang_s, self.stop = place.rank, place.world, hang_s, stop
        self.saving, self.closing = lambda limit_s: None, lambda: None
        self.verdict = None  # (rank, text, exit code) of the first that failed
        self.known = {rank: Known() for rank in range(self.world)}
        self.suspect = None
        self._ended, self._decided, self._last_word = (
            threading.Event(),
            threading.Event(),
            threading.Lock(),
        )
        self._failing = self._spread = False
        self._said, self._heard = 0.0, time.monotonic()
        self._meet_until = self._heard + meet_s
        self.wire = self.hub = self.store = None
        if self.world > 1:
            self.store = open_store(place, meet_s)
            self._connect(place, meet_s)
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
        self._decided.wait(GRACE_S + 3 + (LINGER_S if self._others_start() else 0))
        with self._last_word:
            if self.verdict and self.verdict[0] != self.rank:
                self._end(said(self.verdict), self.verdict[2])
            if not isinstance(error, (Failure, StoppedEarly, SystemExit, KeyboardInterrupt)):
                traceback.print_exception(error)
            text, code, _ = told(error)
            self._end(f"error: rank {self.rank}: {text}", code)

    def _connect(self, place, meet_s):
        """Rank 0 says in the store where it listens; the others call it. Nobody waits for anybody
        but rank 0."""
        if self.rank == 0:
            try:
                listener = listen_at(own_address(place.address, place.world == place.local_world))
            except OSError as error:
                raise EnvironmentFault(
                    f"rank 0 cannot listen for the others: {explain(error)}"
                ) from None
            host, port = listener.getsockname()[:2]
            token = secrets.token_hex(16)
            self.hub = Hub(listener, token, range(1, self.world))
            everywhere = host in ("0.0.0.0", "::")
            self.store.set(
                "watch", json.dumps([place.address if everywhere else host, port, token])
            )
            return
        host, port, token = place.address, place.port, None
        try:
            host, port, token = json.loads(self.store.get("watch"))
            self.wire = join(host, port, token, self.rank, socket.gethostname(), meet_s)
        except (RuntimeError, Lost) as error:  # the store's errors are RuntimeErrors
            raise EnvironmentFault(
                f"rank {self.rank} cannot reach rank 0 at {host}:{port}: {first_line(error)}; "
                f"processes of a run must be able to connect to each other"
            ) from None

    def _run(self):
        last = time.monotonic()
        while not self._ended.is_set():
            for rank, message in self._listen():
                self._take(rank, message)
            now = time.monotonic()
            if now - last > 10 * TICK_S:
                # This process itself was stopped for a while (a suspended job): that time counts
                # for nobody.
                self._meet_until += now - last
                for known in self.known.values():
                    known.moved += now - last
                    known.heard += now - last
            last = now
            self._tick(now)
            if self.verdict and not self._ended.is_set() and not self._others_start():
                self._decided.set()
                if self._failing:
                    self._ended.wait(
                        CLOSING_S
                    )  # the main thread, on its way out, has the last word
                with self._last_word:
                    self._end(said(self.verdict), self.verdict[2])

    def _others_start(self):
        """Whether rank 0 goes on listening for those that still start, although the end is
        decided."""
        if not self.hub or not self.hub.missing:
            return False
        now = time.monotonic()
        return now < self._meet_until and (self.verdict is None or now < self._heard + LINGER_S)

    def _listen(self):
        """[(rank, message)] of about half a second; a Lost for a message: the line is closed.

        Rank 0 sleeps for that time and then takes in all that has come: to be woken by each message
        of hundreds of ranks would cost the main thread most of its interpreter. Only while ranks
        still come it answers them at once.
        """
        if self.hub and self.hub.missing:
            return self.hub.poll(TICK_S)
        if self.wire:
            try:
                return [(0, message) for message in self.wire.wait(TICK_S)]
            except Lost as error:
                self.wire = None
                return [(0, error)]
        self._ended.wait(TICK_S)
        return self.hub.poll(0) if self.hub else []

    def _take(self, rank, message):
        known = self.known[rank]
        if isinstance(message, Lost):
            if not known.left:
                self._decide(
                    rank,
                    f"died, last seen{known.place()}: its process is gone, and the node's log may "
                    f"say why "
                    f"(often a lack of memory)",
                    ExitCode.LOST_RANK,
                )
            known.left = True
            return
        known.heard = time.monotonic()
        if "joined" in message and self.verdict:
            self.hub.send(rank, verdict=self.verdict)
        if "now" in message:
            known.see(tuple(message["now"]))
        if "bye" in message:
            known.left = True
        if "stop" in message and self.stop is not None:
            self.stop.heard(message["stop"])
        if "failed" in message:
            self._failed(rank, *message["failed"])
        if "verdict" in message:
            self._decide(*message["verdict"])

    def _tick(self, now):
        self.known[self.rank].see(self.now)
        self.known[self.rank].heard = now
        news = bool(self.stop) and not self._spread
        # A message wakes the other side: without a measure the two would wake each other all the
        # time.
        if news or now - self._said > TICK_S * 0.9:
            self._said, self._spread = now, bool(self.stop)
            self._say({"now": self.now, "stop": self.stop.name} if news else {"now": self.now})
        if now > self._meet_until and self.hub and (missing := self.hub.missing):
            more = (
                f" (nor did ranks {', '.join(map(str, missing[1:9]))})" if len(missing) > 1 else ""
            )
            self._decide(
                missing[0],
                f"did not come to the start in time{more}: it died before it could say why, or the "
                f"processes of this run cannot connect to each other",
                ExitCode.LOST_RANK,
            )
        if self.suspect and now - self.suspect[0] > GRACE_S:
            self._decide(*self.suspect[1:])
        self._look_for_hangs(now)

    def _look_for_hangs(self, now):
        there = {
            rank: known for rank, known in self.known.items() if not known.left and known.now[0]
        }
        if self.rank == 0:
            if there and max(now - known.moved for known in there.values()) > self.hang_s:
                behind = min(known.now[0] for known in there.values())
                slow = {rank: known for rank, known in there.items() if known.now[0] == behind}
                silent = {
                    rank: known for rank, known in slow.items() if now - known.heard > SILENT_S
                }
                self._decide(*hang(silent or slow, bool(silent), now, self.hang_s))
        elif (
            self.known[0].now[0]
            and not self.known[0].left
            and now - self.known[self.rank].moved > self.hang_s + 4 * TICK_S
            and now - self.known[0].heard > SILENT_S
        ):
            self._decide(*hang({0: self.known[0]}, True, now, self.hang_s))

    def _say(self, message):
        wire = self.wire  # which the thread may let go of at any moment
        if self.hub:
            self.hub.tell(**message)
        elif wire:
            with contextlib.suppress(Lost):  # found by who listens
                wire.send(**message)

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
            self.verdict, self._heard = (rank, text, code), time.monotonic()
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
    """(text, exit code of the other ranks too, whether another rank's end may be the cause) of an
    exception."""
    if isinstance(error, StoppedEarly):
        return f"{error} before the first step; there was nothing to save", ExitCode.STOPPED, False
    if isinstance(error, Failure):
        return str(error), error.exit_code, error.relayed
    if isinstance(error, SystemExit):
        return "left", error.code if isinstance(error.code, int) else ExitCode.PROGRAM, False
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitCode.INTERRUPTED, False
    text = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, RuntimeError) and SECONDARY.search(str(error)):
        return text, ExitCode.LOST_RANK, True
    return text, ExitCode.PROGRAM, isinstance(error, RelayedFault)


def first_line(error):
    """The words of an exception in one line."""
    return " ".join(str(error).split())[:200]


def said(verdict):
    """The line that a rank prints which did not fail itself."""
    rank, text, code = verdict
    again = (
        "; start the same command again"
        if code in (ExitCode.LOST_RANK, ExitCode.STOPPED, ExitCode.ENVIRONMENT)
        else ""
    )
    return f"error: rank {rank} {text} (exit code {code}{again})"


def hang(slow, silent, now, hang_s):
    """(rank, text, code) about the ranks in ``slow``: {rank: Known}."""
    ranks = sorted(slow)
    first = slow[ranks[0]]
    others = f" (and so do ranks {', '.join(map(str, ranks[1:9]))})" if len(ranks) > 1 else ""
    state = (
        f", and its process has given no sign of life for {now - first.heard:.0f} s"
        if silent
        else ""
    )
    text = f"hangs{first.place()}, for {now - first.moved:.0f} s{others}{state}; guard.hang_s={hang_s:g}"
    return ranks[0], text, ExitCode.LOST_RANK

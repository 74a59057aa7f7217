"""Ranks that watch each other.

One that fails, dies or hangs is named by all others, which then leave.

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
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from types import TracebackType
from typing import NoReturn, TypeVar

import torch.distributed as dist

from engine.distributed.addresses import own_address
from engine.distributed.process_group import MEET_S, RelayedFault, open_store
from engine.distributed.rank_env import RankEnv
from engine.distributed.transport import Hub, Lost, Meeting, Wire, open_hub
from engine.errors import EnvironmentFault, ExitCode, Failure, explain
from engine.run.signals import StoppedEarly, StopRequest

Batch = TypeVar("Batch")

Position = tuple[int, int, int, str]  # of a main thread: see Whereabouts.now
Decision = tuple[int, str, int]  # (rank, text, exit code) of the first that failed

TICK_S = 0.5
# In which rank 0, after a failure, waits for ranks that still start, to tell them too.
LINGER_S = 30.0
# An error that may only follow from another rank's end waits so long for the first cause.
GRACE_S = 2.0
# Without a word a process is taken to be stopped: said when it is named, never a reason to name it.
SILENT_S = 5.0
CLOSING_S = 2.0  # for letting go of the run's folder
# For a save whose copy in host memory is complete: without it the steps since the last one would be
# lost.
SAVE_S = 120.0
# What gloo and NCCL say on the ranks that are left when one is gone.
SECONDARY = re.compile("gloo|nccl|connection|timed? ?out", re.I)


class Whereabouts:
    """Where a main thread is.

    Attributes:
        now: (phase, beats, step, doing). Phases count up alike on all ranks; beats are
            heartbeats within one.
    """

    def __init__(self) -> None:
        self.now: Position = (0, 0, 0, "starting")
        self._waited = 0.0

    def at(self, step: int, doing: str) -> None:
        """The main thread begins something; ``doing`` in words, such as "saving".

        All ranks say the same in turn.
        """
        self.now = self.now[0] + 1, 0, step, doing

    def alive(self) -> None:
        """Say that what was begun proceeds well; for what may take long in pieces."""
        phase, beats, step, doing = self.now
        self.now = phase, beats + 1, step, doing

    def reading(self, batches: Iterator[tuple[int, Batch]]) -> Iterator[tuple[int, Batch]]:
        """Yield (step, arrays) of a loader.

        Says when they are waited for and when they are worked on.
        """
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

    def take_waited(self) -> float:
        """Return the seconds for which ``reading`` waited for the loader since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


class Watch(Whereabouts):
    """The thread, from ``with Watch(...)`` on.

    At the end of that block the others learn how it ended.

    With several processes an exception in the block ends the process there: one line (or a
    traceback), the exit code.

    Args:
        env: engine.distributed.rank_env.RankEnv; all ranks construct it, each when it gets there.
        hang_s: seconds without progress, once the first step was begun, after which a rank hangs.
        stop: a request to one rank becomes one to all. None: nobody asks.
        meet_s: seconds for all ranks to come.
    Attributes:
        saving: called before the process is ended, with the seconds that a save under way may take.
        closing: called after it, for a moment.
        store: torch's, by which the ranks met; None where there is one process alone.
    Raises:
        EnvironmentFault: rank 0 cannot be reached.
    """

    def __init__(
        self,
        env: RankEnv,
        hang_s: float,
        stop: StopRequest | None = None,
        meet_s: float = MEET_S,
    ) -> None:
        super().__init__()
        self.rank, self.world, self.hang_s, self.stop = env.rank, env.world, hang_s, stop
        self.saving: Callable[[float], None] = lambda limit_s: None
        self.closing: Callable[[], None] = lambda: None
        self.verdict: Decision | None = None
        self.known = {rank: Known() for rank in range(self.world)}
        self.suspect: tuple[float, Decision] | None = None  # since when
        self._ended, self._decided = threading.Event(), threading.Event()
        self._last_word = threading.Lock()
        self._failing = False  # this rank is on its way out
        self._spread = False  # the others know of the request to stop
        self._said_at, self._decided_at = 0.0, time.monotonic()
        self._meet_until = self._decided_at + meet_s
        self.wire: Wire | None = None
        self.hub: Hub | None = None
        self.store: dist.Store | None = None
        if self.world > 1:
            self.store = open_store(env, meet_s)
            if self.rank == 0:
                self.hub = self._open_hub(env, self.store)
            else:
                self.wire = self._join(env, self.store, meet_s)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self.world == 1:
            self._ended.set()
            self._say({"bye": True})
            return
        self._failing = True
        self._fail(*describe_error(error))
        # Others may have failed before this one, and this one because of them.
        self._decided.wait(GRACE_S + 3 + (LINGER_S if self._others_start() else 0))
        with self._last_word:
            if self.verdict and self.verdict[0] != self.rank:
                self._end(describe_decision(self.verdict), self.verdict[2])
            if not isinstance(error, (Failure, StoppedEarly, SystemExit, KeyboardInterrupt)):
                traceback.print_exception(error)
            text, code, _ = describe_error(error)
            self._end(f"error: rank {self.rank}: {text}", code)

    def _open_hub(self, env: RankEnv, store: dist.Store) -> Hub:
        """Rank 0: listen, and say in the store where."""
        host = env.address or ""
        address = own_address(host, alone=env.world == env.local_world)
        try:
            hub, meeting = open_hub(address, host, range(1, self.world))
        except OSError as error:
            raise EnvironmentFault(
                f"rank 0 cannot listen for the others: {explain(error)}"
            ) from None
        store.set("watch", json.dumps(astuple(meeting)))
        return hub

    def _join(self, env: RankEnv, store: dist.Store, meet_s: float) -> Wire:
        """Call rank 0, the only one that anybody waits for."""
        where = f"{env.address}:{env.port}"
        try:
            meeting = Meeting(*json.loads(store.get("watch")))
            where = f"{meeting.address}:{meeting.port}"
            return meeting.join(self.rank, socket.gethostname(), meet_s)
        except (RuntimeError, Lost) as error:  # the store's errors are RuntimeErrors
            raise EnvironmentFault(
                f"rank {self.rank} cannot reach rank 0 at {where}: {first_line(error)}; "
                f"processes of a run must be able to connect to each other"
            ) from None

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            for rank, message in self._listen():
                self._take(rank, message)
            now = time.monotonic()
            if now - last > 10 * TICK_S:
                self._forgive(now - last)
            last = now
            self._tick(now)
            if self.verdict and not self._ended.is_set() and not self._others_start():
                self._decided.set()
                if self._failing:
                    # the main thread, on its way out, has the last word
                    self._ended.wait(CLOSING_S)
                with self._last_word:
                    self._end(describe_decision(self.verdict), self.verdict[2])

    def _forgive(self, seconds: float) -> None:
        """Count for nobody a time in which this process itself was stopped (a suspended job)."""
        self._meet_until += seconds
        for known in self.known.values():
            known.moved_at += seconds
            known.heard_at += seconds

    def _others_start(self) -> bool:
        """Return whether rank 0 still listens for ranks that start, although the end is decided."""
        if not self.hub or not self.hub.missing:
            return False
        now = time.monotonic()
        lingers = self.verdict is None or now < self._decided_at + LINGER_S
        return now < self._meet_until and lingers

    def _listen(self) -> Sequence[tuple[int, dict | Lost]]:
        """Return [(rank, message)] of about half a second; a Lost says that the line is closed.

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

    def _take(self, rank: int, message: dict | Lost) -> None:
        known = self.known[rank]
        if isinstance(message, Lost):
            if not known.left:
                text = (
                    f"died, last seen{known.describe()}: its process is gone, and the node's log "
                    f"may say why (often a lack of memory)"
                )
                self._decide((rank, text, ExitCode.LOST_RANK))
            known.left = True
            return
        known.heard_at = time.monotonic()
        if "joined" in message and self.verdict and self.hub:
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
            self._decide(tuple(message["verdict"]))

    def _tick(self, now: float) -> None:
        self.known[self.rank].see(self.now)
        self.known[self.rank].heard_at = now
        news = bool(self.stop) and not self._spread
        # A message wakes the other side: without a measure the two would wake each other all the
        # time.
        if news or now - self._said_at > TICK_S * 0.9:
            self._said_at, self._spread = now, bool(self.stop)
            asked = {"stop": self.stop.name} if self.stop and news else {}
            self._say({"now": self.now, **asked})
        if now > self._meet_until and self.hub and self.hub.missing:
            self._give_up(self.hub.missing)
        if self.suspect and now - self.suspect[0] > GRACE_S:
            self._decide(self.suspect[1])
        if self.rank == 0:
            self._look_for_hangs(now)
        else:
            self._look_at_first(now)

    def _give_up(self, missing: list[int]) -> None:
        """Decide on ranks that did not come in time."""
        others = ", ".join(map(str, missing[1:9]))
        more = f" (nor did ranks {others})" if others else ""
        text = (
            f"did not come to the start in time{more}: it died before it could say why, or the "
            f"processes of this run cannot connect to each other"
        )
        self._decide((missing[0], text, ExitCode.LOST_RANK))

    def _look_for_hangs(self, now: float) -> None:
        """Rank 0: name the ranks that are furthest behind where one has not moved for long.

        The others wait for those, so how long they have stood still says nothing.
        """
        there = {
            rank: known for rank, known in self.known.items() if not known.left and known.now[0]
        }
        if not there:
            return
        behind = min(known.now[0] for known in there.values())
        slow = {rank: known for rank, known in there.items() if known.now[0] == behind}
        if now - min(known.moved_at for known in slow.values()) <= self.hang_s:
            return
        silent = {rank: known for rank, known in slow.items() if now - known.heard_at > SILENT_S}
        self._decide(describe_hang(silent or slow, bool(silent), now, self.hang_s))

    def _look_at_first(self, now: float) -> None:
        """Another rank: name rank 0 where it says nothing and this rank waits for it."""
        first = self.known[0]
        waits = now - self.known[self.rank].moved_at > self.hang_s + 4 * TICK_S
        if first.now[0] and not first.left and waits and now - first.heard_at > SILENT_S:
            self._decide(describe_hang({0: first}, True, now, self.hang_s))

    def _say(self, message: dict) -> None:
        wire = self.wire  # which the thread may let go of at any moment
        if self.hub:
            self.hub.tell(**message)
        elif wire:
            with contextlib.suppress(Lost):  # found by who listens
                wire.send(**message)

    def _fail(self, text: str, code: int, secondary: bool) -> None:
        self.known[self.rank].see(self.now)
        if self.wire:
            self._say({"now": self.now, "failed": [text, code, secondary]})
        else:
            self._failed(self.rank, text, code, secondary)

    def _failed(self, rank: int, text: str, code: int, secondary: bool) -> None:
        decision = rank, f"stopped{self.known[rank].describe()}: {text}", code
        if not secondary:
            self._decide(decision)
        elif not self.suspect:
            self.suspect = time.monotonic(), decision

    def _decide(self, decision: Decision) -> None:
        if self.verdict is None:
            self.verdict, self._decided_at = decision, time.monotonic()
            if self.hub:
                self._say({"verdict": self.verdict})

    def _end(self, text: str, code: int) -> NoReturn:
        """Print the process's last line, and end it."""
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

    def __init__(self) -> None:
        self.now: Position = (0, 0, 0, "starting")
        self.left = False
        self.moved_at = self.heard_at = time.monotonic()

    def see(self, now: Position) -> None:
        """Take in where its main thread is."""
        if now != self.now:
            self.now, self.moved_at = now, time.monotonic()

    def describe(self) -> str:
        """Return where it was seen last, as the end of a clause."""
        _, _, step, doing = self.now
        return f" at step {step}, {doing}" if self.now[0] else " while starting"


def describe_error(error: BaseException) -> tuple[str, int, bool]:
    """Return what is sent to the ranks about an exception.

    Returns:
        Text, exit code of the other ranks too, and whether another rank's end may be the cause.
    """
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


def first_line(error: BaseException) -> str:
    """Return the words of an exception in one line."""
    return " ".join(str(error).split())[:200]


def describe_decision(verdict: Decision) -> str:
    """Return the line that a rank prints which did not fail itself."""
    rank, text, code = verdict
    again = (
        "; start the same command again"
        if code in (ExitCode.LOST_RANK, ExitCode.STOPPED, ExitCode.ENVIRONMENT)
        else ""
    )
    return f"error: rank {rank} {text} (exit code {code}{again})"


def describe_hang(slow: dict[int, Known], silent: bool, now: float, hang_s: float) -> Decision:
    """Return the decision on ranks that hang.

    Args:
        slow: what is known of each of them.
        silent: their processes have said nothing for a while.
        now: the time, as of ``time.monotonic``.
    """
    ranks = sorted(slow)
    first = slow[ranks[0]]
    others = f" (and so do ranks {', '.join(map(str, ranks[1:9]))})" if len(ranks) > 1 else ""
    state = ""
    if silent:
        state = f", and its process has sent no heartbeat for {now - first.heard_at:.0f} s"
    text = (
        f"hangs{first.describe()}, for {now - first.moved_at:.0f} s{others}{state}; "
        f"guard.hang_s={hang_s:g}"
    )
    return ranks[0], text, ExitCode.LOST_RANK

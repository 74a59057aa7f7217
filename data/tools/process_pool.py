"""Work spread over processes: the one pool of the data commands.

``spread`` keeps its processes for many pieces of work, as they take seconds to start;
``spread_in_order`` is the same with the answers in the order of the work; ``spread_isolated`` takes
a process for each piece, for work that may take its process along, as a video decoder does. (The
loader's workers are another thing: they write into shared memory, see data.loading.loader.)

multiprocessing.Pool would wait for ever for the answer of a process that died, and
concurrent.futures would lose the work of all others with it.
"""

import contextlib
import ctypes
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Generic, NoReturn, TypeVar

from engine.errors import EnvironmentFault, Failure
from engine.logging.console import follow_console

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")

_SPAWN = multiprocessing.get_context("spawn")
PR_SET_PDEATHSIG = 1


class Died(Exception):
    """A process ended without an answer; the message holds its exit code.

    Attributes:
        exit_code: of the process; a negative one is a signal.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"the process died with exit code {exit_code}")
        self.exit_code = exit_code


def spread(
    function: Callable[[Piece], Answer], pieces: Iterable[Piece], workers: int
) -> Iterator[tuple[int, Answer]]:
    """Yield (i, function(pieces[i])) as they are done.

    With one worker in this process and in order.

    Pieces are taken only as processes become free. The processes end when the generator is closed
    or this process dies; SystemExit is raised in them, so that they clear what they have half
    written.

    Args:
        function: of a module, so that a spawned process finds it.
    Raises:
        Failure: function raised it.  EnvironmentFault: a process was killed, as where memory runs
            out.
        RuntimeError: function raised anything else, and the message holds its traceback; or a
            process ended otherwise.
    """
    if workers <= 1:
        for number, piece in enumerate(pieces):
            yield number, function(piece)
        return
    left = enumerate(pieces)
    busy: list[_Worker[Piece, Answer]] = []
    try:
        for number, piece in itertools.islice(left, workers):
            busy.append(_Worker(function))
            busy[-1].send(number, piece)
        while busy:
            ready = multiprocessing.connection.wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                try:
                    yield worker.receive()
                except Died as died:
                    _explain_death(died)
                following = next(left, None)
                if following is None:
                    busy.remove(worker)
                    worker.finish()
                else:
                    worker.send(*following)
    finally:
        for worker in busy:
            worker.stop()
        for worker in busy:
            worker.process.join()


def spread_in_order(
    function: Callable[[Piece], Answer], pieces: Iterable[Piece], workers: int
) -> Iterator[Answer]:
    """Yield function(piece) in the order of the pieces; see ``spread``.

    Answers that come early wait in memory.
    """
    early: dict[int, Answer] = {}
    following = 0
    for number, answer in spread(function, pieces, workers):
        early[number] = answer
        while following in early:
            yield early.pop(following)
            following += 1


def spread_isolated(
    function: Callable[[Piece], Answer], pieces: Iterable[Piece], workers: int
) -> Iterator[Answer | Died]:
    """Yield function(piece) in the order of the pieces, each in a fresh process.

    ``workers`` run at a time.

    A process that died yields a Died, and the others continue. At most ``workers`` answers wait to
    be taken.

    Raises:
        Failure, RuntimeError: as ``spread``.
    """
    with ThreadPoolExecutor(workers) as threads:
        queue: deque[Future[Answer | Died]] = deque()
        try:
            for piece in pieces:
                queue.append(threads.submit(_run_alone, function, piece))
                if len(queue) > workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def _run_alone(function: Callable[[Piece], Answer], piece: Piece) -> Answer | Died:
    worker: _Worker[Piece, Answer] = _Worker(function)
    worker.send(0, piece)
    try:
        return worker.receive()[1]
    except Died as died:
        return died
    finally:
        worker.finish()


class _Worker(Generic[Piece, Answer]):
    """A process that answers one piece after another."""

    def __init__(self, function: Callable[[Piece], Answer]) -> None:
        self.pipe, there = _SPAWN.Pipe()
        self.process = _SPAWN.Process(
            target=_work, args=(function, there, os.getpid()), daemon=True
        )
        self.process.start()
        there.close()

    def send(self, number: int, piece: Piece) -> None:
        """Give it a piece; ``receive`` reports a process that is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((number, piece))

    def receive(self) -> tuple[int, Answer]:
        """(number, answer) of the piece that it was given.

        Raises:
            Died: the process ended without a whole answer.
            Failure, RuntimeError: what the function raised.
        """
        try:
            number, answer, refused, failed = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Died(self.process.exitcode) from None
        if refused:
            kind, words = refused
            raise kind(words)
        if failed:
            raise RuntimeError(f"a process failed:\n{failed}")
        return number, answer

    def stop(self) -> None:
        """Have the process end, whatever it is doing; join it afterwards."""
        self.process.terminate()
        # A signal that comes just before a process begins to read is noticed only when the read
        # returns, which the end of the pipe makes it do.
        self.pipe.close()

    def finish(self) -> None:
        """End the process, which has nothing left to do."""
        self.pipe.close()
        self.process.join()


def _explain_death(died: Died) -> NoReturn:
    words = (
        f"a process ended with exit code {died.exit_code} and no message; a negative code is a "
        f"signal"
    )
    if died.exit_code == -signal.SIGKILL:
        raise EnvironmentFault(
            f"{words}: the system kills processes when memory runs out; use fewer workers="
        ) from None
    raise RuntimeError(words) from None


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _work(
    function: Callable[[Piece], Answer],
    pipe: multiprocessing.connection.Connection,
    parent: int,
) -> None:
    """Answer pieces until the pipe is closed: (number, piece) comes in.

    (number, answer, kind and words of a Failure, traceback) goes back.
    """
    # Ctrl-C reaches the whole group; the parent ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    follow_console()
    while True:
        try:
            number, piece = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        answer = refused = failed = None
        try:
            answer = function(piece)
        except Failure as error:
            refused = type(error), str(error)
        except Exception:
            failed = traceback.format_exc()
        try:
            pipe.send((number, answer, refused, failed))
        except BrokenPipeError:
            return  # nobody waits for it

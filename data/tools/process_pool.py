"""Work spread over processes that live for many pieces of it, as they take seconds to start."""

import contextlib
import ctypes
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import traceback

from engine.errors import EnvironmentFault, Failure
from engine.logging.console import follow_console

_SPAWN = multiprocessing.get_context("spawn")


def spread(function, arguments, workers):
    """Yield (i, function(arguments[i])) as they are done; with one worker in this process and in
    order.

    Arguments are taken only as processes become free. The processes end when the generator is
    closed or this process dies; SystemExit is raised in them, so that they clear what they have
    half written.

    Args:
        function: of a module, so that a spawned process finds it.  arguments: an iterable.
    Raises:
        Failure: function raised it.  EnvironmentFault: a process was killed, as where memory runs
            out.
        RuntimeError: function raised anything else, and the message holds its traceback; or a
            process ended otherwise.
    """
    if workers <= 1:
        for number, argument in enumerate(arguments):
            yield number, function(argument)
        return
    left, busy = enumerate(arguments), {}
    try:
        for piece in itertools.islice(left, workers):
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_work, args=(function, there, os.getpid()), daemon=True)
            process.start()
            there.close()
            busy[here] = process
            _send(here, piece)
        while busy:
            for pipe in multiprocessing.connection.wait(list(busy)):
                yield _answer(pipe, busy[pipe])
                piece = next(left, None)
                if piece is None:
                    pipe.close()  # which the process takes as the end
                    busy.pop(pipe).join()
                else:
                    _send(pipe, piece)
    finally:
        for process in busy.values():
            process.terminate()
        for process in busy.values():
            process.join()


def _send(pipe, piece):
    # A process that is gone is reported by _answer, which knows its exit code.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(piece)


def _answer(pipe, process):
    try:
        number, answer, refused, failed = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        words = f"a process ended with exit code {process.exitcode} and no message; a negative code is a signal"
        if process.exitcode == -signal.SIGKILL:
            raise EnvironmentFault(
                f"{words}: the system kills processes when memory runs out; use fewer workers="
            ) from None
        raise RuntimeError(words) from None
    if refused:
        kind, words = refused
        raise kind(words)
    if failed:
        raise RuntimeError(f"a process failed:\n{failed}")
    return number, answer


def _work(function, pipe, parent):
    """A process's life: (number, argument) comes in, (number, answer, kind and words of a Failure,
    traceback) goes back."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent ends the others in order
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PDEATHSIG: comes when the parent dies
    if os.getppid() != parent:
        return
    follow_console()
    while True:
        try:
            number, argument = pipe.recv()
        except EOFError:
            return
        answer = refused = failed = None
        try:
            answer = function(argument)
        except Failure as error:
            refused = type(error), str(error)
        except Exception:
            failed = traceback.format_exc()
        pipe.send((number, answer, refused, failed))

"""A process for each piece of work.

A video decoder may leak, or die and take its process along. A process pool would then wait for ever
for the dead worker's answer (multiprocessing.Pool) or lose all the others' work
(concurrent.futures).
"""

import multiprocessing
import traceback
from concurrent.futures import ThreadPoolExecutor

_SPAWN = multiprocessing.get_context("spawn")


class Died(Exception):
    """The process ended without an answer; the message holds its exit code."""


def in_processes(function, arguments, workers):
    """Yield function(argument) in the order of ``arguments``, each in a fresh process, ``workers``
    at a time.

    A process that died yields a Died instance. At most ``workers`` answers wait to be taken.

    Args:
        function: of a module, so that a spawned process finds it.
    Raises:
        RuntimeError: function raised; the message holds its traceback.
    """
    with ThreadPoolExecutor(workers) as threads:
        queue, left = [], iter(arguments)
        try:
            for argument in left:
                queue.append(threads.submit(_one, function, argument))
                if len(queue) > workers:
                    yield queue.pop(0).result()
            while queue:
                yield queue.pop(0).result()
        finally:
            for future in queue:
                future.cancel()


def _one(function, argument):
    here, there = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_work, args=(function, argument, there), daemon=True)
    process.start()
    there.close()
    try:
        problem, answer = here.recv()
    except (EOFError, OSError):  # nothing, or half an answer
        process.join()
        return Died(f"the decoding process died with exit code {process.exitcode}")
    process.join()
    if problem:
        raise RuntimeError(problem)
    return answer


def _work(function, argument, pipe):
    try:
        answer = (None, function(argument))
    except Exception:
        answer = (traceback.format_exc(), None)
    pipe.send(answer)
    pipe.close()

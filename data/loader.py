"""Batches of uint8 pairs for one rank: workers decode straight into shared memory, the order says what.

A batch lies in one slot of a ring of shared arrays. Worker i always reads the same rows, hence the same lanes. Nothing
but a row count and the list of bad samples goes through a pipe. The loader has no state: iteration starts at any step.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections import Counter

import numpy as np

from data.reader import TAGS
from engine import signals
from engine.errors import UserError


class Loader:
    """Iterates over this rank's rows of each global batch.

    Args:
        reader: data.reader.Reader, or another that fills a row with a slot; each worker gets a copy.
        shape: {name: (shape, dtype)} of the arrays of this rank's rows, such as data.reader.layout gives.
        rows: range of rows of the global batch that are this rank's.
        workers: processes; 0 reads in this one.  prefetch: batches decoded ahead.
    Attributes:
        waited_s: seconds spent waiting for data since the last ``take_waited``.
        bad: [(slot, shard, index, reason), ...] of samples with bad bytes met since the last ``take_bad``.
    """

    def __init__(self, reader, shape, rows, workers, prefetch):
        self.reader, self.shape, self.rows = reader, shape, rows
        self.batch = reader.order.batch
        self.depth = prefetch + 1 if workers else 1
        self.waited_s, self.bad = 0.0, []
        self.workers = []
        workers = min(workers, len(rows))
        if not workers:
            self.ring = [{name: np.zeros(*spec) for name, spec in self.shape.items()}]
            return
        # Anonymous and unlinked, so that a killed run leaves nothing behind; spawn hands it on by its descriptor.
        context = multiprocessing.get_context("spawn")
        self.memory = [{name: context.RawArray("B", int(np.prod(shape)) * np.dtype(kind).itemsize)
                        for name, (shape, kind) in self.shape.items()} for _ in range(self.depth)]
        self.ring = [_views(m, self.shape) for m in self.memory]
        cuts = np.linspace(0, len(rows), workers + 1).astype(int)
        for number, (first, last) in enumerate(zip(cuts, cuts[1:], strict=False)):
            here, there = context.Pipe()
            process = context.Process(target=_work, name=f"loader-{number}", daemon=True, args=(
                there, os.getpid(), reader, self.shape, self.memory, range(first, last), rows.start))
            with signals.held():
                process.start()
            there.close()
            self.workers.append((process, here))

    def batches(self, start, stop):
        """Yield (step, {name: array}) for steps start .. stop-1; the arrays are valid until the next is asked for."""
        if not self.workers:
            for step in range(start, stop):
                began = time.perf_counter()
                for row in range(len(self.rows)):
                    self.reader.fill(self.ring[0], row, step * self.batch + self.rows.start + row)
                self.bad += self.reader.bad
                self.reader.bad = []
                self.waited_s += time.perf_counter() - began
                yield step, self.ring[0]
            return
        asked, done = start, Counter()
        for step in range(start, stop):
            while asked < min(stop, step + self.depth):
                for _, pipe in self.workers:
                    _send(pipe, (asked, asked % self.depth))
                asked += 1
            began = time.perf_counter()
            while done[step] < len(self.workers):
                self._receive(done)
            del done[step]
            self.waited_s += time.perf_counter() - began
            yield step, self.ring[step % self.depth]

    def take_waited(self):
        waited, self.waited_s = self.waited_s, 0.0
        return waited

    def take_bad(self):
        bad, self.bad = self.bad, []
        return bad

    def close(self):
        for process, pipe in self.workers:
            pipe.close()
            process.kill()
            process.join()
        self.workers = []

    def _receive(self, done):
        waiting = {pipe: process for process, pipe in self.workers}
        for pipe in multiprocessing.connection.wait(list(waiting), timeout=60):
            try:
                step, bad, error = pipe.recv()
            except (EOFError, ConnectionResetError):
                process = waiting[pipe]
                process.join(5)
                raise UserError(f"{process.name} (pid {process.pid}) died with exit code {process.exitcode}"
                                + ("; that is often a lack of memory: lower data.workers" if process.exitcode == -9 else "")
                                ) from None
            if error:
                raise UserError(error)
            self.bad += bad
            done[step] += 1


def tag(arrays, name):
    """(rows,) int32 column of the tags: one of data.reader.TAGS."""
    return arrays["tags"][:, TAGS.index(name)]


def _views(memory, shape):
    return {name: np.frombuffer(memory[name], kind).reshape(size) for name, (size, kind) in shape.items()}


def _send(pipe, message):
    # A worker that is gone is reported by _receive, which knows its exit code.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)


def _work(pipe, parent, reader, shape, memory, rows, first):
    """A worker's life: a step and a place in the ring come in, the rows are filled, what was bad goes back."""
    # Signals meant for the run go to the main process, which decides for all; PDEATHSIG ends workers that outlive it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        return
    ring = [_views(m, shape) for m in memory]
    while True:
        try:
            step, place = pipe.recv()
        except EOFError:
            return
        error = None
        try:
            for row in rows:
                reader.fill(ring[place], row, step * reader.order.batch + first + row)
        except UserError as reason:
            error = str(reason)
        pipe.send((step, reader.bad, error))
        reader.bad = []
        if error:
            return

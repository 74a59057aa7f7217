"""Batches of uint8 pairs for one rank.

Workers decode straight into shared memory, the order says what.

A batch lies in one place of a ring in shared memory, all its arrays in one piece, so that one copy
takes it to the device (data/loading/device.py). Worker i always reads the same rows, hence the same
lanes. Nothing but a row count and the list of bad samples goes through a pipe. The loader has no
state: iteration starts at any step.
"""

import contextlib
import ctypes
import gc
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from multiprocessing.reduction import DupFd

import numpy as np

from data.loading.prefetch import Ahead
from data.loading.reader import TAGS, Shapes, SlotReader
from engine.errors import EnvironmentFault, Failure
from engine.logging.console import follow_console, get_logger
from engine.run import open_files, signals

log = get_logger(__name__)

ALIGNMENT = 256  # bytes: where an array may begin in a batch's memory; what CUDA aligns its own to
DONE, WAITING, FAILED = "done", "waiting", "failed"  # what a worker says
# Ends of a worker that are the machine's doing: nobody else kills it, and a mapped file that cannot
# be read is a SIGBUS.
MACHINES = {
    -signal.SIGKILL: "the system kills processes when memory runs out: lower data.workers or "
    "data.prefetch, or give "
    "the job more memory",
    -signal.SIGBUS: "a mapped file could not be read, or memory for it ran out",
}


class Loader:
    """Iterates over this rank's rows of each global batch.

    Args:
        reader: data.loading.reader.Reader, or another that fills a row with a slot; each worker
            gets a copy.
        shape: {name: (shape, dtype)} of the arrays of this rank's rows, such as
            data.loading.reader.layout gives.
        rows: range of rows of the global batch that are this rank's.
        workers: processes; 0 reads in this one.  prefetch: batches decoded ahead.
        ahead: steps ahead that remote shards are fetched; 0: no shard is remote, or
            only when it is needed.
    Attributes:
        waited_s: seconds spent waiting for data since the last ``take_waited``.
        bad: [(slot, shard, index, reason), ...] of samples with bad bytes met since the last
            ``take_bad``.
        alive: called about once a second while something is waited for that may take long and goes
            on, such as a disk that fails for a while; so that nobody takes it for a hang.
        memory: mmap of the whole ring.  buffers: (bytes,) uint8 of each place.  ring: {name: array}
            of each, views of it.
        release: called with a place before it is filled anew.  closing: called by ``close``.
            data.loading.device sets both, for copies that still run and for pages that it locked.
    """

    def __init__(
        self,
        reader: SlotReader,
        shape: Shapes,
        rows: range,
        workers: int,
        prefetch: int,
        ahead: int = 0,
    ) -> None:
        self.reader, self.shape, self.rows = reader, shape, rows
        self.batch = reader.order.batch
        self.depth = prefetch + 1 if workers else 1
        self.waited_s, self.bad = 0.0, []
        self.workers, self.release, self.closing, self.alive = (
            [],
            lambda place: None,
            lambda: None,
            lambda: None,
        )
        self._waiting_for = ""
        open_files.raise_limit()  # workers inherit it
        workers = min(workers, len(rows))
        shared = Shared(self.depth * spans(shape)[1])
        self.memory = shared.memory
        self.buffers, self.ring = views(self.memory, shape)
        if not workers:
            self.ahead = Ahead(reader, rows, ahead) if ahead else None
            reader.store.patience.told = self._is_waiting
            return
        context = multiprocessing.get_context("spawn")
        cuts = np.linspace(0, len(rows), workers + 1).astype(int)
        for number, (first, last) in enumerate(zip(cuts, cuts[1:], strict=False)):
            here, there = context.Pipe()
            process = context.Process(
                target=_work,
                name=f"loader-{number}",
                daemon=True,
                args=(
                    there,
                    os.getpid(),
                    reader,
                    self.shape,
                    shared,
                    range(first, last),
                    rows.start,
                    ahead,
                ),
            )
            with signals.held():
                process.start()
            there.close()
            self.workers.append((process, here))

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield (step, {name: array}) for steps start .. stop-1.

        The arrays are valid until the next is asked for.
        """
        if not self.workers:
            for step in range(start, stop):
                self.release(0)
                began = time.perf_counter()
                if self.ahead:
                    self.ahead.reached(step)
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
                self.release(asked % self.depth)
                for _, pipe in self.workers:
                    _send(pipe, (asked, asked % self.depth))
                asked += 1
            began = time.perf_counter()
            while done[step] < len(self.workers):
                self._receive(done)
            del done[step]
            self.waited_s += time.perf_counter() - began
            yield step, self.ring[step % self.depth]

    def take_waited(self) -> float:
        """Return the seconds spent waiting for batches since the last call."""
        waited, self.waited_s = self.waited_s, 0.0
        return waited

    def take_bad(self) -> list[tuple[int, str, int, str]]:
        """Return the bad samples since the last call: [(slot, shard, index in it, reason), ...]."""
        bad, self.bad = self.bad, []
        return bad

    def close(self) -> None:
        """End the workers and run what was given for closing."""
        for process, pipe in self.workers:
            pipe.close()
            process.kill()
            process.join()
        self.workers = []
        self.closing()

    def _receive(self, done):
        """Take what workers say; ``done``: {step: workers that filled their rows of it}.

        Raises:
            Failure: of the kind that a worker met; an EnvironmentFault where the machine killed
                one.
            RuntimeError: a worker failed otherwise.
        """
        pipes = [pipe for _, pipe in self.workers]
        ready = multiprocessing.connection.wait(pipes, timeout=60)
        for process, pipe in self.workers:
            if pipe not in ready:
                continue
            try:
                said, *rest = pipe.recv()
            except (EOFError, ConnectionResetError):
                process.join(5)
                raise _death(process) from None
            if said == FAILED:
                kind, text = rest
                raise kind(text)
            if said == WAITING:
                self._is_waiting(*rest)
                continue
            step, bad = rest
            self.bad += bad
            done[step] += 1

    def _is_waiting(self, words):
        """Pass on that something is waited for; it is reported where it differs from before."""
        self.alive()
        subject, failed, _ = words.partition(" failed ")
        if failed and subject != self._waiting_for:
            self._waiting_for = subject
            seconds = self.reader.store.patience.seconds
            log.info("note: %s; tried again for up to %.0f s", words, seconds)


def _death(process):
    """The exception for a worker that ended without a word."""
    words = f"{process.name} (pid {process.pid}) died with exit code {process.exitcode}"
    if process.exitcode in MACHINES:
        return EnvironmentFault(f"{words}: {MACHINES[process.exitcode]}")
    return RuntimeError(words)


def tag(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """(rows,) int32 column of the tags: one of data.loading.reader.TAGS."""
    return arrays["tags"][:, TAGS.index(name)]


def spans(shape: Shapes) -> tuple[dict[str, tuple[int, int]], int]:
    """({name: (first byte, end)} of a batch's arrays, bytes of a batch).

    Each begins at a multiple of ALIGNMENT.
    """
    out, offset = {}, 0
    for name, spec in shape.items():
        out[name] = offset, offset + _bytes(*spec)
        offset = -(-out[name][1] // ALIGNMENT) * ALIGNMENT
    return out, offset


def views(memory: mmap.mmap, shape: Shapes) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """([buffer, ...], [{name: array}, ...]) of all places in the ring's memory."""
    places, size = spans(shape)
    buffers = list(np.frombuffer(memory, np.uint8).reshape(-1, size))
    return buffers, [
        {
            name: buffer[slice(*places[name])].view(kind).reshape(dims)
            for name, (dims, kind) in shape.items()
        }
        for buffer in buffers
    ]


def _bytes(size, kind):
    return int(np.prod(size)) * np.dtype(kind).itemsize


class Shared:
    """Memory that workers share with this process.

    It has no name, so a killed run leaves nothing behind, and it does not count against the size of
    /dev/shm, which containers often keep at 64 MB. Spawn hands it on by its descriptor.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        self.descriptor = os.memfd_create("loader") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, size)
        self.memory = mmap.mmap(self.descriptor, size)

    def __reduce__(self) -> tuple:
        return _attach, (self.size, DupFd(self.descriptor))

    def __del__(self) -> None:
        os.close(self.descriptor)


def _attach(size, handle):
    return Shared(size, handle.detach())


def _send(pipe, message):
    # A worker that is gone is reported by _receive, which knows its exit code.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(message)


def _work(pipe, parent, reader, shape, shared, rows, first, steps_ahead):
    """Fill rows until the pipe is closed.

    A step and a place in the ring come in, what was bad goes back.
    """
    # Signals meant for the run go to the main process, which decides for all; PDEATHSIG ends
    # workers that outlive it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        return
    follow_console()
    open_files.raise_limit()
    ring = views(shared.memory, shape)[1]
    ahead = (
        Ahead(reader, range(first + rows.start, first + rows.stop), steps_ahead)
        if steps_ahead
        else None
    )
    reader.store.patience.told = lambda words: _tell(pipe, WAITING, words)
    # what is here stays; samples leave no cycles, so the collector has little to look through
    gc.freeze()
    while True:
        try:
            step, place = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        if ahead:
            ahead.reached(step)
        try:
            for row in rows:
                reader.fill(ring[place], row, step * reader.order.batch + first + row)
        except Failure as reason:
            return _tell(pipe, FAILED, type(reason), str(reason))
        except MemoryError:
            return _tell(
                pipe,
                FAILED,
                EnvironmentFault,
                "a loader's worker found no memory left: lower data.workers or "
                "data.prefetch, or give the job more memory",
            )
        except Exception:
            return _tell(
                pipe, FAILED, RuntimeError, f"a loader's worker failed:\n{traceback.format_exc()}"
            )
        _tell(pipe, DONE, step, reader.bad)
        reader.bad = []


def _tell(pipe, *words):
    # A main process that is gone reads no more; this one's end follows.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(words)

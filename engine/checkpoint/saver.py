"""Checkpoints written while training goes on: a copy in host memory, then a thread that writes
it."""

import sys
import threading

import torch

from engine.checkpoint import checkpoints
from engine.distributed.parallel import whole
from engine.errors import Failure
from engine.run.run_lock import Overtaken

ALIGNED = 64  # bytes; any dtype may begin there


class Saver:
    """Saves the checkpoints of a run; rank 0 writes, the others only hand over their shares of
    tensors.

    A save that fails for want of space or of permission is told on stderr and counted: the run goes
    on and its next save tries again. Losing the folder to another run, and anything unforeseen, is
    raised by ``settle``.

    Args:
        options: engine.config.train_config.CheckpointConfig.  first: whether this is rank 0.
        needed: from a step to whether its checkpoint must stay for now.
    Attributes:
        failed: saves that were not written since this start of the run.
    """

    def __init__(self, options, first, needed=lambda step: False):
        self.options, self.first, self.needed = options, first, needed
        self.failed = 0
        self._copy, self._thread = HostCopy(), None
        self._error = self._fatal = None

    def begin(self, run, step, weights, metadata, optimizer, state):
        """Copy what is to be saved and begin to write it; returns once training may change the
        tensors.

        All ranks call it at the same step, after ``settle``.

        Args:
            run: rank 0's engine.run.folder.Run, None elsewhere.
            weights, optimizer: {name: tensor}, on whatever device, whole or in shares.
            metadata: {text: text} for the header of the weights' file.  state: JSON values that
                stay as they are.
        """
        named = [(("weights", name), t) for name, t in weights.items()] + [
            (("optimizer", n), t) for n, t in optimizer.items()
        ]
        if not self.first:
            for _, tensor in named:
                whole(tensor)  # rank 0 gathers it
            return
        copies = self._copy.take(named)
        parts = {
            part: {name: t for (place, name), t in copies.items() if place == part}
            for part in ("weights", "optimizer")
        }
        job = (run, step, parts["weights"], metadata, parts["optimizer"], state)
        # A thread in any case: whoever has to end the process can let it finish.
        self._thread = threading.Thread(target=self._write, args=job, name="checkpoint")
        self._thread.start()
        if not self.options.background:
            self._thread.join()

    def settle(self, last=False):
        """Wait for the save under way.

        Raises:
            Failure: another run holds the folder; with ``last``, the checkpoint was not written.
        """
        self.wait()
        if self._fatal:
            raise self._fatal
        if last and self._error:
            raise self._error

    def wait(self):
        """Wait for the save under way, whatever became of it."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def finish(self, limit_s, copying_s=2.0):
        """Let the save under way end, for at most ``limit_s`` seconds: for whoever is about to end
        the process.

        Args:
            copying_s: the limit where the copy from the device is not complete: a device that hangs
                never completes it.
        """
        thread = self._thread
        if thread:
            thread.join(limit_s if self._copy.ready() else copying_s)

    def _write(self, run, step, weights, metadata, optimizer, state):
        self._error = None
        try:
            self._copy.wait()
            checkpoints.save(
                run.folder,
                step,
                lambda path: checkpoints.write_tensors(path, weights, metadata),
                optimizer,
                state,
                run.lease.check,
                self.options.keep,
                self.options.keep_every,
                self.needed,
            )
        except Overtaken as error:
            self._fatal = error
        except Failure as error:
            self.failed += 1
            self._error = error
            print(f"warning: {error} ({self.failed} since the start)", file=sys.stderr, flush=True)
        except BaseException as error:  # raised again where the run waits for this save
            self._fatal = error


class HostCopy:
    """Tensors copied to one block of host memory that every save uses again; pinned where they come
    from a GPU."""

    def __init__(self):
        self._block = self._event = None

    def take(self, named):
        """{key: host tensor} of [(key, tensor)]; valid after ``wait`` and until the next
        ``take``."""
        total = sum(_room(tensor) for _, tensor in named)
        pinned = any(tensor.device.type == "cuda" for _, tensor in named)
        if self._block is None or len(self._block) < total:
            # One block, because pinned memory is given in powers of two.
            self._block = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
        out, at = {}, 0
        for key, tensor in named:
            size = tensor.numel() * tensor.element_size()
            out[key] = self._block[at : at + size].view(tensor.dtype).view(tensor.shape)
            # One at a time: a sharded tensor's whole lives on the device only until the next one is
            # gathered.
            out[key].copy_(whole(tensor.detach()), non_blocking=True)
            at += _room(tensor)
        if pinned:
            # Later kernels of this stream find the tensors copied; only the thread that writes has
            # to wait.
            self._event = torch.cuda.Event()
            self._event.record()
        return out

    def ready(self):
        """Whether the copies from the device are complete."""
        return self._event is None or self._event.query()

    def wait(self):
        """Wait for the copies from the device."""
        if self._event:
            self._event.synchronize()


def _room(tensor):
    return -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED

"""Checkpoints written beside training: a copy in host memory, then a thread that writes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from engine.checkpoint import checkpoints
from engine.checkpoint.tensors import write_tensors
from engine.distributed.parallel import whole
from engine.errors import Failure
from engine.logging.console import get_logger
from engine.run.run_lock import Overtaken

if TYPE_CHECKING:
    from engine.config.train_config import CheckpointConfig
    from engine.run.folder import Run

log = get_logger(__name__)
Key = TypeVar("Key")
ALIGNED = 64  # bytes; any dtype may begin there


class Saver:
    """Saves the checkpoints of a run.

    Rank 0 writes, the others only hand over their shares of tensors. A save that fails for want of
    space or of permission is a warning and counted: the run continues and its next save tries
    again. Losing the folder to another run, and anything unforeseen, is raised by ``settle``.

    Args:
        first: whether this is rank 0.
        needed: from a step to whether its checkpoint must stay for now.
    Attributes:
        failed: saves that were not written since this start of the run.
    """

    def __init__(
        self,
        options: CheckpointConfig,
        first: bool,
        needed: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self.options = options
        self.first = first
        self.needed = needed
        self.failed = 0
        self._copy = HostCopy()
        self._thread: threading.Thread | None = None
        self._error: Failure | None = None
        self._fatal: BaseException | None = None

    def begin(
        self,
        run: Run | None,
        step: int,
        weights: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str],
        optimizer: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Copy what is to be saved and begin to write it.

        Returns once training may change the tensors. All ranks call it at the same step, after
        ``settle``.

        Args:
            run: rank 0's, None on other ranks.
            weights, optimizer: on whatever device, whole or in shares.
            metadata: for the header of the weights' file.  state: JSON values that stay as they
                are.
        """
        named = [(("weights", name), tensor) for name, tensor in weights.items()]
        named += [(("optimizer", name), tensor) for name, tensor in optimizer.items()]
        if not self.first or run is None:
            for _, tensor in named:
                whole(tensor)  # rank 0 gathers it
            return
        copies = self._copy.take(named)
        parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "optimizer": {}}
        for (part, name), tensor in copies.items():
            parts[part][name] = tensor
        job = (run, step, parts["weights"], metadata, parts["optimizer"], state)
        # A thread in any case: whoever has to end the process can let it finish.
        thread = threading.Thread(target=self._write, args=job, name="checkpoint")
        self._thread = thread
        thread.start()
        if not self.options.background:
            thread.join()

    def settle(self, last: bool = False) -> None:
        """Wait for the save under way.

        Raises:
            Failure: another run holds the folder; with ``last``, the checkpoint was not written.
        """
        self.wait()
        if self._fatal:
            raise self._fatal
        if last and self._error:
            raise self._error

    def wait(self) -> None:
        """Wait for the save under way, whatever became of it."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def finish(self, limit_s: float, copying_s: float = 2.0) -> None:
        """Let the save under way end, for at most ``limit_s`` seconds.

        For whoever is about to end the process.

        Args:
            copying_s: the limit where the copy from the device is not complete: a device that hangs
                never completes it.
        """
        thread = self._thread
        if thread:
            thread.join(limit_s if self._copy.ready() else copying_s)

    def _write(
        self,
        run: Run,
        step: int,
        weights: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str],
        optimizer: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
    ) -> None:
        self._error = None
        try:
            self._copy.wait()
            checkpoints.save(
                run.folder,
                step,
                lambda path: write_tensors(path, weights, metadata),
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
            log.warning("%s (%d since the start)", error, self.failed)
        except BaseException as error:  # raised again where the run waits for this save
            self._fatal = error


class HostCopy:
    """Tensors copied to one block of host memory that every save uses again.

    The block is pinned where tensors come from a GPU.
    """

    def __init__(self) -> None:
        self._block: torch.Tensor | None = None
        self._event: torch.cuda.Event | None = None

    def take(self, named: Sequence[tuple[Key, torch.Tensor]]) -> dict[Key, torch.Tensor]:
        """Return {key: host tensor}; valid after ``wait`` and until the next ``take``."""
        total = sum(_room(tensor) for _, tensor in named)
        pinned = any(tensor.device.type == "cuda" for _, tensor in named)
        block = self._block
        if block is None or len(block) < total:
            # One block, because pinned memory is given in powers of two.
            block = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
            self._block = block
        out, at = {}, 0
        for key, tensor in named:
            size = tensor.numel() * tensor.element_size()
            out[key] = block[at : at + size].view(tensor.dtype).view(tensor.shape)
            # One at a time: a sharded tensor's whole lives on the device only until the next one is
            # gathered.
            out[key].copy_(whole(tensor.detach()), non_blocking=True)
            at += _room(tensor)
        if pinned:
            # Later kernels of this stream find the tensors copied; only the thread that writes has
            # to wait.
            event = torch.cuda.Event()
            event.record()
            self._event = event
        return out

    def ready(self) -> bool:
        """Return whether the copies from the device are complete."""
        return self._event is None or self._event.query()

    def wait(self) -> None:
        """Wait for the copies from the device."""
        if self._event:
            self._event.synchronize()


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED

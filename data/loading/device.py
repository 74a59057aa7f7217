"""A loader's batches on the device: one copy each, out of memory that the GPU reads by itself.

Training imports this; the loader's workers do not (it brings torch).
"""

from collections.abc import Mapping

import numpy as np
import torch

from data.loading.loader import Loader, spans
from engine.errors import UserError


class ToDevice:
    """Callable that takes arrays to tensors on a device.

    A batch of the loader's ring goes over in one copy. On a GPU the ring is page-locked and the
    copy has a stream of its own, so that it runs beside the step before; the loader does not fill a
    place anew before its copy is done. On a CPU the tensors are the ring's own memory, valid until
    the next batch is asked for. Other arrays are copied one by one.

    Args:
        loader: data.loading.loader.Loader.  device: torch.device.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self.places = {id(arrays): place for place, arrays in enumerate(loader.ring)}
        self.flat = [torch.from_numpy(buffer) for buffer in loader.buffers]
        self.stream, self.copied = None, {}
        if device.type == "cuda":
            self._lock_pages()
            self.stream = torch.cuda.Stream(device)
            loader.release, loader.closing = self._wait, self._unlock_pages

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """{name: tensor} of {name: array}.

        The loader's own dictionaries, as ``batches`` yields them, in one copy.
        """
        place = self.places.get(id(arrays))
        if self.stream is None or place is None:
            return {
                name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()
            }
        with torch.cuda.stream(self.stream):
            flat = self.flat[place].to(self.device, non_blocking=True)
            self.copied[place] = self.stream.record_event()
        present = torch.cuda.current_stream(self.device)
        present.wait_event(self.copied[place])
        flat.record_stream(
            present
        )  # the allocator must not give it to the copying stream while the step still reads it
        return split(flat, self.loader)

    def _lock_pages(self):
        size = sum(len(buffer) for buffer in self.loader.buffers)
        runtime = _cuda_runtime()
        error = runtime.cudaHostRegister(self.flat[0].data_ptr(), size, 0)
        if error != runtime.cudaError.success:
            raise UserError(
                f"{size >> 20} MB of memory for {len(self.flat)} batches cannot be page-locked "
                f"({error}); lower data.prefetch"
            )

    def _unlock_pages(self):
        # Before the memory is given back: the driver would take it for locked still when the
        # address is used again.
        torch.cuda.synchronize(self.device)
        _cuda_runtime().cudaHostUnregister(self.flat[0].data_ptr())
        self.loader.release, self.loader.closing = lambda place: None, lambda: None

    def _wait(self, place):
        event = self.copied.pop(place, None)
        if event is not None:
            event.synchronize()


def _cuda_runtime():
    runtime = torch.cuda.cudart()
    assert runtime is not None, "a CUDA device without CUDA's runtime"
    return runtime


def split(flat: torch.Tensor, loader: Loader) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of one batch, views of its (bytes,) uint8 tensor.

    They lie as the loader's ring has them in its buffers.
    """
    places, _ = spans(loader.shape)
    return {
        name: flat[slice(*places[name])].view(torch.from_numpy(values).dtype).reshape(values.shape)
        for name, values in loader.ring[0].items()
    }

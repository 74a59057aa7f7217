"""What all ranks decide together after each step, without a wait for the device."""

from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from engine.distributed.process_group import Processes


class Agreement:
    """The largest of each rank's numbers, one step late.

    It is sent at the end of a step and read at the end of the next.

    So every rank learns the same after the same step, and neither the device nor the slowest rank's
    word is waited for. It goes over gloo between hosts, whatever the gradients use. One process
    alone hears itself, as late.

    All ranks construct it together.
    """

    def __init__(self, processes: Processes) -> None:
        self.group: dist.ProcessGroup | None = None
        if processes.world > 1:
            timeout = timedelta(seconds=processes.timeout_s)
            # torch's types allow for ranks that are not in the group; here all are.
            self.group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))
        self._sent = torch.zeros(0, dtype=torch.int64)
        self._work: dist.Work | None = None

    def send(self, *numbers: int) -> None:
        """Send whole numbers of this rank; all ranks send equally many."""
        self._sent = torch.tensor(numbers, dtype=torch.int64)
        if self.group is not None:
            self._work = dist.all_reduce(
                self._sent, dist.ReduceOp.MAX, group=self.group, async_op=True
            )

    def hear(self) -> list[int]:
        """Return the largest of what the ranks sent last, as a list."""
        if self._work is not None:
            self._work.wait()
        return self._sent.tolist()

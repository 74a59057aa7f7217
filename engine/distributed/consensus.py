"""What all ranks decide together after each step, without a wait for the device."""

from datetime import timedelta

import torch
import torch.distributed as dist


class Agreement:
    """The largest of each rank's numbers, one step late: sent at the end of a step, read at the end
    of the next.

    So every rank learns the same after the same step, and neither the device nor the slowest rank's
    word is waited for. It goes over gloo between hosts, whatever the gradients use. One process
    alone hears itself, as late.

    Args:
        processes: engine.distributed.process_group.Processes.
    """

    def __init__(self, processes):
        self.group = None
        if processes.world > 1:
            self.group = dist.new_group(
                backend="gloo", timeout=timedelta(seconds=processes.timeout_s)
            )
        self._sent = self._work = None

    def send(self, *numbers):
        """Whole numbers of this rank; all ranks send equally many."""
        self._sent = torch.tensor(numbers, dtype=torch.int64)
        if self.group is not None:
            self._work = dist.all_reduce(
                self._sent, dist.ReduceOp.MAX, group=self.group, async_op=True
            )

    def hear(self):
        """The largest of what the ranks sent last, as a list."""
        if self._work is not None:
            self._work.wait()
        return self._sent.tolist()

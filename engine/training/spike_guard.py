"""Bad updates: skipped by all ranks alike, recorded, and after too many in a row undone.

An update is bad if the gradient's norm is NaN or Inf, or if its logarithm lies ``guard.spike``
standard deviations above its running mean. Both are known on the device, where everything is
decided; the norm is one of all ranks, so they decide alike. The host learns of it two steps late: a
wait for the device in each step would cost more than two steps in vain, ever.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import checkpoints
from engine.checkpoint.history import list_checkpoints
from engine.config.train_config import GuardConfig
from engine.errors import explain
from engine.logging.console import get_logger
from engine.run.files import write_file
from engine.run.run_folder import RunFolder

console = get_logger(__name__)

MEMORY = 0.99  # of the running mean and variance: some 100 steps
# smallest standard deviation of the norm's logarithm that is believed: a steady run must not trip
# over nothing
FLOOR = 0.1
SMALLEST = 1e-30  # of a norm, under the logarithm
RECORDS = 256  # bad updates between two logged lines that are captured
# steps from a bad update to the host's knowledge of it: one to copy it, one for the ranks'
# agreement
LAG = 2


class Guard:
    """Judges each update of a run.

    Args:
        options: engine.config.train_config.GuardConfig.  meters: how many numbers a step's sums
            hold.  device: where they lie.
    Attributes:
        ledger: [[first step, last step + 1], ...] stretches that were passed over.  rollbacks: how
            many.
        skipped: () int64 on the device, updates skipped since the run began.
        uncaptured: captures that could not be written since this start of the run.
    """

    def __init__(self, options: GuardConfig, meters: int, device: torch.device) -> None:
        self.options, self.device = options, device
        self.ledger = []
        # Mean and variance of the norm's logarithm, and how many norms they are of.
        self.stats = torch.zeros(3, dtype=torch.float64, device=device)
        # Bad updates in a row after the last step but one and after the last.
        self.rows = torch.zeros(2, dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        # Step, norm, limit and this rank's meters of each bad update since they were taken.
        self.records = torch.zeros(RECORDS, 3 + meters, dtype=torch.float64, device=device)
        self.recorded = torch.zeros((), dtype=torch.int64, device=device)
        self.uncaptured = 0
        self._copy()

    @property
    def rollbacks(self) -> int:
        """Return how many times the run went back to an earlier checkpoint."""
        return len(self.ledger)

    def judge(self, step: int, norm: torch.Tensor, meters: torch.Tensor) -> torch.Tensor:
        """Whether an update is to be skipped, as a () bool tensor on the device.

        The statistics learn from it.

        Args:
            norm: () gradient norm over all ranks.  meters: (M,) float64 sums of this rank's part of
                the batch.
        """
        mean, variance, seen = self.stats
        spike = math.inf if self.options.spike is None else self.options.spike
        log = norm.detach().double().clamp(min=SMALLEST).log()
        reach = spike * variance.sqrt().clamp(min=FLOOR)
        reach = torch.where(seen >= self.options.warmup, reach, math.inf)
        known = norm.isfinite()
        bad = ~known | (log > mean + reach)
        # A spike moves the mean as if it lay on the limit: one is hardly felt, and a lasting change
        # is learnt in the end.
        step_of = log.clamp(mean - reach, mean + reach) - mean
        weight = torch.clamp(1 / (seen + 1), min=1 - MEMORY)
        learnt = torch.stack(
            [mean + weight * step_of, (1 - weight) * (variance + weight * step_of**2), seen + 1]
        )
        record = torch.cat(
            [
                torch.stack(
                    [torch.full_like(log, step), norm.detach().double(), (mean + reach).exp()]
                ),
                meters,
            ]
        )
        # Written for good updates too, where the next one takes the place: so nothing depends on
        # the outcome.
        self.records.index_copy_(0, self.recorded.clamp(max=RECORDS - 1)[None], record[None])
        self.stats = torch.where(known, learnt, self.stats)
        self.recorded = self.recorded + bad
        self.skipped = self.skipped + bad
        self.rows = torch.stack([self.rows[1], torch.where(bad, self.rows[1] + 1, 0)])
        return bad

    def forget_norms(self) -> None:
        """Learn anew what a usual norm is: other weights are trained from here on."""
        self.stats = torch.zeros_like(self.stats)

    def row(self) -> int:
        """Bad updates in a row after the last step but one, on the host. Called once a step."""
        row = self.pending()
        self._copy()
        return row

    def pending(self) -> int:
        """What ``row`` would say, without a step."""
        copied, event = self._copied
        if event is not None:
            event.synchronize()  # of the step before: the device has the last one to continue with
        return int(copied[1])

    def before(self) -> int:
        """Bad updates in a row after the last step but one, of a run that was just loaded."""
        return int(self.rows[0])

    def calm(self) -> bool:
        """Whether the last update was good. Waits for the device."""
        return not int(self.rows[1])

    def take_records(
        self, total: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[int, float, float, list[float]]]:
        """[(step, norm, limit, meters of all ranks)] of the bad updates since the last call.

        ``total``: sums over ranks.
        """
        count = min(int(self.recorded), RECORDS)
        if not count:
            return []
        known, meters = (
            self.records[:count, :3].tolist(),
            total(self.records[:count, 3:].clone()).tolist(),
        )
        self.recorded = torch.zeros_like(self.recorded)
        return [
            (int(step), norm, limit, sums)
            for (step, norm, limit), sums in zip(known, meters, strict=True)
        ]

    def capture(
        self,
        folder: str | Path,
        step: int,
        batch: int,
        norm: float,
        limit: float,
        losses: Mapping[str, float],
    ) -> None:
        """Note a bad update in ``folder``/captures.

        A full disk costs the note, not the run: it is told on stderr.
        """
        try:
            write_capture(folder, step, batch, norm, limit, losses)
        except OSError as error:
            self.uncaptured += 1
            console.warning(
                "%s cannot be written: %s; the run continues (%d captures lost since the start)",
                capture_file(folder, step),
                explain(error),
                self.uncaptured,
            )

    def went_back(
        self, skipped: torch.Tensor, ledger: list[list[int]], start: int, stop: int
    ) -> None:
        """Steps ``start`` to ``stop`` - 1 are passed over.

        ``skipped``, ``ledger``: from before the checkpoint was loaded.
        """
        self.skipped = skipped
        self.ledger = [*ledger, [start, stop]]
        self.rows = torch.zeros_like(self.rows)
        self._copy()

    def state(self) -> dict[str, Any]:
        """JSON values from which ``load`` gives the same guard again."""
        return {
            "stats": self.stats.tolist(),
            "rows": self.rows.tolist(),
            "skipped": int(self.skipped),
            "ledger": self.ledger,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with what ``state`` gave."""
        self.stats = torch.tensor(state["stats"], dtype=torch.float64, device=self.device)
        self.rows = torch.tensor(state["rows"], device=self.device)
        self.skipped = torch.tensor(state["skipped"], device=self.device)
        self.recorded = torch.zeros_like(self.recorded)
        self.ledger = state["ledger"]
        self._copy()

    def _copy(self):
        event = torch.cuda.Event() if self.device.type == "cuda" else None
        self._copied = self.rows.to("cpu", non_blocking=True, copy=True), event
        if event is not None:
            event.record()


def last_good(folder: str | Path, before: int, every: int) -> Path | None:
    """Return the checkpoint to go back to, or None.

    It is whole and from before step ``before``, so that an update from its weights went well.

    Those of every ``every`` steps come first: where a signal made one more, the run must not go
    another way for it.

    Raises:
        EnvironmentFault, UserError: a checkpoint cannot be read, which says nothing about what it
            holds.
    """
    steps = dict(list_checkpoints(folder))
    for step in sorted(steps, key=lambda step: (step % every == 0, step), reverse=True):
        if step < before and checkpoints.damage(steps[step]) is None:
            return steps[step]
    return None


def capture_file(folder: str | Path, step: int) -> Path:
    """Return the path of the note on the bad update of a step."""
    return RunFolder(folder).capture(step)


def write_capture(
    folder: str | Path,
    step: int,
    batch: int,
    norm: float,
    limit: float,
    losses: Mapping[str, float],
) -> None:
    """Write what is known of a bad update; the slots are enough to read its batch again.

    Raises OSError.
    """
    path = capture_file(folder, step)
    spiked = math.isfinite(norm)
    content = {
        "format": 1,
        "step": step,
        "slots": [step * batch, (step + 1) * batch],
        "reason": "spike" if spiked else "not a number",
        "gradient_norm": _plain(norm),
        "threshold": _plain(limit),
        "losses": {name: _plain(value) for name, value in losses.items()},
    }
    path.parent.mkdir(exist_ok=True)
    write_file(path, json.dumps(content, indent=1))


def _plain(value):
    """Returns a finite number as it is; NaN and Inf as text, which JSON lacks."""
    return value if math.isfinite(value) else str(value)


def report(
    folder: str | Path, package: str, first: int, skips: int, guard: Guard, options: GuardConfig
) -> str:
    """Return what a person reads when a run cannot continue by itself."""
    back = (
        f"it went back to an earlier checkpoint {guard.rollbacks} times before "
        f"(guard.rollbacks={options.rollbacks}), "
        f"over steps {guard.ledger}"
        if guard.rollbacks >= options.rollbacks
        else "no checkpoint from before them is left to go back to"
    )
    captures, had = list(RunFolder(folder).captures.glob("step-*.json")), list_checkpoints(folder)
    begin = f"init={folder} and a" if had else "a"
    return (
        f"training broke down: {skips} bad updates in a row from step {first} on "
        f"(guard.skips={options.skips}), and "
        f"{back}.\n"
        f"  {len(captures)} captures in {RunFolder(folder).captures} say which batches, norms and "
        f"losses. The highest-loss samples of one:\n"
        f"    python -m {package} replay {folder} step={first} out=highest-loss.png\n"
        f"  Then start a new run=DIR with {begin} lower optim.lr, with optim.max_grad_norm=1, or "
        f"with the damaged shards listed in its quarantine, bad_shards.json.\n"
        f"  Started again as it is, this run comes to the same end."
    )

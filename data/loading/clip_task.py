"""What every task on clips does alike, whatever it learns from them.

The order and the loader, the validation clips, the record of what training saw, bad samples, and
what is said of the data.

Training imports this; the loader's workers do not (it brings torch).
"""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from data.config import ClipTrainConfig
from data.format.clip import MADE
from data.loading.build import count_excluded, people_at
from data.loading.device import ToDevice
from data.loading.loader import Loader
from data.loading.quarantine import BadRate, BadSampleList, worst
from data.sampling import subjects
from data.sampling.held_out import describe_left_out, leave_out_near
from data.sampling.manifest import began_without_left_out, freeze, quarantined_shards
from data.sampling.order import Order
from data.sampling.seen import Seen, seen_by
from data.storage.shard_store import Store
from engine.distributed.process_group import Processes
from engine.logging.console import get_logger
from engine.logging.metric_registry import Group, Metric, MetricBook
from engine.run.run_folder import RunFolder
from engine.training.task import Arrays, Batch, Task

ClipConfig = TypeVar("ClipConfig", bound=ClipTrainConfig)
DATA_METRICS = MetricBook(
    groups=(Group("data", "Data", position=73),),
    metrics=(
        Metric("data/bad_samples", "samples with bad bytes"),
        Metric("data/no_pair", "samples without a pair"),
    ),
)

log = get_logger(__name__)


class ClipTask(Task[ClipConfig]):
    """A Task whose batches are drawn from clips.

    A subclass opens its order, calls ``__init__`` with it, then builds its network and calls
    ``use_data`` with the loader and the validation rows.

    Class attributes:
        tags: names of the columns of the arrays' "tags".
    Attributes:
        order: which clip fills which slot.  skip: shards that are left out.
        excluded: {subject: clips} of data.exclude.
        people: [(source, subject), ...] of the clips of ``val``, a row each.
        seen: what this training saw, and what it began from.
    """

    tags: ClassVar[Sequence[str]]

    loader: Loader  # pyrefly: ignore - narrower: set once, by use_data

    def __init__(self, config: ClipConfig, processes: Processes, order: Order) -> None:
        super().__init__(config, processes)
        self.order = order
        self.replaced_columns = slice(self.tags.index("bad"), self.tags.index("no_pair") + 1)
        self.excluded = processes.from_first(lambda: count_excluded(order, config.data))
        self._leave_out()
        self.skip = quarantined_shards(config.run, order)
        self.people: list[tuple[str, str]] = []
        self.seen = Seen()
        self._bad_list: BadSampleList | None = None
        self._bad_rate, self._bad_total = BadRate(config.data.bad_max), (0, 0)

    def _leave_out(self) -> None:
        """Train on no clip that shares frames with a validation clip.

        A run of before this was done goes on as it began.
        """
        order, config = self.order, self.config
        if began_without_left_out(RunFolder(config.run).manifest):
            return
        store = Store(config.data.cache.open())
        order.leave_out(self.processes.from_first(lambda: leave_out_near(order, store)))

    def use_data(self, loader: Loader, val: Arrays | None, before: Seen) -> None:
        """Train on what a loader reads, and validate on fixed rows.

        Args:
            before: what the weights that the run begins from saw.
        """
        self.loader, self.val = loader, val
        self._to_device = ToDevice(loader, self.device)
        if val is not None:
            columns = [self.tags.index(name) for name in ("source", "shard", "index")]
            self.people = people_at(self.order, self.config.data, val["tags"][:, columns])
        self.seen = before.union(seen_by(self.order, self.people))

    def to_device(self, arrays: Arrays) -> Batch:
        """The loader's arrays as tensors on the device."""
        return self._to_device(arrays)

    def measure_data(self, step: int, replaced: Sequence[int]) -> dict[str, float]:
        """{"data/bad_samples", "data/no_pair", "data/epochs/SOURCE"} since the run began."""
        bad, no_pair = replaced
        slots = (step + 1) * self.config.batch
        self._bad_total = slots, bad
        epochs = self.order.epochs(slots)
        return {
            "data/bad_samples": bad,
            "data/no_pair": no_pair,
            **{f"data/epochs/{name}": value for name, value in epochs.items()},
        }

    def begin_run(self, folder: Path) -> None:
        """Freeze which clips the run is made of; see data.sampling.manifest.freeze."""
        freeze(self.order, RunFolder(folder).manifest)

    def list_people(self) -> None:
        """Enter the people of the run's clips into its record of what training saw.

        Those of a checkpoint are known already.
        """
        store = Store(self.config.data.cache.open())
        listed = subjects.list_people(self.order.sources, self.seen, store)
        self.seen = self.seen.union(listed)

    def announce_data(self, batch: str) -> None:
        """Say what the run reads and how often. ``batch``: the batch in words."""
        config, order = self.config, self.order
        numbers = (order.sources, order.totals, order.lane_length, order.slices)
        for source, total, length, slices in zip(*numbers, strict=True):
            log.info(
                f"source {source.name}: {total} clips in {len(source.paths)} shards, "
                f"{len(source.val)} for validation; {order.lanes} lanes read {slices} slices; an "
                f"epoch repeats {length * slices - total} to make them equal"
            )
            if source.left_out is None:
                log.info(
                    f"note: source {source.name}: the run began with a version that trained on "
                    "clips that share frames with validation clips, and goes on so"
                )
                continue
            words = describe_left_out(source.name, source.left_out, total)
            if words is not None:
                log.info(words)
        if self.excluded:
            log.info(subjects.describe_excluded(self.excluded, config.data.exclude))
        epochs = order.epochs(config.steps * config.batch)
        ends = ", ".join(f"{name} {value:.1f}" for name, value in epochs.items())
        log.info(f"{batch}; epochs by the end: {ends}")
        log.info(
            f"learning rate: peak {config.peak_lr:.3g} ({config.optim.lr:g} for 256), warm-up "
            f"{config.optim.warmup} steps"
        )

    def select_sendable(self, images: dict[str, Path]) -> dict[str, Path]:
        """Return {name: path} of the images that may leave this machine.

        With log.faces=false these are only those of synthetic humans.

        Images are made of the validation rows, so it is their clips' sources that count.
        """
        synthetic = all(source == MADE for source, _ in self.people)
        return images if self.config.log.faces or synthetic else {}

    def list_bad(self, folder: Path, slot: int) -> None:
        """Resume the folder's list of bad samples from a slot."""
        self._bad_list = BadSampleList(folder, slot)

    def note_bad(self) -> None:
        """List samples with bad bytes, of all ranks, in the run's folder.

        Raises:
            UserError: on all ranks: they are too many.
        """
        bad = self.processes.gather(self.loader.take_bad())
        if self._bad_list:
            self._bad_list.add(bad)
        self._bad_rate.check(*self._bad_total, lambda: worst(self.config.run))

    @abc.abstractmethod
    def read_seen(self, checkpoint: Path) -> Seen:
        """What the weights of a checkpoint saw."""

    def read_metadata(self, checkpoint: Path) -> None:
        """Take up what a checkpoint says that it and what it began from saw."""
        self.seen = self.seen.union(self.read_seen(checkpoint))

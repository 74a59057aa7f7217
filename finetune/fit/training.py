"""Fits while a network trains: begun with its present answers, the better ones are its labels.

As SPIN does (Kolotouros et al., ICCV 2019): a network and an optimiser help each other, for what
the network answers is where the next fit begins, and the better fit is what it learns next.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.loading.partial_crops import PARTS
from data.loading.reader import ShardReader, SlotReader
from data.sampling.order import Order
from engine.distributed.alive import kept_alive
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.logging.console import get_logger
from engine.run.run_folder import RunFolder
from engine.training.shares import BrokenOff, Shares
from finetune.config import FinetuneConfig
from finetune.fit.answers import ask_network
from finetune.fit.batches import cut_batches
from finetune.fit.fitter import Fitted, Fitter
from finetune.fit.labels import find_kind, list_labels
from finetune.fit.observed import Rules, Stretch, read_stretches
from finetune.fit.prior import sample_body
from finetune.fit.run_clips import Earlier, Places, RunClips
from finetune.fit.table import Fit, FitTable, read_fits, write_fits
from finetune.inference.network import Network

BATCH_S = 1800  # that a batch of people may take before the rank counts as hanging

log = get_logger(__name__)


class TrainedFits:
    """The fits of a run, alike on all ranks.

    Args:
        config, processes: the run's.
        network: which is trained.  order: of the run.
        reader: of its crops, for data.rules.labels=any.
    Attributes:
        stretches: the people that are fitted.  table: their fits.
    Raises:
        UserError: no clip has keypoints; fits of the body model are no labels.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        processes: Processes,
        network: Network,
        order: Order,
        reader: SlotReader,
    ) -> None:
        body = network.body
        find_kind(body.name)
        if not isinstance(reader, ShardReader):
            raise TypeError(f"{type(reader).__name__} reads no clips of shards")
        self.config, self.processes, self.network = config, processes, network
        # Fits are made on the CPU, whatever device the network is on.
        self.body = body if processes.device.type == "cpu" else config.open_body()
        self.clips = RunClips(order, reader, body.label_choice)
        found = processes.from_first(self._read_people)
        self.stretches, self.clips.places, self.clips.earlier = found
        self.table = FitTable(self.stretches, self.clips.places)
        self._fitter: Fitter | None = None

    def _read_people(self) -> tuple[list[Stretch], Places, Earlier]:
        keys, clips = self.config.fit, self.clips
        rules = Rules(self.body.kind, keys.confidence_min, keys.min_points, assumes_cameras=True)
        refused = f"fit_every={self.config.fit_every}: no training clip can be fitted"
        samples = list(clips.samples())
        if not samples:
            raise UserError(f"{refused}: all have labels in 3D, or nobody whom the rules want")
        try:
            stretches, _ = read_stretches(samples, rules)
        except UserError as error:
            raise UserError(f"{refused}: {error}") from None
        return stretches, clips.places, clips.earlier

    def prepare(self, step: int, shares: Shares) -> None:
        """Make the fits that are due before a step; see Task.prepare_step."""
        every = self.config.fit_every
        if self._fitter is None:
            shares.watch.at(step, "reading fits")
            with kept_alive(shares.watch, BATCH_S):
                self._fitter = self._open(step)
        if step % every == 0:
            shares.watch.at(step, "fitting")
            self._refresh(self._fitter, step, shares)

    def _open(self, step: int) -> Fitter:
        """Return the Fitter, with the fits of before ``step`` in the table."""
        keys = self.config.fit
        fitter = Fitter(self.body, sample_body(self.body), keys, self.body.name)
        self.table.offer(self._weigh_earlier(fitter))
        folder = RunFolder(self.config.run)
        for made in range(0, step, self.config.fit_every):
            path = folder.fit(made)
            self.table.offer(self.processes.from_first(lambda path=path: read_fits(path)))
        return fitter

    def _weigh_earlier(self, fitter: Fitter) -> list[Fit]:
        """The fits that the shards hold, whose labels the loader reads."""
        out = []
        for person, stretch in enumerate(self.stretches):
            bodies = self.clips.find_earlier(stretch, self.body)
            if bodies is not None:
                out.append(self._describe(person, fitter.weigh(stretch, bodies), {}))
        return out

    def _describe(self, person: int, fitted: Fitted, labels: dict[str, np.ndarray]) -> Fit:
        count = len(fitted.parameters.pose)
        counted = np.bincount(fitted.instant, minlength=count)
        error = np.bincount(fitted.instant, fitted.errors, count) / counted
        kept = fitted.find_instants(self.config.fit.max_error)
        return Fit(person, fitted.energy, error.astype(np.float32), kept, labels)

    def _refresh(self, fitter: Fitter, step: int, shares: Shares) -> None:
        """Fit people anew; each rank its share. BrokenOff on all ranks where one is to stop."""
        chosen = self.choose(step)
        mine = chosen[self.processes.rank :: self.processes.world]
        numbers = {id(self.stretches[person]): person for person in mine}
        found: list[Fit] = []
        self.network.model.eval()
        for batch in cut_batches([self.stretches[person] for person in mine]):
            if shares.stop:
                break
            with kept_alive(shares.watch, BATCH_S):
                answers = ask_network(self.network, batch, self.clips.read, hidden=True)
                for one in fitter.fit(batch, answers):
                    labels = list_labels(one, self.body)
                    found.append(self._describe(numbers[id(one.stretch)], one, labels))
        self.network.model.train()
        if self.processes.any(bool(shares.stop)):
            raise BrokenOff
        every = self.processes.gather(found)
        self.table.offer(self.processes.from_first(lambda: self._write(step, every)))
        if self.processes.first:
            log.info(self._describe_table(step, len(chosen)))

    def choose(self, step: int) -> list[int]:
        """Return the numbers of the people that are fitted before a step."""
        total = len(self.stretches)
        count = min(self.config.fit.people or total, total)
        first = step // self.config.fit_every * count
        return [(first + number) % total for number in range(count)]

    def _write(self, step: int, found: Sequence[Fit]) -> list[Fit]:
        """Write those fits that are better than what there is, and return them."""
        table = FitTable([], {})
        table.fits = dict(self.table.fits)
        taken = table.offer(sorted(found, key=lambda fit: fit.person))
        write_fits(RunFolder(self.config.run).fit(step), taken)
        return taken

    def _describe_table(self, step: int, count: int) -> str:
        numbers = self.table.measure(len(self.stretches))
        error = f", keypoints {numbers['fits/error']:.3f} of their size off" * bool(
            "fits/error" in numbers
        )
        return (
            f"step {step}: {count} of {len(self.stretches)} people are fitted anew; "
            f"{numbers['fits/share']:.0%} have a fit{error}"
        )

    def measure(self) -> dict[str, float]:
        """{"fits/share", "fits/error"}; see FitTable.measure."""
        return self.table.measure(len(self.stretches))

    def put(self, batch: Mapping[str, torch.Tensor], tags: np.ndarray) -> dict[str, torch.Tensor]:
        """Return a batch with fits for labels where there are any.

        Args:
            batch: of data.loading.partial_crops, on the device.  tags: its own, on the host.
        """
        out = dict(batch)
        rows, labels = self.table.find(tags)
        if not rows:
            return out
        device = batch["present"].device
        index = torch.tensor(rows, device=device)
        values = {name: torch.from_numpy(array) for name, array in labels.items()}
        is_mesh = torch.tensor([part == "mesh" for part in PARTS])
        values["present"] = is_mesh.expand(len(rows), -1)
        for name in ("points_2d", "points_3d"):
            values[name] = torch.zeros(len(rows), *batch[name].shape[1:])
        for name, rows_of in values.items():
            new = rows_of.to(device, batch[name].dtype)
            out[name] = batch[name].index_copy(0, index, new)
        return out

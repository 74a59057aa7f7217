"""The clips of a training run that are fitted while it trains: those that have keypoints alone."""

from collections.abc import Collection, Iterator

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters
from data.bodies.models import LabelChoice
from data.format.label_files import load_arrays
from data.loading.crop_labels import find_label_kind
from data.loading.reader import BadSample, NoPair, ShardReader
from data.sampling.order import Order
from engine.geometry import axis_angle_to_matrix
from engine.logging.console import get_logger
from finetune.fit.answers import LEFT
from finetune.fit.observed import LABELS, Sample, Stretch
from finetune.fit.table import ClipPlace

ERROR = "fit_error"  # an array of labels that are fits

Places = dict[tuple[str, str], ClipPlace]
Earlier = dict[tuple[str, str], dict[str, np.ndarray]]

log = get_logger(__name__)


class RunClips:
    """Reads the training clips of an order.

    Args:
        order: of the run.  reader: of its shards.
        choice: the labels that the run learns parameters from.
    Attributes:
        places: {(shard, clip's key): its place} of the clips that ``samples`` gave.
        earlier: {(shard, clip's key): the arrays of its labels} of those whose labels are fits.
    """

    def __init__(self, order: Order, reader: ShardReader, choice: LabelChoice) -> None:
        self.order, self.reader, self.choice = order, reader, choice
        self.places: Places = {}
        self.earlier: Earlier = {}

    def samples(self) -> Iterator[Sample]:
        """Yield the clips to fit, without images.

        Those with joints or parameters in 3D that are no fits have better labels.
        """
        bad = 0
        for number, source in enumerate(self.order.sources):
            walk = self.order.walks[number]
            for shard, (path, count) in enumerate(zip(source.paths, source.counts, strict=True)):
                for index in range(int(count)):
                    if walk.is_left_out(shard, index):
                        continue
                    try:
                        sample = self._read_labels((number, shard, index), path)
                    except NoPair:
                        continue
                    except BadSample:
                        bad += 1
                        continue
                    yield sample
        if bad:
            log.info("note: %d clips with bad bytes are not fitted", bad)

    def _read_labels(self, place: ClipPlace, path: str) -> Sample:
        """Return a clip without images; NoPair where it is not to be fitted."""
        index = place[2]
        clip, members = self.reader.wanted_clip(path, index)
        if LABELS not in members:
            raise NoPair
        read = {name: self.reader.store.read(path, *members[name]) for name in ("json", LABELS)}
        at = path, clip.key
        try:
            names = set(load_arrays(read[LABELS]))
        except ValueError as error:
            raise BadSample(f"labels.npz: {error}") from None
        if ERROR in names:
            self._keep_earlier(at, read[LABELS], len(clip.crops))
        elif names & {"joints", "body_model"}:
            raise NoPair
        self.places[at] = place
        return *at, read

    def _keep_earlier(self, at: tuple[str, str], data: bytes, count: int) -> None:
        try:
            kind = find_label_kind(self.choice.model)
            self.earlier[at] = kind.read(data, count, self.choice.variant)
        except (NoPair, BadSample):
            return  # a fit of another body model

    def read(self, path: str, keys: Collection[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield (key, members) of clips with their images."""
        for key in keys:
            _, _, index = self.places[path, key]
            members = self.reader.store.index(path).members(index)
            images = {name: span for name, span in members.items() if name.endswith(".jpg")}
            yield key, {name: self.reader.store.read(path, *span) for name, span in images.items()}

    def find_earlier(self, stretch: Stretch, body: BodyModel) -> BodyParameters | None:
        """Return the bodies that the shards' labels say a stretch has, or None.

        As finetune.fit.fitter.Fitted has them.

        Args:
            body: the run's, full.
        """
        times = stretch.times_s
        rows: dict[int, dict[str, np.ndarray]] = {}
        kind = find_label_kind(self.choice.model)
        for view in stretch.views:
            for path, key, crop in view.places:
                labels = self.earlier.get((path, key))
                if labels is None or not labels.get("known", np.ones(crop + 1, bool))[crop]:
                    continue
                at = int(labels["instant"][crop])
                rows[times.index(view.time_s)] = {
                    name: labels[name][at] if name in kind.per_instant else labels[name]
                    for name in kind.shapes
                }
        if len(rows) < len(times):
            return None
        whole = {
            name: torch.from_numpy(np.stack([rows[row][name] for row in range(len(times))]))
            for name in kind.shapes
        }
        whole["pose"] = axis_angle_to_matrix(whole["pose"])
        flip = torch.full((len(times),), stretch.kind == LEFT)
        return body.mirror_parameters(body.read_labels(whole, flip), flip)

"""Sequences: consecutive crops of one person by one camera, for video and temporal models.

Crops follow each other within a clip, and across the clips of one track where the clips name one
(data.format.clip.Clip.track). A run of them ends where time jumps; a window is ``length`` crops of
a run, and the next window of the run begins ``stride`` crops later. Which window fills slot n is
arithmetic on (seed, n) and the shards, as in data.sampling.order: each epoch is a permutation of
all windows.

    runs = find_runs(paths, store, config)
    order = SequenceOrder(runs, config, seed=0, batch=8)
    reader = SequenceReader(order, store)
    sequence = reader.read(n)                               # one, typed
    loader = Loader(reader, reader.layout(rows, side), rows, workers, prefetch)   # or batches

Runs in the loader's workers: imports neither torch nor webdataset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from data.format.clip import MASK_BYTES, Clip
from data.format.label_rows import LabelLayout
from data.format.labels import CropLabels, Labels, read_labels
from data.format.names import normalise
from data.loading.reader import BadSample, ClipReader
from data.sampling.order import SEQUENCE, numbers
from data.sampling.pairs import CROPS
from data.storage.shard_store import Store
from engine.config.parser import key
from engine.errors import UserError

TAGS = ("window", "epoch", "bad")  # columns of "tags": place in SequenceOrder.windows; replaced
NO_LABELS = CropLabels()


@dataclass
class SequenceConfig:
    """Which crops follow each other, and how they are cut into windows."""

    length: int = key(16, "crops of a sequence", low=1)
    stride: int = key(16, "crops from the start of a sequence to the start of the next", low=1)
    gap_max_s: float = key(
        0.5, "longest time between two crops that follow each other, seconds", low=0
    )
    crops: str = key("body", "which crops are read", choices=tuple(CROPS))
    run_min: int = key(2, "least number of crops in a run; shorter ones are left out", low=1)


@dataclass(frozen=True)
class Place:
    """Where a crop lies: its shard, its clip's number in it, its number in the clip.

    It also says when the crop was taken.
    """

    path: str
    index: int
    crop: int
    time_s: float


@dataclass
class Run:
    """Crops of one person by one camera that follow each other in time."""

    track: str
    subject: str
    camera: str
    kind: str
    places: list[Place]


@dataclass
class Window:
    """Crops ``start`` to ``stop`` of a run; fewer than a sequence's length at the run's end."""

    run: Run
    start: int
    stop: int

    @property
    def places(self) -> list[Place]:
        """Where its crops lie."""
        return self.run.places[self.start : self.stop]


@dataclass
class Sequence:
    """T crops of one person by one camera, padded at the end where its run is shorter.

    Attributes:
        track, subject, camera, kind: who and what it shows.
        valid: (T,) bool, false where there is no crop: there all else is zero, and the time that of
            the last crop.
        time_s: (T,) float64, on the track's clock.
        pixels: (T, S, S, 3) uint8.  mask: (T, 512) uint8, 64 x 64 bits, see data.format.clip.
        calibrated: (T,) bool.  K: (T, 3, 3), Rt: (T, 3, 4) float32, zero where not calibrated.
        box: (T, 4) float32, the crop in its image's pixels; zero where nobody knows.
        labels: T, without any part where nothing is labelled.
    """

    track: str
    subject: str
    camera: str
    kind: str
    valid: np.ndarray
    time_s: np.ndarray
    pixels: np.ndarray
    mask: np.ndarray
    calibrated: np.ndarray
    K: np.ndarray
    Rt: np.ndarray
    box: np.ndarray
    labels: list[CropLabels] = field(default_factory=list)


def find_runs(
    paths: Iterable[str],
    store: Store,
    config: SequenceConfig,
    exclude: frozenset[str] = frozenset(),
) -> list[Run]:
    """The runs in some shards, in the order in which their first crops lie there.

    Reads the JSON of every clip. Clips whose JSON is unreadable are passed over (`python -m data
    verify` names them).

    Args:
        paths: of tars, or URLs.  exclude: subjects, normalised, whose clips are passed over.
    """
    tracks: dict[tuple[str, str, str, str], list[Place]] = {}
    reader = ClipReader(store)
    for path in paths:
        for index in range(len(store.index(path))):
            try:
                clip, _ = reader.clip(path, index)
            except BadSample:
                continue
            if normalise(clip.subject) not in exclude:
                _enter_clip(tracks, clip, path, index, CROPS[config.crops])
    runs = []
    for (track, subject, camera, kind), places in tracks.items():
        for part in _split_at_gaps(places, config.gap_max_s):
            if len(part) >= config.run_min:
                runs.append(Run(track, subject, camera, kind, part))
    return runs


def _enter_clip(
    tracks: dict[tuple[str, str, str, str], list[Place]],
    clip: Clip,
    path: str,
    index: int,
    kinds: tuple[str, ...],
) -> None:
    """Add a clip's crops to the tracks that they belong to; without a name a clip is its own."""
    track = clip.track if clip.track is not None else f"{path}:{clip.key}"
    for number, crop in enumerate(clip.crops):
        if crop.kind in kinds:
            place = Place(path, index, number, float(crop.time_s))
            tracks.setdefault((track, clip.subject, crop.camera, crop.kind), []).append(place)


def _split_at_gaps(places: list[Place], gap_max_s: float) -> list[list[Place]]:
    """Crops in order of time, cut where one is more than ``gap_max_s`` after the one before it.

    Clips of a track may overlap: of two crops of one instant the first in the shards is kept.
    """
    ordered = sorted(places, key=lambda place: place.time_s)
    runs: list[list[Place]] = []
    for place in ordered:
        if runs and place.time_s == runs[-1][-1].time_s:
            continue
        if runs and place.time_s - runs[-1][-1].time_s <= gap_max_s:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def cut_windows(runs: Iterable[Run], config: SequenceConfig) -> list[Window]:
    """All windows of some runs. Every crop is in at least one, unless stride is above length."""
    windows = []
    for run in runs:
        count = len(run.places)
        # The last window of a run is the first that reaches its end.
        last = max(0, -(-(count - config.length) // config.stride)) * config.stride
        for start in range(0, min(last, count - 1) + 1, config.stride):
            windows.append(Window(run, start, min(start + config.length, count)))
    return windows


class SequenceOrder:
    """Which window fills slot n.

    Args:
        runs: as ``find_runs`` gives them.  batch: sequences in a global batch.
    Attributes:
        windows: all of them; an epoch visits each once.
    Raises:
        UserError: there is no run.
    """

    def __init__(
        self, runs: Iterable[Run], config: SequenceConfig, seed: int, batch: int = 1
    ) -> None:
        self.config, self.seed, self.batch = config, seed, batch
        self.windows = cut_windows(runs, config)
        if not self.windows:
            raise UserError(
                f"no {config.run_min} crops of one person by one camera follow each other within "
                f"{config.gap_max_s:g} s (gap_max_s, run_min)"
            )
        self._epoch = -1
        self._shuffled = np.zeros(0, np.int64)

    def draw(self, n: int, attempt: int = 0) -> int:
        """The place in ``windows`` of slot n; attempts 1, 2, ... replace what cannot be read."""
        count = len(self.windows)
        if attempt:
            return int(numbers(self.seed, SEQUENCE, n, attempt).integers(count))
        epoch, place = divmod(n, count)
        if epoch != self._epoch:
            self._shuffled = numbers(self.seed, SEQUENCE, epoch).permutation(count)
            self._epoch = epoch
        return int(self._shuffled[place])


@dataclass
class OpenClip:
    """A clip that is read: without images, where its members lie, and its labels."""

    clip: Clip
    members: dict[str, tuple[int, int]]
    labels: Labels | None


class SequenceReader:
    """Reads sequences, one a slot.

    Args:
        labels: which labels are put into the arrays of a batch; None: none (``read`` gives them
            all).
        retries: windows tried for a slot whose bytes are bad.
    Attributes:
        bad: [(slot, shard, index in it, reason), ...] until somebody takes them.
    """

    def __init__(
        self,
        order: SequenceOrder,
        store: Store,
        labels: LabelLayout | None = None,
        retries: int = 100,
    ) -> None:
        self.order, self.store, self.labels, self.retries = order, store, labels, retries
        self.bad: list[tuple[int, str, int, str]] = []
        self._reader = ClipReader(store)

    def layout(self, rows: int, side: int) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return {name: (shape, dtype)} of the arrays of a batch.

        Those of Sequence, with a row each, and those of ``labels``, (rows, T, ...) each.

        Args:
            side: pixels of the largest crop.
        """
        length = self.order.config.length
        out: dict[str, tuple[tuple[int, ...], type]] = {
            "pixels": ((rows, length, side, side, 3), np.uint8),
            "mask": ((rows, length, MASK_BYTES), np.uint8),
            "valid": ((rows, length), np.bool_),
            "time_s": ((rows, length), np.float64),
            "calibrated": ((rows, length), np.bool_),
            "K": ((rows, length, 3, 3), np.float32),
            "Rt": ((rows, length, 3, 4), np.float32),
            "box": ((rows, length, 4), np.float32),
            "tags": ((rows, len(TAGS)), np.int64),
        }
        if self.labels is not None:
            for name, (shape, kind) in self.labels.shapes(length).items():
                out[name] = (rows, *shape), kind
        return out

    def fill(self, arrays: Mapping[str, np.ndarray], row: int, n: int) -> None:
        """Fill a row with slot n; windows with bad bytes are replaced by the slot's further draws.

        Raises:
            EnvironmentFault: a read error that lasted.
            UserError: no draw could be read.
        """
        self._fill({name: array[row] for name, array in arrays.items()}, n)

    def read(self, n: int) -> Sequence:
        """The Sequence of slot n; see ``fill``."""
        side = self._side(self.order.windows[self.order.draw(n)])
        arrays = {name: np.zeros(*spec) for name, spec in self.layout(1, side).items()}
        row = {name: array[0] for name, array in arrays.items()}
        labels = self._fill(row, n)
        run = self.order.windows[int(row["tags"][0])].run
        return Sequence(
            run.track,
            run.subject,
            run.camera,
            run.kind,
            row["valid"],
            row["time_s"],
            row["pixels"],
            row["mask"],
            row["calibrated"],
            row["K"],
            row["Rt"],
            row["box"],
            labels,
        )

    def fetch(self, slots: Iterable[int]) -> None:
        """Have the shards of some slots on this machine's disk."""
        for n in slots:
            for path in {place.path for place in self.order.windows[self.order.draw(n)].places}:
                self.store.fetch(path)

    def _side(self, window: Window) -> int:
        return max(self.store.index(place.path).size for place in window.places)

    def _fill(self, row: Mapping[str, np.ndarray], n: int) -> list[CropLabels]:
        """Fill one row's arrays and return the labels of its crops."""
        for attempt in range(self.retries + 1):
            number = self.order.draw(n, attempt)
            try:
                labels = self._fill_window(row, self.order.windows[number], n)
            except BadSample:
                continue
            finally:
                self.bad += [(n, path, -1, reason) for path, reason in self.store.retried]
                self.store.retried.clear()
            row["tags"][:] = number, n // len(self.order.windows), attempt
            return labels
        raise UserError(
            f"{self.retries + 1} draws for slot {n} gave no sequence whose bytes are good; see "
            f"python -m data verify"
        )

    def _fill_window(
        self, row: Mapping[str, np.ndarray], window: Window, n: int
    ) -> list[CropLabels]:
        for name, array in row.items():
            if name != "tags":
                array[...] = 0
        places = window.places
        row["time_s"][:] = places[-1].time_s
        found: list[CropLabels] = []
        opened: dict[tuple[str, int], OpenClip] = {}
        for t, place in enumerate(places):
            try:
                where = place.path, place.index
                if where not in opened:
                    opened[where] = self._open_clip(place)
                found.append(self._put_crop(row, t, place, opened[where]))
            except BadSample as reason:
                self.bad.append((n, place.path, place.index, str(reason)))
                raise
        return found + [NO_LABELS] * (len(row["valid"]) - len(places))

    def _open_clip(self, place: Place) -> OpenClip:
        """The clip that a crop lies in."""
        clip, members = self._reader.clip(place.path, place.index)
        if "labels.npz" not in members:
            return OpenClip(clip, members, None)
        data = self.store.read(place.path, *members["labels.npz"])
        try:
            return OpenClip(clip, members, read_labels(data, len(clip.crops)))
        except ValueError as error:
            raise BadSample(f"labels.npz: {error}") from None

    def _put_crop(
        self, row: Mapping[str, np.ndarray], t: int, place: Place, opened: OpenClip
    ) -> CropLabels:
        """Put one crop into place t of a row; returns its labels."""
        clip, members = opened.clip, opened.members
        crop = clip.crops[place.crop]
        if clip.size > row["pixels"].shape[1]:
            raise BadSample(f"crops of {clip.size} pixels, {row['pixels'].shape[1]} were announced")
        self._reader.decode(row["pixels"][t], place.path, clip, members, place.crop)
        self._reader.mask(row["mask"][t], place.path, clip, members, place.crop)
        row["valid"][t], row["time_s"][t] = True, place.time_s
        if crop.K is not None and crop.Rt is not None:
            row["calibrated"][t], row["K"][t], row["Rt"][t] = True, crop.K, crop.Rt
        if crop.box is not None:
            row["box"][t] = crop.box
        known = NO_LABELS if opened.labels is None else opened.labels.at(place.crop)
        if self.labels is not None:
            try:
                self.labels.fill(row, t, known)
            except ValueError as error:
                raise BadSample(f"labels.npz: {error}") from None
        return known

"""Reading one slot: from the order to decoded pixels and the numbers that travel with them.

This module runs in the loader's workers. It imports neither torch nor webdataset, so that a worker
starts in a fraction of a second.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import simplejpeg

from data.cropping.border import BLACK
from data.format.clip import MASK_BYTES, Clip, decode_meta
from data.format.index import PAIR_KINDS
from data.format.label_files import read_visible
from data.format.names import normalise
from data.format.surface import MEMBER as SURFACE
from data.format.surface import SurfaceMaps, count_spots, read_surface
from data.sampling.order import PAIR, Draw, Order, numbers
from data.sampling.pairs import PairRules, choose, more_targets, rotation_between
from data.storage.shard_store import Store
from engine.errors import UserError

if TYPE_CHECKING:
    from data.config import AugmentConfig, WidenConfig  # noqa: F401 - named in a base class
    from data.sampling.frame_order import FrameOrder

Arrays = Mapping[str, np.ndarray]  # of a batch: a row a slot
Shapes = dict[str, tuple[tuple[int, ...], type]]  # {name: (shape, dtype)} of such arrays
Members = dict[str, tuple[int, int]]  # {suffix: (offset, length)} of a sample in its tar
Rules = TypeVar("Rules")
Augment = TypeVar("Augment")

# Columns of Rows.numbers, for each image: crop centre x, y and side, then three colour factors.
# Crop lengths are in pixels of the decoded image, whose first pixel has its centre at 0.5.
PER_IMAGE = 6
TAGS = ("kind", "source", "epoch", "bad", "no_pair", "shard", "index", "a", "b", "size")


class BadSample(Exception):
    """A sample whose bytes are bad; replaced by another draw, counted and listed."""


class NoPair(Exception):
    """A whole sample without a pair (or crop) that a slot could use.

    Replaced by another draw and counted.
    """


def layout(
    rows: int,
    side: int,
    noise: int,
    targets: int = 1,
    draws: int = 0,
    rotations: bool = False,
    surface: bool = False,
) -> Shapes:
    """{name: (shape, dtype)} of the arrays that one batch of slots fills.

    ``targets``: K, of one reference in each slot. ``draws``: uniform numbers in ``look``, which is
    left out where it is 0. ``rotations``: whether there are ``rotations``. ``surface``: whether
    there are ``vertex`` and ``normal``, those of data.format.surface.
    """
    more: Shapes = {"look": ((rows, draws), np.float32)} if draws else {}
    if rotations:
        # From the reference's frame to each target's (data.sampling.pairs.rotation_between); NaN
        # where a camera is not calibrated.
        more["rotations"] = ((rows, targets, 3, 3), np.float32)
    if surface:
        # All 0 where a clip has no such maps; in the top left corner of smaller images.
        spots = (rows, targets + 1, count_spots(side), count_spots(side))
        more["vertex"] = (spots, np.int16)
        more["normal"] = ((*spots, 3), np.int8)
    return more | {
        # K times a, then b, in the top left corner where they are smaller.
        "pixels": ((rows, targets + 1, side, side, 3), np.uint8),
        "mask": (
            (rows, (targets + 1) * MASK_BYTES),
            np.uint8,
        ),  # each image's person, 64 x 64 bits
        "numbers": ((rows, targets + 1, PER_IMAGE), np.float32),
        "noise": (
            (rows, (targets + 1) * noise),
            np.float32,
        ),  # uniform, for the masking of each image
        "tags": ((rows, len(TAGS)), np.int32),  # "a" is the first target
    }


class Slots:
    """Gives data.sampling.order.numbers of one slot after another, from one generator.

    Setting its state takes 1 us, making one 6.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self.generator = numbers(seed, purpose, 0)
        self.state = self.generator.bit_generator.state

    def at(self, n: int) -> np.random.Generator:
        """The generator, as ``numbers(seed, purpose, n)`` gives it.

        The one of the slot before is gone.
        """
        self.state["state"]["counter"][1] = n
        self.generator.bit_generator.state = self.state
        return self.generator


class ClipReader:
    """Reads clips, images and masks of shards.

    Args:
        store: where the bytes come from.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def clip(self, path: str, index: int) -> tuple[Clip, Members]:
        """(Clip without images, {suffix: (offset, length)}) of a sample."""
        members = self.store.index(path).members(index)
        if "json" not in members:
            raise BadSample("the .json member is missing")
        key = str(self.store.index(path).keys[index])
        try:
            return decode_meta(self.store.read(path, *members["json"]), f"{path}:{key}"), members
        except ValueError as error:
            raise BadSample(f"json: {error}") from None

    def image(self, path: str, members: Members, crop: int) -> np.ndarray:
        """(H, W, 3) uint8 of one crop."""
        name, data = self._jpeg(path, members, crop)
        try:
            return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            raise BadSample(f"{name} does not decode: {error}") from None

    def _jpeg(self, path, members, crop):
        """(name, bytes) of one crop's image."""
        name = f"{crop:02d}.jpg"
        if name not in members:
            raise BadSample(f"{name} is missing")
        return name, self.store.read(path, *members[name])

    def decode(self, out: np.ndarray, path: str, clip: Clip, members: Members, crop: int) -> None:
        """Decode a crop into the top left corner of ``out`` (P, P, 3).

        BadSample if it has not the clip's size.
        """
        name, data = self._jpeg(path, members, crop)
        size = clip.size
        try:
            # Checked first (1 us): an image of another shape could still fit into the buffer.
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            if (height, width) != (size, size):
                raise BadSample(f"{name} is {width} x {height}, the clip says {size}")
            if size == len(out):
                simplejpeg.decode_jpeg(data, "RGB", buffer=out)
                return
            image = simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            raise BadSample(f"{name} does not decode: {error}") from None
        # What an earlier batch left there must not show.
        out[size:], out[:size, size:] = BLACK, BLACK
        out[:size, :size] = image

    def note_visible(self, path: str, clip: Clip, members: Members) -> None:
        """Set ``clip.visible`` from the clip's labels, where they know it; no image is read."""
        if "labels.npz" not in members:
            return
        try:
            data = self.store.read(path, *members["labels.npz"])
            clip.visible = read_visible(data, len(clip.crops))
        except ValueError as error:
            raise BadSample(str(error)) from None

    def surface(self, path: str, clip: Clip, members: Members) -> SurfaceMaps | None:
        """What of the body a clip's crops show; None where it does not say."""
        if SURFACE not in members:
            return None
        try:
            data = self.store.read(path, *members[SURFACE])
            return read_surface(data, len(clip.crops), clip.size)
        except ValueError as error:
            raise BadSample(str(error)) from None

    def mask(self, out: np.ndarray, path: str, clip: Clip, members: Members, crop: int) -> None:
        """Copy a crop's person mask into ``out`` (512,).

        All ones where nobody knows where the person is.
        """
        if "masks.bin" not in members:
            out[:] = 255
            return
        offset, length = members["masks.bin"]
        if length != len(clip.crops) * MASK_BYTES:
            raise BadSample(
                f"masks.bin has {length} bytes for {len(clip.crops)} crops of {MASK_BYTES}"
            )
        out[:] = np.frombuffer(
            self.store.read(path, offset + crop * MASK_BYTES, MASK_BYTES), np.uint8
        )


class SlotOrder(Protocol):
    """What a loader asks of an order: the slots of a global batch."""

    batch: int


class SlotReader(Protocol):
    """What a loader needs of a reader: it fills a row with a slot."""

    store: Store
    bad: list[tuple[int, str, int, str]]

    @property
    def order(self) -> SlotOrder:
        """The order that says what fills a slot."""

    def fill(self, arrays: Arrays, row: int, n: int) -> None:
        """Fill one row with slot n."""

    def fetch(self, slots: Iterable[int]) -> None:
        """Have the shards of some slots on this machine's disk."""


class ShardReader(ClipReader, ABC, Generic[Rules, Augment]):
    """Reads samples of shards, and fills slots with them.

    What a slot is made of is for those that build on this: they have ``place``, ``draw_numbers``
    and ``wanted``.

    Args:
        order: data.sampling.order.Order.  rules: which pairs or crops.  augment: how they are
            augmented.
        retries: draws tried for a slot.  store: data.storage.shard_store.Store, where the bytes
            come from.
        exclude: subjects, normalised, whose clips are passed over, as if they were not there.
        skip: paths of shards that are passed over likewise.
    Attributes:
        bad: [(slot, shard, index in it, reason), ...] of bad samples and of reads that were tried
            again, until taken.
    """

    def __init__(
        self,
        order: "Order | FrameOrder",
        rules: Rules,
        augment: Augment,
        retries: int,
        store: Store,
        exclude: frozenset[str] = frozenset(),
        skip: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(store)
        self.order, self.rules, self.augment, self.retries = order, rules, augment, retries
        self.exclude, self.skip = exclude, skip
        self.bad: list[tuple[int, str, int, str]] = []

    @functools.cached_property
    def slots(self) -> Slots:
        """Return the Slots of this order's seed, made once."""
        return Slots(self.order.seed, PAIR)

    def fill(self, arrays: Arrays, row: int, n: int) -> None:
        """Fill one row with slot n, replacing bad samples by the slot's further draws.

        Raises:
            EnvironmentFault: a read error that lasted.
            UserError: no draw of the slot's source could serve it, or a shard is not the one that
                the run knows.
        """
        bad = no_pair = 0
        for attempt in range(self.retries + 1):
            draw = self.order.draw(n, attempt)
            path = self.order.sources[draw.source].paths[draw.shard]
            try:
                random = self.slots.at(n)
                rest = self.place(arrays, row, path, draw, random)
            except NoPair:
                no_pair += 1
                continue
            except BadSample as reason:
                bad += 1
                self.bad.append((n, path, draw.index, str(reason)))
                continue
            finally:
                self.bad += [(n, shard, draw.index, reason) for shard, reason in self.store.retried]
                self.store.retried.clear()
            arrays["tags"][row] = (
                draw.kind,
                draw.source,
                draw.epoch,
                bad,
                no_pair,
                draw.shard,
                draw.index,
                *rest,
            )
            self.draw_numbers(arrays, row, random)
            return
        draw = self.order.draw(n)
        source = self.order.sources[draw.source].name
        raise UserError(
            f"source '{source}': {self.retries + 1} draws for slot {n} gave no "
            f"{self.wanted(draw.kind)}: {bad} "
            f"samples are bad, {no_pair} have none by the rules; see python -m data verify and "
            f"stats"
        )

    @abstractmethod
    def place(
        self,
        arrays: Arrays,
        row: int,
        path: str,
        draw: Draw,
        random: np.random.Generator,
    ) -> tuple[int, int, int]:
        """Decode a sample into a row and return the tags from "a" on.

        Raises:
            NoPair: the sample holds nothing that the rules want.
            BadSample: its bytes are bad.
        """

    @abstractmethod
    def draw_numbers(self, arrays: Arrays, row: int, random: np.random.Generator) -> None:
        """Fill in the slot's further random numbers; ``random`` has drawn what ``place`` asked."""

    @abstractmethod
    def wanted(self, kind: int) -> str:
        """What a slot of that kind holds, in words."""

    def fetch(self, slots: Iterable[int]) -> None:
        """Have the shards of some slots on this machine's disk.

        Those that are here already cost nothing.
        """
        for n in slots:
            draw = self.order.draw(n)
            path = self.order.sources[draw.source].paths[draw.shard]
            if path not in self.skip:
                self.store.fetch(path)

    def wanted_clip(self, path: str, index: int) -> tuple[Clip, Members]:
        """As ``clip``; NoPair where its subject is excluded or its shard is to be skipped."""
        if path in self.skip:
            raise NoPair
        clip, members = self.clip(path, index)
        if self.exclude and normalise(clip.subject) in self.exclude:
            raise NoPair
        return clip, members


class Reader(ShardReader[PairRules, "AugmentConfig"]):
    """Reads pairs into arrays of layout().

    ``rules``: data.sampling.pairs.PairRules. ``augment``: data.config.AugmentConfig.

    Attributes:
        references: whether references are read; false: chosen as ever, but their pixels and masks
            stay as they were.
        widen: how the rules of the first steps differ, or None.
    """

    references = True
    widen: "WidenConfig | None" = None
    _now: PairRules | None = None  # of the slot that is filled; None: ``rules``

    def fill(self, arrays: Arrays, row: int, n: int) -> None:
        """Fill one row with slot n; see ShardReader.fill."""
        self._now = self.rules
        if self.widen is not None:
            self._now = self.widen.narrow(self.rules, n // self.order.batch)
        super().fill(arrays, row, n)

    def wanted(self, kind: int) -> str:
        """Return what a slot of that kind holds, in words: a pair of that kind."""
        return f"{PAIR_KINDS[kind]} pair"

    def place(
        self, arrays: Arrays, row: int, path: str, draw: Draw, random: np.random.Generator
    ) -> tuple[int, int, int]:
        """Decode a pair of one clip, and the reference's further targets, into a row.

        Returns the crops' places (of the first target and of the reference) and their size.
        """
        clip, members = self.wanted_clip(path, draw.index)
        kind, pixels = PAIR_KINDS[draw.kind], arrays["pixels"][row]
        rules = self._now or self.rules
        if rules.visible_min:
            self.note_visible(path, clip, members)
        pair = choose(clip, kind, rules, random)
        if pair is None:
            raise NoPair
        a, b = pair
        targets = [a]
        if len(pixels) > 2:
            targets += more_targets(clip, kind, rules, a, b, len(pixels) - 2, random)
        read = [*targets, b] if self.references else targets
        for side, crop in enumerate(read):
            first = targets.index(crop) if crop in targets else side
            if first < side:
                pixels[side] = pixels[first]  # the same image under another crop and mask
            else:
                self.decode(pixels[side], path, clip, members, crop)
        masks = arrays["mask"][row].reshape(len(pixels), MASK_BYTES)
        for out, crop in zip(masks, read, strict=False):
            self.mask(out, path, clip, members, crop)
        if "vertex" in arrays:
            maps = self.surface(path, clip, members)
            spots = count_spots(clip.size)
            for name in ("vertex", "normal"):
                arrays[name][row] = 0
                if maps is not None:
                    found = getattr(maps, name)[[*targets, b]]
                    arrays[name][row][:, :spots, :spots] = found
        if "rotations" in arrays:
            for out, crop in zip(arrays["rotations"][row], targets, strict=True):
                found = rotation_between(clip, crop, b)
                out[:] = math.nan if found is None else found
        return a, b, clip.size

    def draw_numbers(self, arrays: Arrays, row: int, random: np.random.Generator) -> None:
        """Crop and colour of all images, and the masking's noise; see layout().

        ``random`` has drawn the pair; then come six numbers an image, as in PER_IMAGE, the noise,
        and the numbers of the slot's look, where it has one.
        """
        size, augment, out = int(arrays["tags"][row, TAGS.index("size")]), self.augment, []
        images = arrays["numbers"].shape[1]
        u = random.random(6 * images).tolist()
        # Whole pixels: at 224 of 256 the crop is then a copy, not a resampling. Plain arithmetic:
        # numpy costs 30 us more.
        for place in range(0, 6 * images, 6):
            x, y, scale, *own = u[place : place + 6]
            colours = u[3:6] if augment.share_colour else own
            side = round(size * (augment.crop_min + (augment.crop_max - augment.crop_min) * scale))
            out.append(
                [
                    math.floor(x * (size - side + 1)) + side / 2,
                    math.floor(y * (size - side + 1)) + side / 2,
                    side,
                    *(1 + augment.colour * (2 * c - 1) for c in colours),
                ]
            )
        arrays["numbers"][row] = out
        random.random(dtype=np.float32, out=arrays["noise"][row])
        if augment.draws:
            arrays["look"][row] = random.random(augment.draws, np.float32)

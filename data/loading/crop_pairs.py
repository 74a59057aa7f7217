"""Reading pairs of labelled crops, one a slot: one person at one instant, by two cameras.

A row holds two rows of data.loading.crops: the first crop under the names that it has there, the
second under the same names after ``second_``. ``split_pair`` takes them apart.

Runs in the loader's workers; imports neither torch nor webdataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.format.clip import KINDS, Clip
from data.loading import crops
from data.loading.crop_labels import ANNY
from data.loading.crops import FLIP, CropReader
from data.loading.reader import NoPair
from data.sampling.order import Draw
from data.sampling.pairs import CROPS, possible, view_angles
from engine.config.parser import key
from engine.errors import UserError

SECOND = "second_"
CHANCES = "chances"  # of a row: uniform numbers that say what of the second crop is left out
PER_PAIR = 2

Values = TypeVar("Values")


@dataclass
class CropPairRules:
    """Selects the two crops of a pair."""

    angle_min_deg: float = key(
        5.0, "least angle between the cameras of a pair, seen from the person", low=0, high=180
    )
    angle_max_deg: float = key(180.0, "largest such angle", low=0, high=180)

    def check(self) -> None:
        """Raise UserError where the least angle is above the largest."""
        if self.angle_min_deg > self.angle_max_deg:
            raise UserError(
                f"data.pairs.angle_min_deg={self.angle_min_deg} is above "
                f"data.pairs.angle_max_deg={self.angle_max_deg}"
            )


def layout(
    rows: int, side: int, model: str = ANNY, draws: int = 0
) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, dtype)} of the arrays that one batch of pairs fills.

    ``model``, ``draws``: as in data.loading.crops.layout.
    """
    first = crops.layout(rows, side, model, draws)
    second = {SECOND + name: spec for name, spec in first.items()}
    return first | second | {CHANCES: ((rows, PER_PAIR), np.float32)}


def split_pair(values: Mapping[str, Values]) -> tuple[dict[str, Values], dict[str, Values]]:
    """Return the first crops and the second ones, each under the names of data.loading.crops."""
    second = {
        name.removeprefix(SECOND): value
        for name, value in values.items()
        if name.startswith(SECOND)
    }
    return {name: values[name] for name in second}, second


def join_pair(first: Mapping[str, Values], second: Mapping[str, Values]) -> dict[str, Values]:
    """Return first and second crops as one, the inverse of ``split_pair``."""
    return {**first, **{SECOND + name: value for name, value in second.items()}}


def list_pairs(clip: Clip, known: list[int], rules: CropPairRules, crop_rule: str) -> np.ndarray:
    """(n, 2) crops of one instant by two cameras that the rules allow, both orders of each.

    Args:
        known: crops that can be learnt from.  crop_rule: of data.sampling.pairs.CROPS.
    """
    angles = view_angles(clip)
    pairs = np.array(possible(clip, "cross_view", CROPS[crop_rule]), np.int64).reshape(-1, 2)
    apart = angles[pairs[:, 0], pairs[:, 1]]
    kept = (apart >= rules.angle_min_deg) & (apart <= rules.angle_max_deg)
    return pairs[kept & np.isin(pairs, known).all(1)]


class CropPairReader(CropReader):
    """Reads pairs of labelled crops into arrays of layout().

    Attributes:
        pairs: which crops make pairs.
    """

    pairs = CropPairRules()

    def wanted(self, kind: object) -> str:
        """Return what a slot holds, in words."""
        return f"two labelled {self.rules.crops} crops of one instant, by two cameras"

    def place(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        path: str,
        draw: Draw,
        random: np.random.Generator,
    ) -> tuple[int, int, int]:
        """Decode a pair of a clip into a row; return (first crop, its kind, side in pixels)."""
        clip, members, labels, known = self.usable(path, draw.index)
        pairs = list_pairs(clip, known, self.pairs, self.rules.crops)
        if not len(pairs):
            raise NoPair
        a, b = pairs[int(random.integers(len(pairs)))].tolist()
        first, second = split_pair(arrays)
        self.put(first, row, path, clip, members, labels, a)
        self._seen_first = self._seen
        self.put(second, row, path, clip, members, labels, b)
        self._seen_second = self._seen
        second["tags"][row, -3:] = b, KINDS.index(clip.crops[b].kind), clip.size
        return a, KINDS.index(clip.crops[a].kind), clip.size

    def draw_numbers(
        self, arrays: Mapping[str, np.ndarray], row: int, random: np.random.Generator
    ) -> None:
        """Crop, rotate and colour both crops, each by itself; both are mirrored, or neither is."""
        first, second = split_pair(arrays)
        second["tags"][row, :-3] = first["tags"][row, :-3]
        self._seen = self._seen_first
        super().draw_numbers(first, row, random)
        self._seen = self._seen_second
        super().draw_numbers(second, row, random)
        # A mirrored image shows another person.
        second["numbers"][row, FLIP] = first["numbers"][row, FLIP]
        arrays[CHANCES][row] = random.random(PER_PAIR, np.float32)

    def put_whole(
        self,
        arrays: Mapping[str, np.ndarray],
        row: int,
        path: str,
        clip: Clip,
        members: crops.Members,
        labels: Mapping[str, np.ndarray],
        pair: tuple[int, int],
        place: tuple[int, int, int],
    ) -> None:
        """Decode a pair as it is, without augmentation, with its tags.

        Args:
            place: source, shard, index of the clip.
        """
        for part, crop in zip(split_pair(arrays), pair, strict=True):
            self.put(part, row, path, clip, members, labels, crop)
            kind = KINDS.index(clip.crops[crop].kind)
            source, shard, index = place
            part["tags"][row] = 0, source, 0, 0, 0, shard, index, crop, kind, clip.size
            self.whole(part, row)
        arrays[CHANCES][row] = 1  # nothing is left out

"""When, where and how crops of real people were seen: what tells whether two clips share frames.

Rendered clips have none: no two of them show the same frame. So an index grows by 36 bytes a crop
that was filmed, and by nothing for synthetic humans.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.format.clip import MADE, Clip

_PREFIX = "moment_"


@dataclass
class Moments:
    """A row a crop of a filmed clip.

    Attributes:
        clip: (n,) int32, number of the clip in its shard.
        kin: (n,) uint64 hash of the clip's source.
        place: (n,) uint64 hash of source, subject, recording and camera; 0 where the recording is
            not known, so that times cannot be compared.
        time_s: (n,) float64 on the recording's clock.
        look: (n,) uint64, see data.format.looks; 0 where it is not known.
    """

    clip: np.ndarray
    kin: np.ndarray
    place: np.ndarray
    time_s: np.ndarray
    look: np.ndarray

    def __len__(self) -> int:
        return len(self.clip)

    def take(self, rows: np.ndarray) -> "Moments":
        """The Moments of some rows."""
        return Moments(*(column[rows] for column in self.columns().values()))

    def columns(self) -> dict[str, np.ndarray]:
        """{name: column}."""
        names = ("clip", "kin", "place", "time_s", "look")
        return {name: getattr(self, name) for name in names}

    def pack(self) -> dict[str, np.ndarray]:
        """{name in an index file: array}."""
        return {_PREFIX + name: column for name, column in self.columns().items()}


def unpack_moments(arrays: Mapping[str, np.ndarray]) -> Moments | None:
    """The Moments in an index file's arrays; None in one of before they were kept."""
    names = [_PREFIX + name for name in ("clip", "kin", "place", "time_s", "look")]
    if not all(name in arrays for name in names):
        return None
    return Moments(*(arrays[name] for name in names))


def join_moments(parts: list[Moments]) -> Moments:
    """The rows of several, one after the other."""
    empty = moments_of([])
    columns = {}
    for name, column in empty.columns().items():
        columns[name] = np.concatenate([column, *(part.columns()[name] for part in parts)])
    return Moments(**columns)


def moments_of(clips: list[tuple[int, Clip]]) -> Moments:
    """The Moments of clips.

    Args:
        clips: (number in the shard, Clip) of those whose JSON is readable.
    """
    rows = []
    for number, clip in clips:
        if clip.source == MADE:
            continue
        kin, places = _hash(clip.source), {}
        for crop in clip.crops:
            if crop.camera not in places:
                told = (clip.source, clip.subject, clip.track, crop.camera)
                places[crop.camera] = 0 if clip.track is None else _hash(*map(str, told))
            look = 0 if crop.look is None else int(crop.look, 16)
            rows.append((number, kin, places[crop.camera], crop.time_s, look))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    kinds = (np.int32, np.uint64, np.uint64, np.float64, np.uint64)
    return Moments(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))


def _hash(*names):
    data = "\0".join(names).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

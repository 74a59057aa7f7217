"""Reads whole frames of shards: their fields, pixels and labels.

Runs in the loader's workers; imports neither torch nor webdataset.
"""

from collections.abc import Callable, Sequence

import numpy as np
import simplejpeg

from data.cropping.border import BLACK
from data.format.frame import Frame, decode_frame, decode_ids, decode_ignore
from data.format.labels import Labels, read_labels
from data.format.names import normalise
from data.loading.reader import BadSample, Members
from data.storage.shard_store import Store
from engine.errors import UserError


def count_subjects(
    names: frozenset[str], paths: Sequence[str], store: Store, key: str
) -> dict[str, int]:
    """{name: frames} of the people whom a list names, in all frames of some shards.

    Reads the JSON of every frame.

    Args:
        names: normalised.  key: "data.exclude=FILE", for messages.
    Raises:
        UserError: nobody in the shards has one of the names.
    """
    counts, files = dict.fromkeys(sorted(names), 0), FrameFiles(store)
    for path in paths:
        for index in range(len(store.index(path))):
            try:
                people = files.frame(path, index)[0].people
            except BadSample:
                continue  # the loader replaces and counts it
            for name in names.intersection(normalise(person.subject) for person in people):
                counts[name] += 1
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise UserError(
            f"{key} names '{missing[0]}', who is in none of the frames in {len(paths)} shards; "
            f"correct the name, or take it out if the frames are already gone"
        )
    return counts


class FrameFiles:
    """Reads the members of frames.

    Args:
        store: where the bytes come from.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def frame(self, path: str, index: int) -> tuple[Frame, Members]:
        """(Frame without image, ids and labels, {suffix: (offset, length)}) of a sample.

        Raises:
            BadSample: it is no frame.
        """
        members = self.store.index(path).members(index)
        if "json" not in members:
            raise BadSample("the .json member is missing")
        key = str(self.store.index(path).keys[index])
        try:
            frame = decode_frame(self.store.read(path, *members["json"]), f"{path}:{key}")
        except ValueError as error:
            raise BadSample(f"json: {error}") from None
        return frame, members

    def pixels(self, path: str, frame: Frame, members: Members) -> np.ndarray:
        """(height, width, 3) uint8; BadSample where it has not the frame's size."""
        if "jpg" not in members:
            raise BadSample("jpg is missing")
        try:
            image = simplejpeg.decode_jpeg(self.store.read(path, *members["jpg"]), "RGB")
        except ValueError as error:
            raise BadSample(f"jpg does not decode: {error}") from None
        high, wide = image.shape[:2]
        if (wide, high) != (frame.width, frame.height):
            raise BadSample(f"jpg is {wide} x {high}, the json says {frame.width} x {frame.height}")
        return image

    def decode(self, out: np.ndarray, path: str, frame: Frame, members: Members) -> None:
        """Decode a frame into the top left corner of ``out`` (S, S, 3); the rest is black."""
        image = self.pixels(path, frame, members)
        if max(image.shape[:2]) > len(out):
            raise BadSample(f"jpg is larger than the {len(out)} pixels that its shard's index says")
        high, wide = image.shape[:2]
        out[high:], out[:high, wide:] = BLACK, BLACK
        out[:high, :wide] = image

    def ids(self, path: str, frame: Frame, members: Members) -> np.ndarray | None:
        """(height, width) uint8 of who is seen where; None where it has none."""
        return self._mask("ids.png", decode_ids, path, frame, members)

    def ignored(self, path: str, frame: Frame, members: Members) -> np.ndarray | None:
        """(height, width) bool of where people may be who are not told of; None: nowhere."""
        return self._mask("ignore.png", decode_ignore, path, frame, members)

    def _mask(
        self,
        name: str,
        decode: Callable[[bytes, Frame], np.ndarray],
        path: str,
        frame: Frame,
        members: Members,
    ) -> np.ndarray | None:
        if name not in members:
            return None
        try:
            return decode(self.store.read(path, *members[name]), frame)
        except ValueError as error:
            raise BadSample(str(error)) from None

    def labels(self, path: str, frame: Frame, members: Members) -> Labels | None:
        """The Labels of a frame's people, None where it has none."""
        if "labels.npz" not in members:
            return None
        try:
            return read_labels(self.store.read(path, *members["labels.npz"]), len(frame.people))
        except ValueError as error:
            raise BadSample(f"labels.npz: {error}") from None

"""What of a video is done, on the disk: a kill costs one stretch of frames and no more."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import nn

from engine.errors import explain, failure_of
from engine.run.files import replace_file
from finetune.animation.track import Take
from finetune.inference.predictor import Predictor
from finetune.video.recover import Rows

VERSION = 4  # raised where equal keys give other rows


@dataclass(frozen=True)
class Parts:
    """What is recovered of one video, stretch by stretch, all of one digest.

    Attributes:
        folder: where they lie.  digest: of all that they depend on.
    """

    folder: Path
    digest: str

    def load(self, stretch: int) -> dict[str, Rows] | None:
        """Return {kind: Rows} of a stretch; None where it is not there, or damaged."""
        kept = read_arrays(self._path(stretch))
        try:
            return {
                kind: Rows(*(kept[f"{kind}/{one.name}"] for one in fields(Rows)))
                for kind in kept["kinds"].tolist()
            }
        except KeyError:
            return None

    def save(self, stretch: int, rows: dict[str, Rows]) -> None:
        """Keep the rows of a stretch.

        Raises:
            Failure: they cannot be written.
        """
        arrays = {"kinds": np.array(list(rows), np.str_)}
        for kind, found in rows.items():
            arrays |= {f"{kind}/{one.name}": getattr(found, one.name) for one in fields(Rows)}
        write_arrays(self._path(stretch), arrays)

    def clear_others(self) -> None:
        """Remove the stretches of other digests."""
        made = re.compile(r"rows\.([0-9a-f]{16})\.\d{5}\.npz(\.writing-\d+)?")
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            found = made.fullmatch(path.name)
            if found and found[1] != self.digest:
                path.unlink(missing_ok=True)

    def _path(self, stretch: int) -> Path:
        return self.folder / f"rows.{self.digest}.{stretch:05d}.npz"


@dataclass(frozen=True)
class Films:
    """What is drawn of one video: stretches on the way, and which films are done."""

    folder: Path

    def stretch(self, digest: str, number: int) -> Path:
        """Where the drawn frames of a stretch of a film lie."""
        return self.folder / f"film.{digest}.{number:05d}.mp4"

    def is_done(self, digest: str) -> bool:
        """Whether a film was joined once."""
        return self._mark(digest).exists()

    def mark_done(self, digest: str) -> None:
        """Say that a film is joined.

        Raises:
            Failure: it cannot be written.
        """
        try:
            self._mark(digest).touch()
        except OSError as error:
            mark = self._mark(digest)
            raise failure_of(error, f"{mark} cannot be written: {explain(error)}") from None

    def clear(self, kept: Collection[str]) -> None:
        """Remove all stretches, and what is said of films of other digests, once all is drawn."""
        made = re.compile(r"film\.([0-9a-f]{16})\.(\d{5}\.mp4(\.writing-\d+)?|done)")
        for path in self.folder.iterdir():
            found = made.fullmatch(path.name)
            if found and (found[2] != "done" or found[1] not in kept):
                path.unlink(missing_ok=True)

    def _mark(self, digest: str) -> Path:
        return self.folder / f"film.{digest}.done"


def split_stretches(count: int, length: int) -> dict[int, range]:
    """Return {number: its frames} of the stretches of a video of so many frames."""
    starts = range(0, count, length)
    return {n: range(first, min(first + length, count)) for n, first in enumerate(starts)}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file; none where it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays in a file that is there as a whole or not at all.

    Raises:
        Failure: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary, temporary.open("wb") as file:
            # pyrefly: ignore[bad-argument-type]
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def digest_words(*words: object) -> str:
    """Return 16 hex digits that change with any of the words."""
    hasher = hashlib.blake2b(f"{VERSION} {words}".encode(), digest_size=8)
    return hasher.hexdigest()


def digest_network(predictor: Predictor) -> str:
    """Return what tells a network from others: its numbers' digest."""
    return digest_weights(predictor.model)


def digest_weights(model: nn.Module) -> str:
    """Return the digest of a module's numbers."""
    hasher = hashlib.blake2b(digest_size=8)
    for name, value in model.state_dict().items():
        hasher.update(name.encode())
        hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def digest_take(take: Take) -> str:
    """Return what changes with anything of a take that is drawn."""
    hasher = hashlib.blake2b(digest_size=8)
    for track in take.tracks:
        arrays = [track.frames, track.pose, track.shape, track.translation, track.intrinsics]
        if take.confident and track.surface is not None:
            arrays.append(track.surface)
        for array in arrays:
            hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()

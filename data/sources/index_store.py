"""The indexes of videos' frames, kept: what decodes a whole video is done once.

A file a video, of arrays alone, named by the video's bytes and the decoder's version, so that a
command that resumes and the elements of a job array read what another has indexed.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import av
import numpy as np

from data.sources.frame_index import FrameIndex
from data.sources.frames import Frames
from data.sources.upright import Upright
from engine.errors import explain, failure_of
from engine.run.files import replace_file

ENDS = 1 << 20  # bytes at a video's start and end that tell it from others
VERSION = 1  # raised where an index holds something else
ARRAYS = ("times", "pts", "marks", "keys")


def digest_video(path: str) -> str:
    """Return 16 hex digits of a video's size, its first and its last mebibyte.

    Raises:
        OSError: it cannot be read.
    """
    hasher = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        hasher.update(f"{size}".encode())
        hasher.update(file.read(ENDS))
        file.seek(max(0, size - ENDS))
        hasher.update(file.read(ENDS))
    return hasher.hexdigest()


@dataclass(frozen=True)
class IndexStore:
    """A folder of indexes."""

    folder: str

    def load(self, path: str) -> Frames | None:
        """Return the frames of a video, None where no index of it is there, or a damaged one."""
        try:
            with np.load(self._path(path), allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in ARRAYS}
                width, height, *turned = kept["numbers"].tolist()
                said = tuple(kept["said"].tolist())
                start_s = float(kept["start_s"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        upright = Upright(*(bool(flag) for flag in turned))
        return Frames(
            path,
            FrameIndex(
                **arrays, start_s=start_s, width=width, height=height, upright=upright, said=said
            ),
        )

    def save(self, frames: Frames) -> None:
        """Keep the index of a video.

        Raises:
            Failure: it cannot be written.
        """
        index, path = frames.index, self._path(frames.path)
        arrays = {name: getattr(index, name) for name in ARRAYS}
        turned = index.upright
        flags = (turned.swap, turned.flip_x, turned.flip_y)
        arrays["numbers"] = np.array([index.width, index.height, *flags], np.int64)
        arrays["said"] = np.array(index.said, np.str_)
        arrays["start_s"] = np.array(index.start_s)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None

    def _path(self, video: str) -> Path:
        return Path(self.folder) / f"{digest_video(video)}-{VERSION}-{av.__version__}.npz"

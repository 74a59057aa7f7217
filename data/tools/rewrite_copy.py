"""Writing one new shard from clips of old ones, byte for byte, a clip at a time."""

import contextlib
import io
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.format.shards import write_samples
from data.format.tar import is_hidden, read_tars
from data.tools.rewrite_plan import mark_key
from engine.errors import UserError, explain, failure_of

OPEN_FILES = 64


@dataclass
class Task:
    """A shard to write: its path and its clips.

    For each clip the place in ``sources``, the bytes there, and the key's hash.

    ``prefixes`` has for each source what is put before its keys, or is None.
    """

    path: str
    sources: list[str]
    prefixes: list[str] | None
    source: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    marks: np.ndarray


def copy_clips(task: Task) -> int:
    """Write the shard of a Task; returns the number of clips."""
    with contextlib.closing(_Tars(task.sources)) as tars:
        return write_samples(task.path, _samples(task, tars))


def _samples(task: Task, tars: "_Tars") -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {suffix: bytes}) of a Task's clips."""
    rows = zip(
        task.source.tolist(),
        task.starts.tolist(),
        task.ends.tolist(),
        task.marks.tolist(),
        strict=True,
    )
    for source, start, end, mark in rows:
        name, members = tars.read(source, start, end)
        if mark_key(name) != mark:
            raise UserError(
                f"shard {task.sources[source]} changed while it was read: {name} lies at byte "
                f"{start} now"
            )
        if task.prefixes:
            name = f"{task.prefixes[source]}-{name}".replace("/", "_")
        yield name, members


class _Tars:
    """Source tars, of which the last OPEN_FILES that were used stay open."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self.files: OrderedDict[int, int] = OrderedDict()

    def read(self, source: int, start: int, end: int) -> tuple[str, dict[str, bytes]]:
        """(key, {suffix: bytes}) of the sample in these bytes of a tar."""
        path = self.paths[source]
        try:
            if source not in self.files:
                self.files[source] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.files.move_to_end(source)
            data = os.pread(self.files[source], end - start, start)
            if len(self.files) > OPEN_FILES:
                os.close(self.files.popitem(last=False)[1])
        except OSError as error:
            raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None
        if len(data) != end - start:
            raise UserError(
                f"shard {path} changed while it was read: {end - start} bytes wanted at {start}, "
                f"{len(data)} there"
            )
        try:
            return parse_sample(data)
        except tarfile.TarError as error:
            raise UserError(
                f"shard {path} changed while it was read: at byte {start}, "
                f"{str(error).splitlines()[0]}"
            ) from None

    def close(self) -> None:
        """Close all of them."""
        while self.files:
            os.close(self.files.popitem()[1])


def parse_sample(data: bytes) -> tuple[str, dict[str, bytes]]:
    """(key, {suffix: bytes}) of one sample's stretch of a tar, headers included."""
    name = ""
    members: dict[str, bytes] = {}
    # A stretch may begin with the end of one tar and the beginning of another that cat joined to
    # it.
    for tar in read_tars(io.BytesIO(data)):
        for member in tar:
            folder, _, file = member.name.rpartition("/")
            stem, _, suffix = file.partition(".")
            if member.isfile() and not is_hidden(member.name):
                name = f"{folder}/{stem}" if folder else stem
                if suffix:  # webdataset reads no file without one
                    members[suffix] = data[member.offset_data : member.offset_data + member.size]
    return name, members

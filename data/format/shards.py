"""Shards: writing them whole and finding them.

A shard is a plain WebDataset tar; ``tar tf`` and webdataset's own reader understand it.
"""

import os
from collections.abc import Iterable

from data.format.clip import Clip, encode
from data.format.index import build_index, index_path, save_index
from data.storage.fetch import is_remote
from engine.config.paths import split_paths
from engine.errors import UserError, explain, failure_of
from engine.run.files import replace_file
from engine.run.patience import expand_pattern, is_file, is_folder, list_matching
from engine.run.private import create_file


def shard_name(number: int) -> str:
    """Return the file name of the shard of a number, such as shard-000012.tar."""
    return f"shard-{number:06d}.tar"


def write_shard(path: str, clips: Iterable[Clip]) -> int:
    """Write clips as one tar and its index; see write_samples.

    Args:
        path: the tar's final name.  clips: an iterable of data.format.clip.Clip, at least one.
    """
    return write_samples(path, ((clip.key, encode(clip)) for clip in clips))


def write_samples(path: str, samples: Iterable[tuple[str, dict[str, bytes]]]) -> int:
    """Write samples as one tar and its index.

    The name appears only when the bytes are safe on disk.

    Args:
        path: the tar's final name.  samples: an iterable of (key, {suffix: bytes}), at least one.
    Returns:
        the number of samples.
    Raises:
        UserError: the folder cannot be written, the disk is full, two samples have one key.
    """
    from webdataset import (
        TarWriter,  # here, because it imports torch: 4 s that a loader's worker must not pay
    )

    seen = set()
    try:
        with (
            replace_file(path, durable=True) as temporary,
            os.fdopen(create_file(str(temporary), 0o666), "wb") as file,
        ):
            with TarWriter(file, encoder=False, mtime=0, keep_meta=True) as writer:
                for key, members in samples:
                    if key in seen:
                        raise UserError(f"{path}: two clips have the key {key}")
                    seen.add(key)
                    writer.write({"__key__": key, **members})
            if not seen:
                raise UserError(f"{path}: no clips to write")
    except OSError as error:
        raise failure_of(error, f"cannot write shard {path}: {explain(error)}") from None
    # Built whatever lies beside: an index of the tar that had this name may be as large and, to the
    # clock's tick, as old.
    index = build_index(path)
    save_index(index, index_path(path))
    return len(index)


def find_shards(spec: str | list[str]) -> list[str]:
    """Return the sorted tar paths of what ``spec`` names.

    ``DIR``, ``FILE.tar``, a glob, or several (engine.config.paths.split_paths).

    Raises:
        UserError: a path that does not exist, a folder without tars.
    """
    found = [tar for part in split_paths(spec) for tar in find_named(part)]
    if not found:
        raise UserError("no shards were named")
    refuse_twice(found)
    return found


def find_named(path: str) -> list[str]:
    """Sorted tar paths of one ``DIR``, ``FILE.tar`` or glob.

    Raises:
        UserError: it does not exist; a folder without tars.
    """
    if is_folder(path):
        tars = list_matching(path, "*.tar")
        if not tars:
            raise UserError(f"folder {path} holds no shards (*.tar)")
        return tars
    if is_file(path):
        return [path]
    tars = expand_pattern(path)
    if not tars:
        raise UserError(f"no shards at {path}: no such folder or file")
    return tars


def refuse_twice(paths: Iterable[str]) -> None:
    """Raises UserError where one tar is named twice: its validation clips would be trained on."""
    seen = {}
    for path in paths:
        real = path if is_remote(path) else os.path.realpath(path)
        if real in seen:
            raise UserError(f"shard {path} is named twice (also as {seen[real]})")
        seen[real] = path

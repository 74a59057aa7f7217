"""What the order needs of each shard, for a whole folder in one small file: ``shards.json``.

A run of ten thousand shards starts from it without opening their indexes. It is only a cache: an
entry counts while its tar has the bytes and the time it was made for, and is made anew from the
shard's index where not. A folder that is put on a server goes with it, and there it is the list of
the shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from data.format.index import read_index, with_people
from data.format.shards import find_named, refuse_twice
from data.storage import fetch
from engine.config.paths import split_paths
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import replace_file
from engine.run.private import create_file

if TYPE_CHECKING:
    from data.format.index import Index
    from data.storage.shard_store import Store

log = get_logger(__name__)
FORMAT = 1
NAME = "shards.json"
THREADS = 16  # a parallel file system or a server answers many at once


@dataclass
class Entry:
    """A shard as the order sees it.

    Attributes:
        clips: how many.  size: side in pixels of the largest crop.  digest: see
            data.format.index.Index.
        offers: the bits of data.format.index.Index.offers that any clip has.
        tar_bytes: size of the tar.  tar_time_ns: its time of change where it was indexed.
    """

    clips: int
    size: int
    digest: str
    offers: int
    tar_bytes: int
    tar_time_ns: int = 0


def list_shards(spec: str | list[str], store: Store) -> tuple[list[str], dict[str, Entry]]:
    """List the shards that ``spec`` names, with the entries of those that a catalogue knows.

    Args:
        spec: as for data.format.shards.find_shards; also URLs of tars, with braces
            ("https://host/shard-{000000..000099}.tar"), of a folder that holds shards.json
            ("s3://bucket/folder"), or one command ("pipe:aws s3 cp s3://b/shard-{00..99}.tar -").
        store: for indexes and for remote shards.
    Returns:
        ([path or URL, ...], {path: Entry})
    Raises:
        UserError: nothing is there, or a shard is damaged.
    """
    paths: list[str] = []
    known: dict[str, Entry] = {}
    for part in split_paths(spec):
        if not fetch.is_remote(part):
            here = find_named(part)
            known |= _known_here(here)
        elif fetch.is_folder(part):
            listed = _known_there(part, store)
            here = list(listed)
            known |= listed
        else:
            here = fetch.expand(part)
        paths += here
    if not paths:
        raise UserError("no shards were named")
    refuse_twice(paths)
    return paths, known


def read_catalogue(spec: str | list[str], store: Store) -> tuple[list[str], list[Entry]]:
    """Return ([path or URL, ...], [Entry, ...]) of the shards that ``spec`` names.

    See list_shards. Entries that no catalogue has are made from the indexes, and the local ones are
    kept for the next start.
    """
    paths, known = list_shards(spec, store)
    missing = [path for path in paths if path not in known]
    with ThreadPoolExecutor(THREADS) as pool:
        entries = pool.map(lambda path: _entry(path, store), missing)
        known |= dict(zip(missing, entries, strict=True))
    if missing:
        write_catalogues({path: known[path] for path in paths if not fetch.is_remote(path)})
    return paths, [known[path] for path in paths]


def entry_of(index: Index, tar_time_ns: int = 0) -> Entry:
    """Return the entry of an index."""
    return Entry(
        len(index),
        index.size,
        index.digest,
        int(np.bitwise_or.reduce(index.offers)),
        index.tar_bytes,
        tar_time_ns,
    )


def write_catalogues(entries: Mapping[str, Entry]) -> None:
    """Write ``shards.json`` into each folder of local tars, with what is known of it already.

    Args:
        entries: by path.
    """
    by_folder: dict[str, dict[str, Any]] = {}
    for path, entry in entries.items():
        by_folder.setdefault(os.path.dirname(path), {})[os.path.basename(path)] = asdict(entry)
    for folder, shards in by_folder.items():
        file = os.path.join(folder, NAME)
        listed = _load(file)
        there = [name for name in listed if os.path.exists(os.path.join(folder, name))]
        every = {name: listed[name] for name in there} | shards
        tree = {"format": FORMAT, "shards": dict(sorted(every.items()))}
        try:
            with replace_file(file) as temporary:
                descriptor = create_file(str(temporary), 0o666)
                with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                    json.dump(tree, out, indent=0)
        except OSError as error:
            log.info(
                "note: %s not written (%s); each start reads the indexes of all shards",
                file,
                explain(error),
            )


def indexed(path: str) -> Entry:
    """Return the entry of a local tar.

    Its index is built if it is missing or does not list people.
    """
    time_ns = os.stat(path).st_mtime_ns
    return entry_of(with_people(read_index(path)), time_ns)


def _entry(path: str, store: Store) -> Entry:
    time_ns = 0 if fetch.is_remote(path) else store.stat(path).st_mtime_ns
    return entry_of(store.read_index(path), time_ns)


def _known_here(paths: Sequence[str]) -> dict[str, Entry]:
    """{path: Entry} of those local tars that their folder's catalogue knows as they are now."""
    folders = {os.path.dirname(path) for path in paths}
    listed = {folder: _load(os.path.join(folder, NAME)) for folder in folders}

    def known(path: str) -> Entry | None:
        entry = listed[os.path.dirname(path)].get(os.path.basename(path))
        if not entry:
            return None
        try:
            stat = os.stat(path)
        except OSError:
            return None  # whoever reads its index tells why
        was = (entry["tar_bytes"], entry["tar_time_ns"])
        return Entry(**entry) if was == (stat.st_size, stat.st_mtime_ns) else None

    with ThreadPoolExecutor(THREADS) as pool:
        entries = list(pool.map(known, paths))
    return {path: entry for path, entry in zip(paths, entries, strict=True) if entry}


def _known_there(folder: str, store: Store) -> dict[str, Entry]:
    url = fetch.join(folder, NAME)
    try:
        # Held while it is read: another process may want its room.
        listed = _load(store.remote_cache.open(url, renew=True), url)
    except FileNotFoundError as error:
        named = fetch.join(folder, "shard-{000000..000099}.tar")
        raise UserError(
            f"{url} is not there ({error}): `python -m data index DIR` writes it before a folder "
            f"is put on a server; or name the tars, as in {named}"
        ) from None
    if not listed:
        raise UserError(f"{url} lists no shards")
    return {fetch.join(folder, name): Entry(**entry) for name, entry in listed.items()}


def _load(file: str | int, url: str | None = None) -> dict[str, dict[str, Any]]:
    """{name: fields} of a catalogue.

    Empty where a local one is missing or damaged, for it is only a cache.

    Args:
        file: path, or descriptor, which is closed.  url: where it comes from; None: from this
            machine.
    """
    try:
        with open(file, encoding="utf-8") as text:
            tree = json.load(text)
        version = tree["format"]
        if version > FORMAT:
            raise UserError(
                f"{url or file} has format {version}; this software reads up to {FORMAT}"
            )
        names = {field.name for field in fields(Entry)}
        found = {}
        for name, entry in tree["shards"].items():
            if names <= entry.keys() and "/" not in name:
                found[name] = {field: entry[field] for field in names}
        return found
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if url:
            raise UserError(f"{url} is not a catalogue of shards: {error}") from None
        return {}
    except OSError as error:
        if url:
            raise failure_of(
                error, f"the cache's copy of {url}, {file}, cannot be read: {explain(error)}"
            ) from None
        return {}

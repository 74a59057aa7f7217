"""Which shards a run reads.

Read from their catalogues, frozen into the run's folder, compared when it resumes.
"""

import difflib
import json
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from data.format.clip import KINDS
from data.format.index import PAIR_KINDS, aspects_of, crop_kinds_of
from data.format.names import decode_text
from data.sampling.left_out import LeftOut, read_record
from data.sampling.order import ORDER, Order
from data.storage.catalogue import read_catalogue
from data.storage.fetch import base_name
from data.storage.shard_store import Store
from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from engine.run.patience import read_bytes
from engine.run.run_folder import RunFolder

APART = 1  # in a manifest: training left out what shares frames with validation clips


@dataclass
class SourceManifest:
    """The shards of one source, as the order needs them.

    Attributes:
        name: from the config.  paths: the tars, or their URLs.
        counts: clips used of each (validation clips are cut from the end).
        val: [(shard, index), ...].  digests: a hash a shard.  offers: which PAIR_KINDS any
            clip can serve.
        size: side in pixels of the largest crop.  tar_bytes: of all shards together.
        crop_kinds: of which data.format.clip.KINDS there are crops.
        frames: whether there are whole frames (data.format.frame), which make no crops.
        left_out: which of the clips in ``counts`` are not trained on after all, as they share
            frames with validation clips; None: nobody looked (a run of before this was done).
    """

    name: str
    paths: list[str]
    counts: np.ndarray
    val: list[tuple[int, int]]
    digests: list[str]
    offers: list[int]
    size: int
    tar_bytes: int = 0
    crop_kinds: list[str] = field(default_factory=list)
    frames: bool = False
    left_out: LeftOut | None = None

    def record(self) -> dict[str, object]:
        """What is frozen into a run's folder: names without folders, so that shards may move."""
        record: dict[str, object] = {
            "shards": [base_name(p) for p in self.paths],
            "counts": self.counts.tolist(),
            "digests": self.digests,
            "val_clips": len(self.val),
        }
        if self.left_out:
            record["left_out"] = self.left_out.record()
        return record


def read_manifest(
    name: str, spec: str | list[str], val_clips: int, crop_kind_bits: int, store: Store
) -> SourceManifest:
    """Index a source's shards.

    Args:
        name: of the source.  spec: see data.storage.catalogue.read_catalogue.
        val_clips: clips at the end that are never trained on (at most a tenth of them).
        crop_kind_bits: mask of the bits of Index.offers that count, see data.pairs.offer_bits.
        store: data.storage.shard_store.Store.
    """
    paths, entries = read_catalogue(spec, store)
    counts = np.array([entry.clips for entry in entries], np.int64)
    spare = min(val_clips, int(counts.sum()) // 10)
    ends = np.cumsum(counts)
    kept = np.clip(ends[-1] - spare - (ends - counts), 0, counts)
    held = [(s, i) for s, entry in enumerate(entries) for i in range(kept[s], entry.clips)]
    all_bits = int(np.bitwise_or.reduce([entry.offers for entry in entries]))
    bits = all_bits & crop_kind_bits
    offers = []
    for p in range(len(PAIR_KINDS)):
        if any(bits >> (2 * k + p) & 1 for k in range(len(KINDS))):
            offers.append(p)
    return SourceManifest(
        name,
        paths,
        kept,
        held,
        [entry.digest for entry in entries],
        offers,
        max(entry.size for entry in entries),
        sum(entry.tar_bytes for entry in entries),
        crop_kinds_of(all_bits),
        bool(aspects_of(all_bits)),
    )


def freeze(order: Order, path: str | Path) -> None:
    """Write the manifest into the run's folder, or compare it with what is there.

    Raises:
        UserError: the shards are not those the run began with.
    """
    now = {source.name: source.record() for source in order.sources}
    path = Path(path)
    known = read_bytes(path)
    if known is None:
        record = {"format": 1, "order": ORDER, "lanes": order.lanes, "apart": APART, "sources": now}
        try:
            write_file(path, json.dumps(record))
        except OSError as error:
            raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
        return
    frozen = json.loads(known)
    if frozen.get("order", 1) != ORDER:
        raise UserError(
            f"{path}: the run began with order {frozen.get('order', 1)} of samples, this version "
            f"draws order "
            f"{ORDER}; resume with the version it began with (environment.json), or start a new run"
        )
    then = {name: _rename_keys(record) for name, record in frozen["sources"].items()}
    for name in then.keys() | now.keys():
        if then.get(name) != now.get(name):
            raise UserError(
                f"the shards are not those the run began with: "
                f"{_difference(name, then.get(name), now.get(name))}; "
                f"give back the old ones or start a new run ({path} lists them)"
            )


def _rename_keys(record):
    """A source's record as it is written now: runs of earlier versions call the count otherwise."""
    names = {"held_out": "val_clips"}
    return {names.get(name, name): value for name, value in record.items()}


def _difference(name, then, now):
    if then is None or now is None:
        return f"source '{name}' is {'new' if then is None else 'gone'}"
    old, new = (list(zip(side["shards"], side["digests"], strict=True)) for side in (then, now))
    names = {shard for shard, _ in old}, {shard for shard, _ in new}
    for was, has in zip_longest(old, new):
        if was != has:
            if was and was[0] not in names[1]:
                words = f"{was[0]} is missing"
            elif has and has[0] not in names[0]:
                words = f"{has[0]} is new"
            else:
                same = was and has and was[0] == has[0]
                words = (
                    f"{(has or was)[0]} is {'of other contents' if same else 'in another place'}"
                )
            return f"source '{name}' had {len(old)} shards and has {len(new)}; {words}"
    if then["val_clips"] != now["val_clips"]:
        return (
            f"source '{name}' had {then['val_clips']} validation clips and now has "
            f"{now['val_clips']} (data.val_clips)"
        )
    old, new = (side.get("left_out", {}).get("clips", 0) for side in (then, now))
    return (
        f"source '{name}' left out {old} training clips that share frames with validation clips, "
        f"and now {new}: an index or a clip's JSON is another"
    )


def began_without_left_out(path: str | Path) -> bool:
    """Whether a run's manifest is of before training left out what validation clips share.

    Such a run goes on as it began. False where there is no manifest yet.
    """
    known = read_bytes(Path(path))
    if known is None:
        return False
    return not json.loads(known).get("apart")


def read_left_out(path: str | Path) -> dict[str, np.ndarray]:
    """{digest of a shard: numbers of its clips} that a run left out, by its manifest.

    Empty where there is no manifest, or nothing was left out.
    """
    known = read_bytes(Path(path))
    found: dict[str, np.ndarray] = {}
    for record in json.loads(known)["sources"].values() if known is not None else ():
        left = read_record(record.get("left_out"), path)
        for shard in np.unique(left.shards).tolist():
            found[record["digests"][shard]] = left.indexes[left.shards == shard]
    return found


def quarantined_shards(folder: str | Path, order: Order) -> frozenset[str]:
    """Return the frozenset of the paths of the shards in a run's bad_shards.json.

    Its operator wrote that file; the set is empty where there is none.

    A shard is listed by its file's name, or by its path or URL where several sources have one of
    that name.

    Raises:
        UserError: it is not a JSON list of names, one of them is not a shard of the run or more
            than one, or no shard is left.
    """
    path = RunFolder(folder).quarantine
    try:
        names = json.loads(decode_text(path.read_bytes()))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{path} is not a JSON list of shard names, such as ["shard-000007.tar"]')
    known = {}
    for shard in (shard for source in order.sources for shard in source.paths):
        known.setdefault(base_name(shard), []).append(shard)
    every = {shard for shards in known.values() for shard in shards}
    found = frozenset(_shard_of(name, known, every, path) for name in names)
    for source in order.sources:
        if found.issuperset(source.paths):
            raise UserError(
                f"{path} lists all {len(source.paths)} shards of source '{source.name}': nothing "
                f"is left of it"
            )
    return found


def _shard_of(name, known, every, path):
    """The one shard that a name in bad_shards.json stands for.

    Args:
        known: {base name: [path or URL, ...]}.  every: all paths and URLs.  path: of the list, for
            messages.
    """
    if name in every:
        return name
    shards = known.get(name, [])
    if len(shards) == 1:
        return shards[0]
    if shards:
        raise UserError(
            f"{path} lists {name}, and {len(shards)} shards of this run have that name: list the "
            f"path of the one "
            f"that is meant, of {', '.join(shards)}"
        )
    near = difflib.get_close_matches(name, known, 1) or [min(known)]
    raise UserError(
        f"{path} lists {name}, which is not a shard of this run; {len(every)} are, "
        f"such as {near[0]}"
    )

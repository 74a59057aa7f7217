"""Which clips the probe fits, chooses and tests by, and what it must not have seen."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.bodies.models import LAYOUTS
from data.format.clip import Clip
from data.loading.crops import CropAugmentConfig, CropReader, CropRules
from data.loading.reader import BadSample, NoPair
from data.sampling.order import PAIR, Order, numbers
from data.sampling.seen import Seen
from data.storage.catalogue import read_catalogue
from data.storage.fetch import is_remote
from data.storage.shard_store import Store
from engine.errors import UserError
from pretrain import encoders

SEED = 0  # of the split and of the random encoder
CROPS = 4  # of a clip at most
TEST_SHARE, CHOICE_SHARE = 0.25, 0.2  # of all clips; of those to fit, where lambda is chosen


@dataclass
class Split:
    """The n labelled crops of a probe, up to CROPS of each clip.

    Attributes:
        store: data.storage.shard_store.Store.  paths: the shards.  clip: (n,) number of the clip.
            places: (n, 3) shard, index in it, crop.
        joints: (n, K, 3) float64 metres about the first, in the camera's frame (of a left hand:
            mirrored).
        part: (n,) 0 to fit, 1 to choose lambda by, 2 to test.  size: pixels of the largest crop.
    """

    store: Store
    paths: list
    clip: np.ndarray
    places: np.ndarray
    joints: np.ndarray
    part: np.ndarray
    size: int


def read_split(
    shards: str,
    clips: int,
    crops: str,
    store: Store,
    exclude: Collection[str] = frozenset(),
) -> Split:
    """Returns the Split of labelled shards.

    Args:
        shards: see data.storage.catalogue.list_shards.  clips: how many, no fewer.  crops: "body"
            or "hand".
        store: data.storage.shard_store.Store.  exclude: subjects whose clips are passed over.
    Raises:
        UserError: there are not so many usable clips, or too few people to part them.
    """
    paths, entries = read_catalogue(shards, store)
    all_places = [(shard, i) for shard, entry in enumerate(entries) for i in range(entry.clips)]
    reader, found = open_reader(crops, store, exclude), []
    for number in numbers(SEED, PAIR, 3).permutation(len(all_places)):
        if len(found) == clips:
            break
        shard, index = all_places[number]
        try:
            clip, _, labels, known = reader.usable(paths[shard], index)
        except (BadSample, NoPair):
            continue  # another clip does as well; too few of them is an error below
        crops_here = sorted(numbers(SEED, PAIR, int(number), 3).permutation(known)[:CROPS].tolist())
        found.append(
            (
                clip.subject,
                [(shard, index, crop) for crop in crops_here],
                [read_joints(clip, labels, crop) for crop in crops_here],
            )
        )
    if len(found) < clips:
        raise UserError(
            f"probe.clips={clips}, but {shards} has {len(found)} clips (of {len(all_places)}) with "
            f"labelled "
            f"{crops} crops that show enough of the person; give more shards or a lower probe.clips"
        )
    subjects, places, joints = zip(*found, strict=True)
    clip = np.repeat(np.arange(clips), [len(here) for here in places])
    return Split(
        store,
        paths,
        clip,
        np.concatenate(places),
        np.concatenate(joints),
        part_people(subjects, shards)[clip],
        max(entry.size for entry in entries),
    )


def part_people(subjects: Sequence[str], shards: str) -> np.ndarray:
    """Returns the (n,) part of each clip; all clips of a subject are in one.

    ``shards``: for the error.

    People are taken in the order of a hash of their names, so that another clip more changes the
    part of few.
    """
    names, member, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    order = np.argsort([encoders.digest(name) for name in names])
    before = np.concatenate([[0], np.cumsum(counts[order])[:-1]]) / len(subjects)
    number = np.where(
        before < TEST_SHARE,
        2,
        np.where(before < TEST_SHARE + CHOICE_SHARE * (1 - TEST_SHARE), 1, 0),
    )
    if set(number) != {0, 1, 2}:
        raise UserError(
            f"the {len(subjects)} clips in {shards} are of {len(names)} people, too few to part "
            f"them into fit, "
            f"choice and test without somebody in two of them"
        )
    part = np.empty(len(names), np.int64)
    part[order] = number
    return part[member]


def open_reader(crops: str, store: Store, exclude: Collection[str] = frozenset()) -> CropReader:
    """Returns a reader of labelled crops as they are; see read_split."""
    order: Any = None  # what is read is named, so nothing asks which clip fills a slot
    return CropReader(order, CropRules(crops), CropAugmentConfig(), 0, store, frozenset(exclude))


def read_joints(clip: Clip, labels: Mapping[str, np.ndarray], crop: int) -> np.ndarray:
    """Returns (K, 3) float64 metres of a crop's joints about the first, in the camera's frame.

    Of a body those that errors are measured on, of a hand its own; of a left hand as in a mirror.
    Which they are is known by the body model that the labels name.
    """
    kind = clip.crops[crop].kind
    layout = LAYOUTS.find(str(labels["body_model"].ravel()[0]))
    points = np.asarray(labels["joints"][int(labels["instant"][crop])], np.float64)
    points = points[layout.index_part(kind)]
    points = points @ np.asarray(clip.crops[crop].Rt, np.float64)[:, :3].T
    points -= points[:1]
    return points * [-1, 1, 1] if kind == "left_hand" else points


def refuse_overlap(shards: str, order: Order, store: Store) -> None:
    """Raise UserError where a shard of the probe is among those that a run trains on.

    Or a clip of the same key.

    Keys are compared with the training shards on this machine's disks; of remote ones the
    indexes are not fetched for it.
    """
    paths, entries = read_catalogue(shards, store)
    keys = {str(name): path for path in paths for name in store.index(path).keys}
    digests = {entry.digest: path for path, entry in zip(paths, entries, strict=True)}
    for source in order.sources:
        for path, digest in zip(source.paths, source.digests, strict=True):
            if digest in digests:
                raise UserError(
                    f"probe.shards: {digests[digest]} is the shard {path} of source "
                    f"'{source.name}', which is "
                    f"trained on; the probe wants shards of its own"
                )
            for name in () if is_remote(path) else map(str, store.index(path).keys):
                if name in keys:
                    raise UserError(
                        f"probe.shards: clip {name} of {keys[name]} is also in {path} of source "
                        f"'{source.name}', which is trained on; synthetic humans want another seed="
                    )


def digests_of(shards: str, store: Store) -> dict[str, str]:
    """Returns {digest: path} of the shards of a spec."""
    return {entry.digest: path for path, entry in zip(*read_catalogue(shards, store), strict=True)}


def refuse_seen(seen: Seen, digests: Mapping[str, str], name: str, who: str) -> None:
    """Raises UserError where a shard was trained on.

    ``seen``: data.sampling.seen.Seen. ``digests``: {digest: path}. ``name``: of the key.
    """
    for digest, path in digests.items():
        if digest in seen.clips:
            raise UserError(
                f"{name}: {path} is a shard of which {who} was trained on {seen.clips[digest]} "
                f"clips; the probe "
                f"wants shards of its own"
            )

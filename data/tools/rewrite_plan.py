"""Which clips make which new shards.

What ``python -m data shuffle | merge | split`` decide before a byte is written.

A clip is a number, its place among those of all sources, so the plan of 100 million clips is 4 GB
of arrays.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.format.clip import decode_meta
from data.format.frame import decode_frame, is_frame
from data.format.index import read_index
from data.format.names import normalise
from data.format.shards import shard_name
from data.format.tar import BLOCK
from data.sampling.order import numbers
from data.tools.process_pool import spread
from engine.errors import UserError, explain, failure_of
from engine.logging import progress

REWRITE = 1000  # a purpose beside those of data.sampling.order
KEEP, EXCLUDED, UNREADABLE, NO_CLIP = range(4)
DROPPED = {
    EXCLUDED: "of excluded subjects",
    UNREADABLE: "with unreadable JSON, so that nobody knows whose they are",
    NO_CLIP: "without JSON, which are not clips",
}


@dataclass
class Survey:
    """What is to be known of one source shard.

    Attributes:
        digest: of its index.  ends: (n,) int64, the byte after each clip in the tar. A clip begins
            where the one before it
        ends, so that headers of long names, which come before a member's own, belong to it.
        marks: (n,) uint64 hashes of the keys.  fate: (n,) uint8, KEEP or why a clip is dropped.
    """

    digest: str
    ends: np.ndarray
    marks: np.ndarray
    fate: np.ndarray


@dataclass
class Plan:
    """Which clips make which new shards.

    Attributes:
        paths: the source tars.  names: of each that no other has, for keys and for the parts of a
            tar.
        firsts: (sources + 1,) number of the first clip of each.  ends, marks: of all clips, see
            Survey.
        order: (kept,) numbers of the clips in their new order.  shards: names of the new ones.
        cuts: (shards + 1,) where in ``order`` each begins.
    """

    paths: list[str]
    names: list[str]
    firsts: np.ndarray
    ends: np.ndarray
    marks: np.ndarray
    order: np.ndarray
    shards: list[str]
    cuts: np.ndarray

    def source(self, clips: np.ndarray) -> np.ndarray:
        """Which source each clip lies in."""
        return np.searchsorted(self.firsts, clips, "right") - 1

    def starts(self, clips: np.ndarray) -> np.ndarray:
        """The byte in its tar at which each clip begins."""
        return np.where(np.isin(clips, self.firsts), 0, self.ends[clips - 1])


def survey_shard(path: str, subjects: frozenset[str] = frozenset()) -> Survey:
    """The Survey of a shard; reads the clips' JSON only where ``subjects`` are to be left out.

    Raises:
        UserError: the shard is cut off, cannot be read, or is not a tar of clips.
    """
    index = read_index(path)
    count = len(index)
    ends, fate = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    try:
        with open(path, "rb") as file:
            for i in range(count):
                members = index.members(i)
                offset, length = max(members.values())
                ends[i] = -(-(offset + length) // BLOCK) * BLOCK
                offset, length = members.get("json", (0, 0))
                if not length:
                    fate[i] = NO_CLIP
                elif subjects:
                    file.seek(offset)
                    fate[i] = _whose(file.read(length), f"{path}:{index.keys[i]}", subjects)
    except OSError as error:
        raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None
    return Survey(
        index.digest,
        ends,
        np.array([mark_key(name) for name in index.keys.tolist()], np.uint64),
        fate,
    )


def _whose(data: bytes, where: str, subjects: frozenset[str]) -> int:
    """What becomes of a clip, or of a whole frame, by its JSON: KEEP, EXCLUDED or UNREADABLE."""
    try:
        if is_frame(data):
            people = [person.subject for person in decode_frame(data, where).people]
        else:
            people = [decode_meta(data, where).subject]
        return EXCLUDED if not subjects.isdisjoint(map(normalise, people)) else KEEP
    except ValueError:
        return UNREADABLE


def survey_all(paths: Sequence[str], subjects: frozenset[str], workers: int) -> list[Survey]:
    """The Survey of each shard, from several processes."""
    found: dict[int, Survey] = {}
    with progress.bar(len(paths), "shard", description="looking") as bar:
        for number, survey in spread(
            functools.partial(survey_shard, subjects=subjects), paths, workers
        ):
            found[number] = survey
            bar.update()
    return [found[number] for number in range(len(paths))]


def mark_key(name: str) -> int:
    """The 64-bit hash of a clip's key."""
    return int.from_bytes(
        hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little"
    )


def describe_dropped(fate: np.ndarray) -> str:
    """How many clips are dropped and why, in words; empty where none is."""
    counts = np.bincount(fate, minlength=len(DROPPED) + 1)
    return ", ".join(f"{counts[why]} {words}" for why, words in DROPPED.items() if counts[why])


def make_plan(
    command: str,
    clips_per_shard: int,
    seed: int,
    paths: list[str],
    surveys: Sequence[Survey],
) -> Plan:
    """The Plan of "shuffle", "merge" or "split"; only "shuffle" uses the seed."""
    firsts = np.cumsum([0, *(len(survey.fate) for survey in surveys)])
    order = np.flatnonzero(np.concatenate([survey.fate for survey in surveys]) == KEEP)
    names = distinct_names(paths)
    if command == "split":
        shards, cuts = [], [0]
        inside = np.searchsorted(order, firsts)  # where each source's kept clips begin
        for name, first, last in zip(names, inside, inside[1:], strict=False):
            parts = -(-int(last - first) // clips_per_shard)
            width = max(3, len(str(parts - 1)))
            shards += [f"{name}-{part:0{width}d}.tar" for part in range(parts)]
            cuts += (
                np.linspace(first, last, parts + 1).round().astype(int)[1:].tolist()
                if parts
                else []
            )
    else:
        if command == "shuffle":
            order = order.astype(np.int32 if firsts[-1] < 2**31 else np.int64)
            numbers(seed, REWRITE, 0).shuffle(order)
        cuts = [*range(0, len(order), clips_per_shard), len(order)]
        shards = [shard_name(number) for number in range(len(cuts) - 1)]
    ends, marks = (
        np.concatenate([getattr(survey, name) for survey in surveys]) for name in ("ends", "marks")
    )
    return Plan(paths, names, firsts, ends, marks, order, shards, np.array(cuts))


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each tar, without dots and slashes.

    Its file's, with as many folders before it as tell all apart.
    """
    parts = [os.path.realpath(path).removesuffix(".tar").split(os.sep) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]).replace(".", "_") for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}-{p[-1]}".replace(".", "_") for number, p in enumerate(parts)]


def refuse_collisions(plan: Plan) -> None:
    """UserError where two clips of one key would come into one new shard."""
    for shard, first, last in zip(plan.shards, plan.cuts, plan.cuts[1:], strict=False):
        clips = plan.order[first:last]
        clips = clips[np.argsort(plan.marks[clips], kind="stable")]
        for at in np.flatnonzero(plan.marks[clips[1:]] == plan.marks[clips[:-1]]):
            pair = np.sort(clips[at : at + 2])
            sources = plan.source(pair)
            one, two = (plan.paths[source] for source in sources)
            inside = pair - plan.firsts[sources]
            name, other = (
                str(read_index(path).keys[i]) for path, i in zip((one, two), inside, strict=True)
            )
            if name == other:  # else their hashes are equal by chance
                raise UserError(
                    f"{one} and {two} both have a clip {name}, and both would come into {shard}: "
                    f"rename=true puts "
                    "the tar's name before each key"
                )

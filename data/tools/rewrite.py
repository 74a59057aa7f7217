"""``python -m data shuffle | merge | split``: the clips of some shards in other shards, copied byte
for byte.

All shards are looked at first, and who goes where is decided before a byte is written: a clip is a
number, its place in the sources, so the plan of 100 million clips is 4 GB of arrays. Each new shard
is then made by one process from the old tars, a clip at a time. Its bytes follow from the sources
and the recipe alone, so what a killed command left is gone on with.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import signal
import sys
import tarfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from data.config import read_excluded
from data.format.clip import decode_meta
from data.format.index import read_index
from data.format.names import normalise
from data.format.shards import find_shards, shard_name, write_samples
from data.format.tar import BLOCK, is_hidden, read_tars
from data.sampling.order import numbers
from data.sampling.subjects import describe_excluded, match_names
from data.storage.shard_store import Store
from data.tools.cleanup import clear_leftovers
from data.tools.process_pool import spread
from engine.config.parser import key, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging import progress

RECIPE, RECIPE_FORMAT = "rewritten.json", 1
REWRITE = 1000  # a purpose beside those of data.order
OPEN_FILES = 64
KEEP, EXCLUDED, UNREADABLE, NO_CLIP = range(4)
DROPPED = {
    EXCLUDED: "of excluded subjects",
    UNREADABLE: "with unreadable JSON, so that nobody knows whose they are",
    NO_CLIP: "without JSON, which are no clips",
}


@dataclass
class MergeConfig:
    out: str = key(
        "", "folder for the new shards; empty, missing, or begun by this very command", path="one"
    )
    clips_per_shard: int | None = key(None, "clips of a new shard; split: at most so many", low=1)
    exclude: str = key(
        "", "file of subjects, one a line, whose clips are left out for good", path="one"
    )
    rename: bool = key(False, "put the name of the tar that a clip comes from before its key")
    workers: int | None = key(
        None, "processes that copy; default: the cores of this machine", low=1
    )

    def check(self):
        if not self.out:
            raise UserError("out= is not set: out=DIR names the folder for the new shards")

    def recipe(self):
        """{key: value} of what decides where a clip goes, apart from the sources and the
        excluded."""
        return {"clips_per_shard": self.clips_per_shard, "rename": self.rename}


@dataclass
class ShuffleConfig(MergeConfig):
    clips_per_shard: int | None = key(
        None, "clips of a new shard; default: as many shards as there were", low=1
    )
    seed: int = key(0, "another seed gives another order", low=0, high=2**63 - 1)

    def recipe(self):
        return {**super().recipe(), "seed": self.seed}


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

    paths: list
    names: list
    firsts: np.ndarray
    ends: np.ndarray
    marks: np.ndarray
    order: np.ndarray
    shards: list
    cuts: np.ndarray

    def source(self, clips):
        return np.searchsorted(self.firsts, clips, "right") - 1

    def starts(self, clips):
        return np.where(np.isin(clips, self.firsts), 0, self.ends[clips - 1])


@dataclass
class Task:
    """A shard to write: path, and for each of its clips the place in ``sources``, the bytes there,
    and the key's hash.

    ``prefixes`` has for each source what is put before its keys, or is None.
    """

    path: str
    sources: list
    prefixes: list | None
    source: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    marks: np.ndarray


def shuffle(argv):
    """All clips in one random order, over new shards."""
    return _rewrite("shuffle", *parse_keys(ShuffleConfig, argv, "data shuffle"))


def merge(argv):
    """Clips in the order they lie, over new shards of equal size."""
    return _rewrite("merge", *parse_keys(MergeConfig, argv, "data merge"))


def split(argv):
    """Each shard cut into parts."""
    return _rewrite("split", *parse_keys(MergeConfig, argv, "data split"))


def _rewrite(command, config, named):
    """Survey, plan, write; returns the exit code.

    Raises:
        UserError: sources that are missing, damaged or changed, an output folder of something else
            or that cannot be written, two clips of one key in one new shard.
    """
    if command != "shuffle" and config.clips_per_shard is None:
        raise UserError(
            f"clips_per_shard is not set: python -m data {command} needs to know how many clips a "
            f"shard shall have"
        )
    paths = find_shards(named)
    _refuse_out(config.out, paths)
    subjects = _excluded(config, paths)
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # clears half-written files
    try:
        surveys = _survey_all(paths, subjects, config.workers or os.cpu_count() or 1)
        fate = np.concatenate([survey.fate for survey in surveys])
        if not (fate == KEEP).any():
            raise UserError(f"no clip is left of {len(fate)}: {_dropped(fate)}")
        if config.clips_per_shard is None:
            config.clips_per_shard = -(-int((fate == KEEP).sum()) // len(paths))
        plan, digests = (
            make_plan(command, config, paths, surveys),
            [survey.digest for survey in surveys],
        )
        del surveys  # their arrays are in the plan now
        if not config.rename:
            _refuse_collisions(plan)
        _claim(config.out, _recipe(command, config, subjects, plan, digests))
        _write(config, plan)
    finally:
        signal.signal(signal.SIGTERM, before)
    size = sum(os.path.getsize(os.path.join(config.out, name)) for name in plan.shards)
    print(
        f"{len(plan.order)} clips in {len(plan.shards)} shards, {size / 1e6:.1f} MB, in "
        f"{config.out}; "
        f"dropped: {_dropped(fate) or 'none'}"
    )
    if command == "shuffle":
        print(
            "note: data.val_clips keeps back the last clips, which are now of people that are "
            "trained on as well"
        )
    return 0


def _excluded(config, paths):
    """The subjects that are left out; each is somebody in the shards, or a UserError says which is
    not."""
    if not config.exclude:
        return frozenset()
    subjects = read_excluded(config.exclude, "exclude")
    found = match_names(
        subjects, paths, Store(None), f"exclude={config.exclude}"
    )  # no URLs here, so no cache
    print(describe_excluded(found, config.exclude))
    return subjects


def survey_shard(path, subjects=frozenset()):
    """The Survey of a shard; reads the clips' JSON only where ``subjects`` are to be left out.

    Raises:
        UserError: the shard is cut off, cannot be read, or is no tar of clips.
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
        index.digest, ends, np.array([_mark(name) for name in index.keys.tolist()], np.uint64), fate
    )


def _whose(data, where, subjects):
    try:
        return EXCLUDED if normalise(decode_meta(data, where).subject) in subjects else KEEP
    except ValueError:
        return UNREADABLE


def _survey_all(paths, subjects, workers):
    surveys = [None] * len(paths)
    with progress.bar(len(paths), "shard", description="looking") as bar:
        for number, survey in spread(
            functools.partial(survey_shard, subjects=subjects), paths, workers
        ):
            surveys[number] = survey
            bar.update()
    return surveys


def _mark(name):
    return int.from_bytes(
        hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little"
    )


def _dropped(fate):
    counts = np.bincount(fate, minlength=len(DROPPED) + 1)
    return ", ".join(f"{counts[why]} {words}" for why, words in DROPPED.items() if counts[why])


def make_plan(command, config, paths, surveys):
    """The Plan of "shuffle", "merge" or "split" with ``config.clips_per_shard`` set."""
    firsts = np.cumsum([0, *(len(survey.fate) for survey in surveys)])
    order = np.flatnonzero(np.concatenate([survey.fate for survey in surveys]) == KEEP)
    names = distinct_names(paths)
    if command == "split":
        shards, cuts = [], [0]
        inside = np.searchsorted(order, firsts)  # where each source's kept clips begin
        for name, first, last in zip(names, inside, inside[1:], strict=False):
            parts = -(-int(last - first) // config.clips_per_shard)
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
            numbers(config.seed, REWRITE, 0).shuffle(order)
        cuts = [*range(0, len(order), config.clips_per_shard), len(order)]
        shards = [shard_name(number) for number in range(len(cuts) - 1)]
    ends, marks = (
        np.concatenate([getattr(survey, name) for survey in surveys]) for name in ("ends", "marks")
    )
    return Plan(paths, names, firsts, ends, marks, order, shards, np.array(cuts))


def distinct_names(paths):
    """A name for each tar, without dots and slashes: its file's, with as many folders before it as
    tell all apart."""
    parts = [os.path.realpath(path).removesuffix(".tar").split(os.sep) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]).replace(".", "_") for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}-{p[-1]}".replace(".", "_") for number, p in enumerate(parts)]


def _refuse_collisions(plan):
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


def _refuse_out(out, paths):
    """UserError where ``out`` is or lies in a folder of the sources, or holds what no such command
    wrote."""
    real = os.path.realpath(out)
    for path in paths:
        for folder in {
            os.path.realpath(os.path.dirname(path)),
            os.path.dirname(os.path.realpath(path)),
        }:
            if os.path.commonpath([real, folder]) == folder:
                where = "is the folder" if real == folder else f"lies in {folder}, the folder"
                raise UserError(f"out={out} {where} of the source {path}; name one outside of it")
    try:
        there = os.listdir(out) if os.path.exists(out) else []
    except OSError as error:
        raise failure_of(error, f"out={out} cannot be used: {explain(error)}") from None
    others = sorted(name for name in there if ".writing-" not in name)
    if others and RECIPE not in others:
        raise UserError(
            f"out={out} holds {others[0]}, which this command did not make (there is no {RECIPE}); "
            f"name another "
            "folder"
        )


def _recipe(command, config, subjects, plan, digests):
    who = hashlib.blake2b("\n".join(sorted(subjects)).encode(), digest_size=8).hexdigest()
    return {
        "format": RECIPE_FORMAT,
        "command": command,
        **config.recipe(),
        "exclude": f"{len(subjects)} subjects, {who}"
        if subjects
        else "",  # not their names: they want to be forgotten
        "sources": [f"{name} {digest}" for name, digest in zip(plan.names, digests, strict=True)],
    }


def _claim(out, recipe):
    """Make the folder, refuse one of another recipe, clear what a killed command left, and note the
    recipe."""
    path = os.path.join(out, RECIPE)
    try:
        os.makedirs(out, exist_ok=True)
        if os.path.exists(path):
            _compare(recipe, path, out)
        clear_leftovers(out)
        temporary = f"{path}.writing-{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(recipe, file, indent=1)
        os.replace(temporary, path)
    except OSError as error:
        raise failure_of(error, f"out={out} cannot be written: {explain(error)}") from None


def _compare(recipe, path, out):
    try:
        with open(path, encoding="utf-8") as file:
            made = json.load(file)
        if made["format"] > RECIPE_FORMAT:
            raise UserError(
                f"{path} has format {made['format']}; this software reads up to {RECIPE_FORMAT}"
            )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); name another folder with out=") from None
    for name in recipe:
        if recipe[name] != made.get(name):
            mine, theirs = recipe[name], made.get(name)
            if name == "sources":
                mine, theirs = _first_difference(mine, theirs)
            raise UserError(
                f"out={out} was begun with {name}={theirs}, now it is {mine} ({path}); name "
                f"another folder, or set "
                "it as it was"
            )


def _first_difference(mine, theirs):
    """Both lists' entries, in words, at the first place where they differ."""
    at = next(
        (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b),
        min(len(mine), len(theirs)),
    )
    return [
        f"'{entries[at]}'" if at < len(entries) else f"{len(entries)} shards"
        for entries in (mine, theirs)
    ]


def _write(config, plan):
    """Write the new shards that are not there yet."""
    counts = np.diff(plan.cuts)
    todo = [
        number
        for number, name in enumerate(plan.shards)
        if not _whole(os.path.join(config.out, name), counts[number])
    ]
    if len(todo) < len(plan.shards):
        print(f"{len(plan.shards) - len(todo)} of {len(plan.shards)} shards are there already")
    if not todo:
        return
    workers = min(config.workers or os.cpu_count() or 1, len(todo))
    with progress.bar(int(counts[todo].sum()), "clip", description="copying") as bar:
        for _, copied in spread(copy, (_task(config, plan, number) for number in todo), workers):
            bar.update(copied)


def _whole(path, count):
    return os.path.exists(path) and len(read_index(path)) == count


def _task(config, plan, number):
    clips = plan.order[plan.cuts[number] : plan.cuts[number + 1]]
    used, source = np.unique(plan.source(clips), return_inverse=True)
    prefixes = [plan.names[s] for s in used] if config.rename else None
    return Task(
        os.path.join(config.out, plan.shards[number]),
        [plan.paths[s] for s in used],
        prefixes,
        source,
        plan.starts(clips),
        plan.ends[clips],
        plan.marks[clips],
    )


def copy(task):
    """Write the shard of a Task; returns the number of clips."""
    with contextlib.closing(_Tars(task.sources)) as tars:
        return write_samples(task.path, _samples(task, tars))


def _samples(task, tars):
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
        if _mark(name) != mark:
            raise UserError(
                f"shard {task.sources[source]} changed while it was read: {name} lies at byte "
                f"{start} now"
            )
        if task.prefixes:
            name = f"{task.prefixes[source]}-{name}".replace("/", "_")
        yield name, members


class _Tars:
    """Source tars, of which the last OPEN_FILES that were used stay open."""

    def __init__(self, paths):
        self.paths, self.files = paths, OrderedDict()

    def read(self, source, start, end):
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

    def close(self):
        while self.files:
            os.close(self.files.popitem()[1])


def parse_sample(data):
    """(key, {suffix: bytes}) of one sample's stretch of a tar, headers included."""
    name, members = "", {}
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

"""``python -m data shuffle | merge | split``: the clips of some shards in other shards.

They are copied byte for byte.

All shards are read first, and which clip goes where is decided before a byte is written
(data.tools.rewrite_plan). Each new shard is then made by one process from the old tars, a clip at a
time (data.tools.rewrite_copy). Its bytes follow from the sources and the recipe alone, so the same
command resumes after a kill.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import numpy as np

from data.config import read_excluded
from data.format.index import read_index
from data.format.shards import find_shards
from data.sampling.subjects import describe_excluded, match_names
from data.storage.shard_store import Store
from data.tools.cleanup import clear_leftovers
from data.tools.process_pool import spread
from data.tools.rewrite_copy import Task, copy_clips
from data.tools.rewrite_plan import (
    KEEP,
    Plan,
    describe_dropped,
    make_plan,
    refuse_collisions,
    survey_all,
)
from engine.config.parser import key, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import write_file

RECIPE, RECIPE_FORMAT = "rewritten.json", 1

log = get_logger(__name__)


@dataclass
class MergeConfig:
    """Keys of merge and split."""

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

    def check(self) -> None:
        """Raises UserError where ``out`` is not set."""
        if not self.out:
            raise UserError("out= is not set: out=DIR names the folder for the new shards")

    def recipe(self) -> dict[str, object]:
        """Return {key: value} of what decides where a clip goes.

        Apart from the sources and the excluded.
        """
        return {"clips_per_shard": self.clips_per_shard, "rename": self.rename}


@dataclass
class ShuffleConfig(MergeConfig):
    """Keys of shuffle."""

    clips_per_shard: int | None = key(
        None, "clips of a new shard; default: as many shards as there were", low=1
    )
    seed: int = key(0, "another seed gives another order", low=0, high=2**63 - 1)

    def recipe(self) -> dict[str, object]:
        """As of merge, and the seed."""
        return {**super().recipe(), "seed": self.seed}


def shuffle(argv: list[str]) -> int:
    """All clips in one random order, over new shards."""
    return _rewrite("shuffle", *parse_keys(ShuffleConfig, argv, "data shuffle"))


def merge(argv: list[str]) -> int:
    """Clips in the order they lie, over new shards of equal size."""
    return _rewrite("merge", *parse_keys(MergeConfig, argv, "data merge"))


def split(argv: list[str]) -> int:
    """Each shard cut into parts."""
    return _rewrite("split", *parse_keys(MergeConfig, argv, "data split"))


def _rewrite(command: str, config: MergeConfig, named: list[str]) -> int:
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
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        surveys = survey_all(paths, subjects, config.workers or os.cpu_count() or 1)
        fate = np.concatenate([survey.fate for survey in surveys])
        if not (fate == KEEP).any():
            raise UserError(f"no clip is left of {len(fate)}: {describe_dropped(fate)}")
        if config.clips_per_shard is None:
            config.clips_per_shard = -(-int((fate == KEEP).sum()) // len(paths))
        seed = config.seed if isinstance(config, ShuffleConfig) else 0
        plan = make_plan(command, config.clips_per_shard, seed, paths, surveys)
        digests = [survey.digest for survey in surveys]
        del surveys  # their arrays are in the plan now
        if not config.rename:
            refuse_collisions(plan)
        _claim(config.out, _recipe(command, config, subjects, plan, digests))
        _write(config, plan)
    finally:
        signal.signal(signal.SIGTERM, before)
    size = sum(os.path.getsize(os.path.join(config.out, name)) for name in plan.shards)
    print(
        f"{len(plan.order)} clips in {len(plan.shards)} shards, {size / 1e6:.1f} MB, in "
        f"{config.out}; "
        f"dropped: {describe_dropped(fate) or 'none'}"
    )
    if command == "shuffle":
        log.info(
            "note: data.val_clips keeps back the last clips, which are now of people that are "
            "trained on as well"
        )
    return 0


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End so that half-written files are cleared."""
    sys.exit(128 + number)


def _excluded(config: MergeConfig, paths: list[str]) -> frozenset[str]:
    """The subjects that are left out.

    Each is somebody in the shards, or a UserError says which is not.
    """
    if not config.exclude:
        return frozenset()
    subjects = read_excluded(config.exclude, "exclude")
    found = match_names(
        subjects, paths, Store(None), f"exclude={config.exclude}"
    )  # no URLs here, so no cache
    log.info(describe_excluded(found, config.exclude))
    return subjects


def _refuse_out(out: str, paths: Sequence[str]) -> None:
    """Raise UserError where ``out`` is or lies in a folder of the sources.

    Or where it holds what no such command wrote.
    """
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


def _recipe(
    command: str,
    config: MergeConfig,
    subjects: Iterable[str],
    plan: Plan,
    digests: Sequence[str],
) -> dict[str, object]:
    """What is written beside the shards, and compared when the command resumes."""
    names = sorted(subjects)
    who = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
    return {
        "format": RECIPE_FORMAT,
        "command": command,
        **config.recipe(),
        # Not their names: they want to be forgotten.
        "exclude": f"{len(names)} subjects, {who}" if names else "",
        "sources": [f"{name} {digest}" for name, digest in zip(plan.names, digests, strict=True)],
    }


def _claim(out: str, recipe: Mapping[str, object]) -> None:
    """Make the folder and note the recipe.

    Refuses a folder of another recipe and clears what a killed command left.
    """
    path = os.path.join(out, RECIPE)
    try:
        os.makedirs(out, exist_ok=True)
        if os.path.exists(path):
            _compare(recipe, path, out)
        clear_leftovers(out)
        write_file(path, json.dumps(recipe, indent=1))
    except OSError as error:
        raise failure_of(error, f"out={out} cannot be written: {explain(error)}") from None


def _compare(recipe: Mapping[str, object], path: str, out: str) -> None:
    """UserError where the folder was begun with another recipe."""
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
            if isinstance(mine, list) and isinstance(theirs, list):
                mine, theirs = _first_difference(mine, theirs)
            raise UserError(
                f"out={out} was begun with {name}={theirs}, now it is {mine} ({path}); name "
                f"another folder, or set "
                "it as it was"
            )


def _first_difference(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, str]:
    """Both lists' entries, in words, at the first place where they differ."""
    at = 0
    while at < min(len(mine), len(theirs)) and mine[at] == theirs[at]:
        at += 1

    def describe(entries: Sequence[str]) -> str:
        return f"'{entries[at]}'" if at < len(entries) else f"{len(entries)} shards"

    return describe(mine), describe(theirs)


def _write(config: MergeConfig, plan: Plan) -> None:
    """Write the new shards that are not there yet."""
    counts = np.diff(plan.cuts)
    todo = [
        number
        for number, name in enumerate(plan.shards)
        if not _is_whole(os.path.join(config.out, name), counts[number])
    ]
    if len(todo) < len(plan.shards):
        done = len(plan.shards) - len(todo)
        log.info("%d of %d shards are there already", done, len(plan.shards))
    if not todo:
        return
    workers = min(config.workers or os.cpu_count() or 1, len(todo))
    with progress.bar(int(counts[todo].sum()), "clip", description="copying") as bar:
        for _, copied in spread(
            copy_clips, (_task(config, plan, number) for number in todo), workers
        ):
            bar.update(copied)


def _is_whole(path: str, count: int) -> bool:
    """Whether a new shard is there already."""
    return os.path.exists(path) and len(read_index(path)) == count


def _task(config: MergeConfig, plan: Plan, number: int) -> Task:
    """The Task of one new shard."""
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

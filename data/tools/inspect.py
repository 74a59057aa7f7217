"""``python -m data verify | stats | preview``: looks into shards.

Are they whole, what do they hold, how do they look.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.format.index import aspects_of
from data.format.shards import find_shards
from data.format.verify import check_shard
from data.sampling.pairs import CROPS, PairRules
from data.storage.cache import CacheConfig
from data.storage.catalogue import indexed, list_shards, write_catalogues
from data.storage.shard_store import Store
from data.tools.frame_stats import describe_frames, merge_frames, tally_frames
from data.tools.process_pool import spread_in_order
from data.tools.stats import describe, merge, tally_shard
from engine.config.parser import key, parse_keys, section
from engine.errors import UserError, explain, failure_of

Answer = TypeVar("Answer")


@dataclass
class IndexConfig:
    """Holds the keys of ``python -m data index``."""

    workers: int | None = key(
        None, "processes that read; default: the cores of this machine", low=1
    )


@dataclass
class VerifyConfig:
    """Holds the keys of ``python -m data verify``."""

    cache: CacheConfig = section(CacheConfig)
    workers: int | None = key(
        None, "processes that read; default: the cores of this machine", low=1
    )


@dataclass
class StatsConfig:
    """Holds the keys of ``python -m data stats``."""

    out: str = key("", "also draw histograms into this PNG file", path="one")
    pairs: PairRules = section(PairRules)
    cache: CacheConfig = section(CacheConfig)
    workers: int | None = key(
        None, "processes that read; default: the cores of this machine", low=1
    )

    def check(self) -> None:
        """Raise UserError where out is set and does not name a PNG file."""
        if self.out:
            _check_png(self.out)


@dataclass
class ShownPairs(PairRules):
    """Shows everything unless a rule says otherwise.

    Training's own defaults would hide all hands.
    """

    crops: str = key("any", "which crops make pairs", choices=tuple(CROPS))
    angle_min_deg: float = key(
        0.0, "cross-view: least angle between the cameras, seen from the person", low=0, high=180
    )
    angle_max_deg: float = key(180.0, "cross-view: largest such angle", low=0, high=180)
    gap_max_s: float = key(1e9, "cross-pose: most time between the two instants, seconds", low=0)


@dataclass
class PreviewConfig:
    """Holds the keys of ``python -m data preview``."""

    out: str = key("preview.png", "the PNG file to write", path="one")
    rows: int = key(8, "clips shown, spread evenly over the shards", low=1, high=64)
    seed: int = key(0, "another seed shows other clips and pairs", low=0)
    pairs: ShownPairs = section(ShownPairs)
    cache: CacheConfig = section(CacheConfig)

    def check(self) -> None:
        """Raise UserError where out does not name a PNG file."""
        _check_png(self.out)


def index(argv: list[str]) -> int:
    """Index every tar and write each folder's shards.json, so that no run has to."""
    config, named = parse_keys(IndexConfig, argv, "data index")
    paths = find_shards(named)
    entries = dict(
        zip(paths, spread_over_processes(indexed, paths, config.workers, "index"), strict=True)
    )
    write_catalogues(entries)
    total = sum(entry.tar_bytes for entry in entries.values())
    print(
        f"{len(paths)} shards, {sum(entry.clips for entry in entries.values())} clips, "
        f"{total / 1e9:.3g} GB: indexed"
    )
    return 0


def verify(argv: list[str]) -> int:
    """Read every byte of every shard; prints what is wrong. Returns 1 where anything is."""
    config, named = parse_keys(VerifyConfig, argv, "data verify")
    paths = _named(named, config.cache)
    clips = crops = damaged_clips = damaged_shards = 0
    for report in spread_over_processes(
        partial(look, check_shard, config.cache), paths, config.workers, "verify"
    ):
        clips, crops = clips + report.clips, crops + report.crops
        damaged_clips += len({name for name, _ in report.problems if name})
        damaged_shards += bool(report.problems)
        for line in [*report.lines(), *(f"note: {note}" for note in report.notes)]:
            tqdm.write(line)
    looked = f"{len(paths)} shards, {clips} clips, {crops} crops"
    if not damaged_shards:
        print(f"{looked}: all whole")
        return 0
    print(
        f"{looked}: something is wrong in {damaged_shards} shard{'s' * (damaged_shards > 1)}; "
        f"bad clips: {damaged_clips}"
    )
    return 1


def stats(argv: list[str]) -> int:
    """Print what the shards hold and what the rules for pairs keep.

    Draw it where out=FILE.png is given.
    """
    config, named = parse_keys(StatsConfig, argv, "data stats")
    paths = _named(named, config.cache)
    if _hold_frames(paths, config.cache):
        if config.out:
            raise UserError(f"out={config.out}: histograms are of clips, and {paths[0]} has frames")
        work = partial(look, tally_frames, config.cache)
        tallies = spread_over_processes(work, paths, config.workers, "stats")
        print(describe_frames(merge_frames(tallies)))
        return 0
    tally = merge(
        spread_over_processes(
            partial(look, tally_shard, config.cache), paths, config.workers, "stats"
        )
    )
    if not tally.clips:
        raise UserError(
            f"{paths[0]}: no sample has readable JSON; `python -m data verify` names the reasons"
        )
    print(describe(tally, config.pairs))
    if config.out:
        from data.tools.histograms import (
            draw,  # here, because matplotlib takes a second that a loader's worker must not pay
        )

        save_image(draw(tally, config.pairs), config.out)
    return 0


def preview(argv: list[str]) -> int:
    """Draw a contact sheet of pairs, or of whole frames where the first shard holds such."""
    from data.tools.contact_sheet import contact_sheet
    from data.tools.frame_sheet import frame_sheet

    config, named = parse_keys(PreviewConfig, argv, "data preview")
    store = Store(config.cache.open())
    paths = list_shards(named, store)[0]
    if _hold_frames(paths, config.cache):
        sheet = frame_sheet(paths, config.rows, config.seed, store)
    else:
        sheet = contact_sheet(paths, config.rows, config.seed, config.pairs, store)
    save_image(sheet, config.out)
    return 0


def _hold_frames(paths, cache):
    """Whether the first of the shards holds whole frames, not clips."""
    offers = Store(cache.open()).index(paths[0]).offers
    return bool(aspects_of(int(np.bitwise_or.reduce(offers))))


def _named(named, cache):
    """Paths and URLs of the shards that were named."""
    return list_shards(named, Store(cache.open()))[0]


def look(work: Callable[[str], Answer], cache: CacheConfig, path: str) -> Answer:
    """work(path), for a URL with the path of the file that was fetched."""
    with Store(cache.open()).kept(path) as here:
        return work(here)


def spread_over_processes(
    work: Callable[[str], Answer], paths: Sequence[str], workers: int | None, words: str
) -> Iterator[Answer]:
    """Yield work(path) in the order of the paths, from several processes where that helps.

    Shows progress on a terminal.
    """
    count = min(len(paths), workers or os.cpu_count() or 1)
    yield from tqdm(spread_in_order(work, paths, count), words, len(paths), disable=None)


def save_image(image: Image.Image, path: str) -> None:
    """Write a PIL image as PNG.

    Raises:
        UserError: the folder is missing or cannot be written.
    """
    try:
        image.save(path)
    except OSError as error:
        raise failure_of(error, f"out={path}: cannot be written: {explain(error)}") from None
    print(f"wrote {path} ({image.width} x {image.height})")


def _check_png(path):
    if not path.lower().endswith(".png"):
        raise UserError(f"out={path}: the file's name does not end in .png")

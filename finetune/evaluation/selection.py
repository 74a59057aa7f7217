"""Which clips an evaluation judges by: those of people whom the weights have not seen."""

import functools
from collections.abc import Iterable

import numpy as np

from data.config import CropDataConfig, CropPairDataConfig, SourceConfig
from data.sampling.frame_order import FrameOrder
from data.sampling.held_out import drop_near
from data.sampling.manifest import read_left_out
from data.sampling.order import Order
from data.sampling.seen import Seen
from data.sampling.subjects import leave_out_people
from data.storage.catalogue import read_catalogue
from data.storage.fetch import is_remote
from data.storage.shard_store import Store
from engine.config.parser import flat
from engine.config.paths import refuse_commands, split_paths
from engine.errors import UserError
from engine.run.run_folder import RunFolder
from finetune.inference.predictor import Predictor
from finetune.verb_config import EvaluateConfig


def choose_data(config: EvaluateConfig, predictor: Predictor) -> CropDataConfig:
    """Return the CropDataConfig of what is evaluated, one of pairs for runs on two views.

    The run's own rules on the shards that were named.
    """
    began = predictor.config.data
    if predictor.checkpoint.is_file() and not config.data.shards:
        raise UserError(
            f"run={config.run} is weights alone, whose shards nobody knows: set data.shards="
        )
    shards = {"data": SourceConfig(config.data.shards)} if config.data.shards else began.named()
    if not config.data.shards:
        of_run = {f"data.{name}": value for name, value in flat(began).items()}
        refuse_commands(
            of_run, set(), str(RunFolder(predictor.folder).config), config.allow_commands
        )
    if isinstance(began, CropPairDataConfig):
        return CropPairDataConfig(
            sources=shards,
            rules=began.rules,
            augment=began.augment,
            exclude=began.exclude,
            pairs=began.pairs,
        )
    return CropDataConfig(
        sources=shards, rules=began.rules, augment=began.augment, exclude=began.exclude
    )


def take_all(order: Order | FrameOrder) -> None:
    """Let the validation clips of an order be all its clips."""
    for source in order.sources:
        ends = (
            np.bincount([shard for shard, _ in source.val], minlength=len(source.paths))
            + source.counts
        )
        source.val = [(shard, index) for shard, end in enumerate(ends) for index in range(end)]


def leave_out(order: Order | FrameOrder, seen: Seen) -> None:
    """Take the clips that a training saw from the validation ones of an order.

    ``seen``: data.sampling.seen.Seen of its weights.
    """
    for source in order.sources:
        source.val = [
            (shard, index)
            for shard, index in source.val
            if index >= seen.clips.get(source.digests[shard], 0)
        ]


def leave_out_near(
    order: Order, seen: Iterable[Seen], predictor: Predictor, store: Store
) -> list[str]:
    """Take the clips that share frames with what trainings saw from an order's validation ones.

    The same rule as training's (data.sampling.held_out), against the shards of the test and those
    of the run as far as they lie on this machine.

    Args:
        predictor: of the run that is tested. What it left out does not count as seen, unless it
            began from other weights: nobody knows what those left out.
    Returns:
        a sentence on what was left out, if anything was.
    """
    both = functools.reduce(Seen.union, seen)
    manifest = RunFolder(predictor.folder).manifest
    left_out = {} if predictor.config.init else read_left_out(manifest)
    own = _own_shards(predictor.config.data, store)
    gone = drop_near(order, both.clips, left_out, store, own)
    if not gone:
        return []
    return [
        f"{gone} clips were left out: they share frames with clips that the run or its "
        f"pre-training was trained on."
    ]


def _own_shards(began: CropDataConfig, store: Store) -> dict[str, str]:
    """{digest: path} of a run's shards that lie on this machine; no command of its is run."""
    found = {}
    for source in began.named().values():
        if any(is_remote(part) for part in split_paths(source.shards)):
            continue
        try:
            paths, entries = read_catalogue(source.shards, store)
        except UserError:
            continue  # moved or deleted; what is known of it is in ``seen``
        found |= {entry.digest: path for path, entry in zip(paths, entries, strict=True)}
    return found


def leave_out_known(order: Order | FrameOrder, seen: Iterable[Seen], store: Store) -> list[str]:
    """Take the clips of people whom trainings saw from the validation ones of an order.

    In whatever shards these people are.

    Args:
        seen: a data.sampling.seen.Seen of each training.
    Returns:
        sentences on what was left out, and on what could not be compared.
    """
    both = functools.reduce(Seen.union, seen)
    notes, unlisted = [], len(both.clips.keys() - both.listed)
    if unlisted:
        notes.append(
            f"The people of {unlisted} of the {len(both.clips)} shards that the run and what it "
            f"began from were "
            f"trained on are not listed: they may be in this test."
        )
    if not both.people:
        return notes
    gone, unknown = leave_out_people(order, both.people, store)
    if gone:
        notes.append(
            f"{gone} clips of other shards were left out: they show people that the run or its "
            f"pre-training was "
            f"trained on."
        )
    if unknown:
        notes.append(
            f"In {unknown} shards of this test people are not listed (`python -m data index` does "
            f"it): they may "
            f"be people that the run was trained on."
        )
    return notes

"""What the fixed held-out pairs say: their loss, and how much of it the reference takes away.

The reference gain of a pair is its loss with a stranger's reference, less its loss with the true
one; masks, crops and ``a`` are the same. Zero: the second image is not looked at. It overstates
what the reference gives, because a wrong one misleads: a run without references (or an MAE) is the
honest comparison.
"""

import numpy as np
import torch

from data.format.index import PAIR_KINDS
from data.loading.reader import TAGS
from pretrain import objective

AT_ONCE = 64  # pairs


def strangers(tags, subjects):
    """For each held-out pair, the row whose reference it gets instead of its own: -1 where there is
    none.

    Rows swap within a kind and a source, since a reference of another source could be told by its
    camera alone. The choice depends on the held-out pairs and on nothing else, and no subject gets
    a reference of itself.

    Args:
        tags: (R, ...) as data.loading.reader.TAGS has them.  subjects: R names.
    Returns:
        (R,) int64.
    """
    out = np.full(len(tags), -1, np.int64)
    subjects = np.asarray(subjects)
    groups = tags[:, [TAGS.index("kind"), TAGS.index("source")]]
    for group in np.unique(groups, axis=0):
        rows = np.flatnonzero((groups == group).all(1))
        rows = rows[np.argsort(subjects[rows], kind="stable")]
        names, counts = np.unique(subjects[rows], return_counts=True)
        if len(names) < 2:
            continue
        # Sorted by subject, a turn by the largest subject's count takes each row to another
        # subject's, and each reference is used once; where one subject has more than half of the
        # rows, its rows take turns at those of the others.
        turned = np.roll(rows, -counts.max())
        for row, other in zip(rows, turned, strict=True):
            if subjects[row] == subjects[other]:
                others = rows[subjects[rows] != subjects[row]]
                other = others[np.flatnonzero(rows == row)[0] % len(others)]
            out[row] = other
    return out


@torch.no_grad()
def evaluate(trainer):
    """{"val/KIND", "reference_gain/KIND", "reference_gain/KIND_person"}: means over the fixed
    pairs of all ranks.

    ``_person``: over person patches alone, each weighing by the share of it that the person covers;
    pairs without a masked patch on the person are left out of it. A kind in which nobody has a
    stranger has no gain.

    Raises:
        engine.training.trainer.BrokenOff: the run was asked to stop.
    """
    module, arrays, swap = trainer.step_module, trainer.val, trainer.strangers
    kinds, world = len(PAIR_KINDS), trainer.processes.world
    # As many rows on each rank, so that all call the network equally often: what is beyond the end
    # is not counted.
    rows = np.arange(trainer.processes.rank, -(-len(swap) // world) * world, world)
    total = torch.zeros(3, kinds, 2, dtype=torch.float64, device=trainer.device)
    for first in range(0, len(rows), AT_ONCE):
        if trainer.stop:
            break  # ``total`` tells all ranks
        trainer.watch.alive()
        here = rows[first : first + AT_ONCE] % len(swap)
        mine = torch.from_numpy(rows[first : first + AT_ONCE] < len(swap)).to(trainer.device)
        batch = {name: values[here] for name, values in arrays.items()}
        kind = torch.from_numpy(batch["tags"][:, TAGS.index("kind")].astype(np.int64)).to(
            trainer.device
        )
        has = torch.from_numpy(swap[here] >= 0).to(trainer.device) & mine
        a, b, keep, masked, person, seen = module.pairs(trainer.to_device(batch))
        # A row without a stranger keeps its own reference; it is not counted.
        other = np.where(swap[here] >= 0, swap[here], here)
        for name in ("pixels", "numbers", "mask", "noise"):
            of_b = slice(arrays[name].shape[1] // 2, None)
            batch[name][:, of_b] = arrays[name][other, of_b]
        wrong = module.pairs(trainer.to_device(batch))
        weights = [
            objective.patch_weight(person, trainer.config.objective.background_weight),
            person,
        ]
        (loss, on_person), (loss_wrong, on_person_wrong) = (
            module.losses(a, image, keep, masked, part, weights)
            for image, part in ((b, seen), (wrong[1], wrong[-1]))
        )
        on_it = has & (person.gather(1, masked).sum(1) > 0)
        for place, (values, counted) in enumerate(
            ((loss, mine), (loss_wrong - loss, has), (on_person_wrong - on_person, on_it))
        ):
            chosen = (kind[None] == torch.arange(kinds, device=kind.device)[:, None]) & counted
            total[place] += torch.stack(
                [(values.double() * chosen).sum(1), chosen.double().sum(1)], 1
            )
    names = ("val/{}", "reference_gain/{}", "reference_gain/{}_person")
    sums = np.reshape(trainer.total(total.flatten()), total.shape).tolist()
    return {
        name.format(kind): value / count
        for name, of_kinds in zip(names, sums, strict=True)
        for kind, (value, count) in zip(PAIR_KINDS, of_kinds, strict=True)
        if count
    }

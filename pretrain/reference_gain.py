"""What the fixed validation pairs say: their loss, and how much of it the reference takes away.

The reference gain of a pair is its loss with a mismatched reference, minus its loss with the true
one; masks, crops and ``a`` are the same. Zero: the second image is not used. It overstates
what the reference gives, because a wrong one misleads: a run without references (or an MAE) is the
honest comparison: validation pairs have the same masks in both, so ``val/`` of the one less that
of the other is what the reference gives.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.format.index import PAIR_KINDS
from data.loading.reader import TAGS
from engine.training.shares import Shares
from engine.training.task import Arrays, Batch

if TYPE_CHECKING:
    from pretrain.objectives.completion import Completion

AT_ONCE = 64  # pairs


def choose_mismatched(tags: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """Return for each validation pair the row whose reference it gets instead of its own.

    -1 where there is none.

    Rows swap within a kind and a source, since a reference of another source could be recognised by
    its camera alone. The choice depends on the validation pairs and on nothing else, and no subject
    gets a reference of itself.

    Args:
        tags: (R, ...) as data.loading.reader.TAGS has them.  subjects: R names.
    Returns:
        (R,) int64.
    """
    out = np.full(len(tags), -1, np.int64)
    people = np.asarray(subjects)
    groups = tags[:, [TAGS.index("kind"), TAGS.index("source")]]
    for group in np.unique(groups, axis=0):
        rows = np.flatnonzero((groups == group).all(1))
        rows = rows[np.argsort(people[rows], kind="stable")]
        names, counts = np.unique(people[rows], return_counts=True)
        if len(names) < 2:
            continue
        # Sorted by subject, a rotation by the largest subject's count takes each row to another
        # subject's, and each reference is used once; where one subject has more than half of the
        # rows, its rows take turns at those of the others.
        rotated = np.roll(rows, -counts.max())
        for row, other in zip(rows, rotated, strict=True):
            if people[row] == people[other]:
                others = rows[people[rows] != people[row]]
                other = others[np.flatnonzero(rows == row)[0] % len(others)]
            out[row] = other
    return out


@torch.no_grad()
def evaluate(
    objective: "Completion",
    val: Arrays,
    mismatched: np.ndarray,
    to_device: Callable[[Arrays], Batch],
    shares: Shares,
) -> dict[str, float]:
    """Return means over the fixed pairs of all ranks.

    {"val/KIND", "val/KIND_person", "reference_gain/KIND", "reference_gain/KIND_person"}.

    ``_person``: over person patches alone, each weighing by the share of it that the person covers;
    pairs without a masked patch on the person are left out of it. A kind in which no row has a
    mismatched reference has no gain.

    Args:
        mismatched: (R,), as ``choose_mismatched`` gives it.
    Raises:
        engine.training.shares.BrokenOff: the run was asked to stop.
    """
    kinds, processes = len(PAIR_KINDS), shares.processes
    # As many rows on each rank, so that all call the network equally often: what is beyond the end
    # is not counted.
    padded = -(-len(mismatched) // processes.world) * processes.world
    rows = np.arange(processes.rank, padded, processes.world)
    total = torch.zeros(4, kinds, 2, dtype=torch.float64, device=processes.device)
    for first in range(0, len(rows), AT_ONCE):
        if shares.stop:
            break  # ``total`` tells all ranks
        shares.watch.alive()
        total += _compare(objective, val, mismatched, rows[first : first + AT_ONCE], to_device)
    names = ("val/{}", "val/{}_person", "reference_gain/{}", "reference_gain/{}_person")
    sums = np.reshape(shares.total(total.flatten()), total.shape).tolist()
    out = {}
    for name, of_kinds in zip(names, sums, strict=True):
        for kind, (value, count) in zip(PAIR_KINDS, of_kinds, strict=True):
            if count:
                out[name.format(kind)] = value / count
    return out


def _compare(objective, val, mismatched, rows, to_device):
    """(4, kinds, 2) sum and count over some rows of loss and gain, all patches and person patches.

    Rows beyond the end count for nothing.
    """
    here, inside = rows % len(mismatched), rows < len(mismatched)
    swapped = mismatched[here] >= 0
    batch = {name: values[here] for name, values in val.items()}
    tensors = to_device(batch)
    kind = tensors["tags"][:, TAGS.index("kind")].long()
    mine = torch.from_numpy(inside).to(kind.device)
    has = torch.from_numpy(swapped & inside).to(kind.device)
    a, b, keep, masked, person, seen = objective.pairs(tensors)
    # A row without a mismatched reference keeps its own; it is not counted.
    other = np.where(swapped, mismatched[here], here)
    for name in ("pixels", "numbers", "mask", "noise"):
        of_b = slice(val[name].shape[1] // 2, None)
        batch[name][:, of_b] = val[name][other, of_b]
    wrong = objective.pairs(to_device(batch))
    weights = [objective.weigh_patches(person), person]
    loss, on_person = objective.losses(a, b, keep, masked, seen, weights)
    loss_wrong, on_person_wrong = objective.losses(a, wrong[1], keep, masked, wrong[-1], weights)
    on_it = person.gather(1, masked).sum(1) > 0
    counted = (
        (loss, mine),
        (on_person, mine & on_it),
        (loss_wrong - loss, has),
        (on_person_wrong - on_person, has & on_it),
    )
    kinds = torch.arange(len(PAIR_KINDS), device=kind.device)
    found = []
    for values, which in counted:
        chosen = (kind[None] == kinds[:, None]) & which
        found.append(torch.stack([(values.double() * chosen).sum(1), chosen.double().sum(1)], 1))
    return torch.stack(found)

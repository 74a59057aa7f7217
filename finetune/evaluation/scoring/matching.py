"""Who is who: predicted people matched to true ones by 2D joints, as AGORA's script does.

Source: pixelite1201/agora_evaluation matching.py (Patel et al., AGORA, CVPR 2021). Its order and
its counts are kept: a pair whose boxes hardly overlap counts against the predictions that are left,
and a prediction whose nearest person does not count is a false positive.
"""

from dataclasses import dataclass

import numpy as np

JOINTS = 24  # that distances are taken of
OVERLAP_MIN = 0.1


@dataclass
class Matching:
    """What became of an image's people.

    Attributes:
        partner: (G,) prediction of each true person, -1 where there is none or the person does not
            count.
        false_positives: predictions without a person.
    """

    partner: np.ndarray
    false_positives: int


def match_people(found: list[np.ndarray], true: list[np.ndarray], counts: np.ndarray) -> Matching:
    """Return the greedy matching of an image, nearest pairs first.

    Args:
        found: of each prediction (J, 2) pixels.  true: of each person (K, 2) pixels.
        counts: (G,) bool, which people count.
    """
    partner = np.full(len(true), -1, np.int64)
    used, settled = np.zeros(len(found), bool), np.zeros(len(true), bool)
    # The script's distance is the largest singular value of the differences.
    pairs = [f[:JOINTS] - t[:JOINTS] for f in found for t in true]
    errors = np.array([np.linalg.norm(pair, 2) for pair in pairs])
    order = np.argsort(errors, kind="stable")
    apart = 0
    for place in order:
        if settled.all() or used.sum() + apart >= len(found):
            break
        mine, theirs = divmod(int(place), len(true))
        overlaps = overlap_boxes(found[mine], true[theirs]) >= OVERLAP_MIN
        if overlaps and (used[mine] or settled[theirs]):
            continue
        if not overlaps:
            apart += 1
        if not counts[theirs]:
            settled[theirs] = True
        elif overlaps:
            partner[theirs], used[mine], settled[theirs] = mine, True, True
    return Matching(partner, int((~used).sum()))


def overlap_boxes(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of boxes around points, a pixel added to each side.

    Args:
        a: (J, 2), b: (K, 2) pixels.
    """
    low, high = np.maximum(a.min(0), b.min(0)), np.minimum(a.max(0), b.max(0))
    both = np.maximum(0, high - low + 1).prod()
    sizes = (np.ptp(a, axis=0) + 1).prod() + (np.ptp(b, axis=0) + 1).prod()
    return float(both / (sizes - both))

"""Who is who in a frame: found people paired with true ones by where they are in the image.

A pair may be made where the boxes around both people's keypoints overlap by 0.1 (intersection over
union, as in AGORA's script) and costs the mean distance of the keypoints over the longer side of
the true person's box. Pairs are those of least total cost, where a person who stays alone costs 1
(Kuhn 1955; AGORA's script takes the nearest pair first). People who do not count take part: who is
found of them is neither right nor wrong, as of COCO's people to be ignored. Two who are found for
one person are one right and one false. Who is found of nobody is neither where at least half of the
box in the image lies where the frame says nothing of people (its ``ignore``).

Points behind the camera, or far beside the image, lie anywhere: all are moved to at most an image's
size beyond its border, as boxes in frames are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.find.assignment import assign_rows
from finetune.evaluation.scene.truth import TrueFrame, TruePerson
from finetune.evaluation.scoring.matching import OVERLAP_MIN, overlap_boxes
from finetune.person import Person

ALONE = 1.0  # cost of a person who is not paired
NEAREST_M = 0.05  # depth that points nearer to the camera, or behind it, are projected from
IGNORED_SHARE = 0.5  # of a found person's box, that lies where nobody is told of
HIT, FALSE, IGNORED = range(3)


@dataclass(eq=False)
class SceneMatching:
    """What became of a frame's people.

    Attributes:
        partner: (G,) number of the found person of each true one, -1 where nobody was found.
        state: (D,) HIT, FALSE or IGNORED of each found person.
    """

    partner: np.ndarray
    state: np.ndarray

    def list_untold(self) -> np.ndarray:
        """Return (D,) bool: who was found of nobody, where a frame says nothing of people."""
        paired = np.isin(np.arange(len(self.state)), self.partner)
        return (self.state == IGNORED) & ~paired


def match_frame(found: Sequence[Person], true: TrueFrame) -> SceneMatching:
    """Return the pairs of a frame; see the module.

    Args:
        found: of the true people's body model.
    """
    height, width = true.image.shape[:2]
    size = np.array([width, height], np.float64)
    mine = [project_held(person.keypoints, person.intrinsics, size) for person in found]
    cost = np.full((len(true.people), len(found)), np.inf)
    for row, person in enumerate(true.people):
        theirs = _place_person(person, true.K, size)
        for column, points in enumerate(mine):
            cost[row, column] = _compare(points, theirs, person.keypoints is not None)
    partner = np.full(len(true.people), -1, np.int64)
    state = np.full(len(found), FALSE, np.int64)
    for row, column in assign_rows(cost, ALONE):
        partner[row] = column
        state[column] = HIT if true.people[row].counts else IGNORED
    if true.ignore is not None:
        for column in np.flatnonzero(state == FALSE):
            if _is_untold(mine[column], true.ignore):
                state[column] = IGNORED
    return SceneMatching(partner, state)


def project_held(points: np.ndarray, K: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return (N, 2) pixels of (N, 3) points, at most an image's size beyond its border.

    Args:
        size: (2,) width and height.
    """
    moved = np.array(points, np.float64)
    moved[:, 2] = np.maximum(moved[:, 2], NEAREST_M)
    flat = moved @ np.asarray(K, np.float64).T
    return np.clip(flat[:, :2] / flat[:, 2:], -size, 2 * size)


def _place_person(person: TruePerson, K: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(N, 2) pixels of the keypoints, or where they are not labelled of the box's corners."""
    if person.keypoints is None:
        return np.clip(person.box.reshape(2, 2), -size, 2 * size)
    return project_held(person.keypoints, K, size)


def _compare(mine: np.ndarray, theirs: np.ndarray, labelled: bool) -> float:
    """What a pair costs; inf where their boxes hardly overlap."""
    if overlap_boxes(mine, theirs) < OVERLAP_MIN:
        return np.inf
    if not labelled:
        mine = np.stack([mine.min(0), mine.max(0)])
    distance = np.linalg.norm(mine - theirs, axis=1).mean()
    return float(distance / max(np.ptp(theirs, axis=0).max(), 1.0))


def _is_untold(points: np.ndarray, ignore: np.ndarray) -> bool:
    """Whether the box around points lies where a frame says nothing of people."""
    height, width = ignore.shape
    low = np.clip(np.floor(points.min(0)), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(points.max(0)), low + 1, [width, height]).astype(int)
    return float(ignore[low[1] : high[1], low[0] : high[0]].mean()) >= IGNORED_SHARE

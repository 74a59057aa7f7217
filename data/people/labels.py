"""The labels of a clip of synthetic humans, and how they are stored.

``KEY.labels.npz`` of such a clip holds, for T instants, N crops (in the clip's order) and anny's B
= 104 joints:

    body_model      text, "anny"
    pose            (T, B, 3) float32 rotation vectors relative to the parent, in axes that are the
    world's at rest root            (T, 3) float32 metres, where the pelvis is
    phenotype       (6,) float32: gender, age, muscle, weight, height, proportions
    face            (52,) float32 facial actions
    joints          (T, B, 3) float32 metres, world
    instant         (N,) uint8, which instant each crop shows
    joint_visible   (N, B) uint8: 0 outside the crop, 1 inside but hidden, 2 seen
    vertex_visible  (N, 1715) uint8, a bit per vertex of the body (13718, high bit first): seen in
    the crop visible         (N,) float32 share of the surface, of the body or for hand crops of
    that hand, that is seen

``data.bodies.anny_body.AnnyBody()(pose, root, phenotype[None], face[None])`` gives the 13718
vertices and the joints again. World: metres, z up, the floor at 0. Crops' K and Rt are in the clip
itself. The visible surface (clothes, hair) lies up to 6 cm outside the body's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.format.clip import MASK_SIDE
from engine.geometry import project

if TYPE_CHECKING:
    from data.people.maker import Person
    from data.people.render import Images
    from data.people.template import Template

# A joint lies inside the body: it counts as seen if the surface before it is at most this far in
# front.
JOINT_DEPTH_M = 0.12
OUTSIDE, HIDDEN, SEEN = range(3)


def make_masks(label: np.ndarray) -> np.ndarray:
    """Return (N, 64, 64) bool of label images (N, size, size).

    True where at least half of a cell is the person.

    A person so thin or far that no cell is half covered keeps each cell it touches, so that it does
    not vanish.
    """
    share = np.stack(
        [
            cv2.resize(
                (image > 0).astype(np.float32),
                (MASK_SIDE, MASK_SIDE),
                interpolation=cv2.INTER_AREA,
            )
            for image in label
        ]
    )
    masks = share >= 0.5
    lost = ~masks.any((1, 2))
    masks[lost] = share[lost] > 0
    return masks


def surface_weights(template: "Template", kinds: Sequence[str]) -> np.ndarray:
    """(N, 13718) share of the surface at each vertex that a crop of this kind is about.

    Rows sum to 1.
    """
    about = {
        "body": np.ones(len(template.body), bool),
        "left_hand": template.hands[0],
        "right_hand": template.hands[1],
    }
    weights = np.stack([template.area * about[kind] for kind in kinds]).astype(np.float64)
    return weights / weights.sum(1, keepdims=True)


def directed_overlap(seen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, N) float: entry [i, j] is the share, by area, of what i shows that j shows too.

    1 on the diagonal.

    A crop that shows nothing overlaps with no other.
    """
    shown = seen * weights
    total = shown.sum(1)
    out = shown @ seen.T.astype(np.float64) / np.maximum(total, 1e-12)[:, None]
    np.fill_diagonal(out, 1.0)
    return np.clip(out, 0, 1)


def find_visible_joints(
    joints: np.ndarray, cameras: Sequence[tuple[np.ndarray, np.ndarray]], depth: np.ndarray
) -> np.ndarray:
    """(N, B) uint8 OUTSIDE, HIDDEN or SEEN.

    Args:
        joints: (N, B, 3) world metres at each crop's instant.  cameras: N of (K, Rt).
        depth: (N, rows, columns) metres, 0: none.
    """
    high, wide = depth.shape[-2:]
    out = np.zeros(joints.shape[:2], np.uint8)
    for n, (K, Rt) in enumerate(cameras):
        xy, z = project(joints[n], K, Rt)
        inside = (z > 0.05) & (xy >= 0).all(-1) & (xy < [wide, high]).all(-1)
        x, y = np.where(inside[:, None], xy, 0).astype(int).T
        surface = depth[n, y, x]
        out[n] = np.where(
            inside, np.where((surface > 0) & (z < surface + JOINT_DEPTH_M), SEEN, HIDDEN), OUTSIDE
        )
    return out


def make_labels(
    person: "Person",
    instants: Sequence[int],
    cameras: Sequence[tuple[np.ndarray, np.ndarray]],
    images: "Images",
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """The dict of arrays above.

    Args:
        person: maker.Person.  instants: (N,) index of each crop.  cameras: N of (K, Rt).  images:
            render.Images.
        weights: (N, 13718) of surface_weights.
    """
    shown = np.asarray(instants)
    return {
        "body_model": np.array("anny"),
        "pose": person.pose,
        "root": person.root,
        "phenotype": person.phenotype,
        "face": person.face,
        "joints": person.joints,
        "instant": shown.astype(np.uint8),
        "joint_visible": find_visible_joints(person.joints[shown], cameras, images.depth),
        "vertex_visible": np.packbits(images.seen, axis=1),
        "visible": (images.seen * weights).sum(1).astype(np.float32),
    }

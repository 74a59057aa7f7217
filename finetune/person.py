"""One person or hand found in an image: what `predict` returns, and what is drawn and written."""

from dataclasses import dataclass

import numpy as np

from data.format.clip import KINDS
from engine.errors import UserError

# (how the shape is written, dtype) of each array; a letter stands for one number throughout.
ARRAYS = {
    "box": (("4",), np.float32),
    "vertices": (("V", "3"), np.float32),
    "faces": (("F", "3"), np.int32),
    "joints": (("J", "3"), np.float32),
    "keypoints": (("K", "3"), np.float32),
    "keypoints_2d": (("K", "2"), np.float32),
    "pose": (("J", "3", "3"), np.float32),
    "shape": (("S",), np.float32),
    "translation": (("3",), np.float32),
    "intrinsics": (("3", "3"), np.float64),
    "uncertainty": (("K",), np.float32),
    "vertex_uncertainty": (("V",), np.float32),
}
# Of ARRAYS: not every head has a body model's parameters, or says how sure it is.
OPTIONAL = ("pose", "shape", "uncertainty", "vertex_uncertainty")
OF_VERTICES = ("vertices", "faces", "vertex_uncertainty")
# sRGB of the clay that a person is drawn in: light blue-grey first, then muted ones that differ
# clearly.
COLOURS = (
    (169, 188, 208),
    (214, 165, 138),
    (160, 192, 160),
    (206, 188, 130),
    (186, 164, 198),
    (143, 190, 194),
    (209, 154, 164),
    (174, 176, 150),
)


@dataclass(eq=False)
class Person:
    """A body or a hand as a mesh in the camera's frame.

    Metres, OpenCV axes (x right, y down, z forward).

    Attributes:
        kind: "body", "left_hand" or "right_hand".
        box: (4,) x0, y0, x1, y1 in pixels of the image, where it was looked for.
        vertices: (V, 3) float32 metres.  faces: (F, 3) int32; outward normals come by the
            right-hand rule.
        joints: (J, 3) and keypoints: (K, 3), metres.  keypoints_2d: (K, 2) pixels of the image.
        pose: (J, 3, 3) rotations as the body model takes them; a left hand's are its own, so mirror
            them (data.bodies.base.mirrored_rotation) before they pose the right hand that the
            model is. None from a head without parameters.
        shape: (S,), or None likewise.  translation: (3,) metres, joint 0.
        intrinsics: (3, 3) float64 of the image; the first pixel's centre is at (0.5, 0.5).
        track: number of the person in a sequence, or None.
        uncertainty: (K,) metres, standard deviation of each keypoint about the root along each
            axis, and vertex_uncertainty: (V,) likewise, of networks with head.confidence.
        time_s: seconds from a sequence's first image, or None.
        hands: of a body, the sides whose fingers come from a crop of the hand alone.
        refined: whether it was moved onto the keypoints that were found (finetune/fit/refine.py);
            None where nobody tried.
        error_px: mean distance in pixels of its points from those that were found, or None.
        score: how sure a network that finds people is that there is one, in [0, 1], or None.

    Raises:
        UserError: an array has another shape, or holds numbers that are not finite.
    """

    kind: str
    box: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray
    joints: np.ndarray
    keypoints: np.ndarray
    keypoints_2d: np.ndarray
    pose: np.ndarray | None
    shape: np.ndarray | None
    translation: np.ndarray
    intrinsics: np.ndarray
    track: int | None = None
    time_s: float | None = None
    uncertainty: np.ndarray | None = None
    vertex_uncertainty: np.ndarray | None = None
    hands: tuple[str, ...] = ()
    refined: bool | None = None
    error_px: float | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"a person's kind is '{self.kind}', none of {', '.join(KINDS)}")
        known = {}
        for name, (shape, dtype) in ARRAYS.items():
            if getattr(self, name) is None and name in OPTIONAL:
                continue
            array = np.ascontiguousarray(getattr(self, name), dtype)
            wanted = tuple(
                int(n) if n.isdigit() else known.setdefault(n, m)
                for n, m in zip(shape, array.shape, strict=False)
            )
            if len(shape) != array.ndim or array.shape != wanted:
                raise UserError(
                    f"{self.kind}: {name} has shape {array.shape}, not ({', '.join(shape)})"
                    + "".join(f" with {n} = {m}" for n, m in known.items() if n in shape)
                )
            if not np.isfinite(array).all():
                raise UserError(f"{self.kind}: {name} holds numbers that are not finite")
            setattr(self, name, array)


def colour(index: int) -> tuple[int, int, int]:
    """Returns the sRGB in 0 to 255 of the index-th person.

    After the last colour they come again.
    """
    return COLOURS[index % len(COLOURS)]


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Returns (V, 3) float32 unit normals, each the mean of its triangles' by area.

    (0, 0, -1) where that is none.

    Args:
        vertices: (V, 3).  faces: (F, 3).
    """
    corners = np.asarray(vertices, np.float64)[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [
            np.bincount(np.ravel(faces), np.repeat(across[:, axis], 3), len(vertices))
            for axis in range(3)
        ],
        1,
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(length > 0, total / np.maximum(length, 1e-300), (0.0, 0.0, -1.0)).astype(
        np.float32
    )

"""What a reader finds of one camera in a file, and the checks that make a Camera of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from data.sources.cameras.camera import Camera
from engine.errors import UserError

ROTATION_SLACK = 1e-2  # of R's product with its transpose: files hold a few digits only
EXACT = 1e-6  # what is off by more is replaced by the nearest rotation
MOST_PIXELS = 1 << 16


@dataclass
class CameraRow:
    """One camera as its file has it: OpenCV's axes, world to camera.

    Attributes:
        name: unique in the file.
        matrix: (3, 3) intrinsics, the first pixel's centre at (0, 0).
        distortion: of OpenCV (up to 14 numbers) or of cv2.fisheye (4).
        rotation: (3, 3), or (3,) axis and angle (Rodrigues).
        translation: (3,) in the file's unit; None where ``centre`` is told.
        centre: (3,) position in the world.
        size: (width, height) in pixels; None: not told.
        fisheye: whether the distortion is that of cv2.fisheye.
        quarter_turns: clockwise, that show the image upright.
        fields: {attribute above: what the file calls it}, for messages.
    """

    name: str
    matrix: Any
    distortion: Any
    rotation: Any
    translation: Any = None
    centre: Any = None
    size: Any = None
    fisheye: bool = False
    quarter_turns: int = 0
    fields: Sequence[tuple[str, str]] = ()

    def field(self, attribute: str) -> str:
        """What the file calls an attribute."""
        return dict(self.fields).get(attribute, attribute)


def make_camera(row: CameraRow, path: str, unit_m: float) -> Camera:
    """The Camera of a row.

    Args:
        path: of the file, for messages.  unit_m: the file's unit in metres.
    Raises:
        UserError: a value no camera has; it names the camera, the field and the value.
    """
    K = _numbers(row, path, "matrix", (3, 3))
    _check_intrinsics(row, path, K)
    R = _rotation(row, path)
    if row.centre is not None:
        t = -R @ _numbers(row, path, "centre", (3,))
    else:
        t = _numbers(row, path, "translation", (3,))
    K[:2, 2] += 0.5
    Rt = np.concatenate([R, t[:, None] * unit_m], 1)
    width, height = (0, 0) if row.size is None else _size(row, path)
    lens, turns = _distortion(row, path), row.quarter_turns % 4
    return Camera(row.name, K, lens, Rt, width, height, row.fisheye, turns)


def refuse_camera(path: str, name: str, words: str) -> UserError:
    """The error that names a calibration file, one camera of it and what is wrong."""
    return UserError(f"calibration {path}: camera {name}: {words}")


def take(node: dict, field: str, path: str, name: str) -> Any:
    """A field of a camera in a file.

    Raises:
        UserError: the camera lacks it, or is no table of fields at all.
    """
    if not isinstance(node, dict):
        raise refuse_camera(path, name, f"it is {_shown(node)}, not an object with fields")
    if field not in node:
        known = ", ".join(map(str, node)) or "nothing"
        raise refuse_camera(path, name, f"it lacks {field}; it has {_shown(known)}")
    return node[field]


def _numbers(row, path, attribute, shape):
    """An attribute as finite float64 of a shape; a column or a flat list of as many will do."""
    values, name = getattr(row, attribute), row.field(attribute)
    try:
        array = np.array(values, np.float64)
    except (ValueError, TypeError):
        raise refuse_camera(
            path, row.name, f"{name} is {_shown(values)}, not numbers of shape {shape}"
        ) from None
    if array.size != np.prod(shape):
        raise refuse_camera(
            path, row.name, f"{name} has shape {array.shape}, where {shape} is needed"
        )
    if not np.isfinite(array).all():
        raise refuse_camera(path, row.name, f"{name} holds {_shown(values)}, which is not finite")
    return array.reshape(shape)


def _count(values):
    """How many numbers something holds; 1 where its rows are of several lengths."""
    try:
        return int(np.size(values))
    except ValueError:
        return 1


def _shown(values):
    """A value for a message, short."""
    text = " ".join(str(values).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _check_intrinsics(row, path, K):
    name = row.field("matrix")
    for axis, where in (("x", 0), ("y", 1)):
        if K[where, where] <= 0:
            raise refuse_camera(
                path,
                row.name,
                f"the focal length f{axis} in {name} is {K[where, where]:g}; it must be above 0",
            )
    if np.abs(K[2] - [0, 0, 1]).max() > 1e-9 or abs(K[1, 0]) > 1e-9:
        raise refuse_camera(
            path,
            row.name,
            f"{name} is {_shown(K.tolist())}, not the intrinsics of a pinhole camera: the last row "
            "must be 0, 0, 1 and the number below fx 0",
        )


def _rotation(row, path):
    name = row.field("rotation")
    if _count(row.rotation) == 3:
        return cv2.Rodrigues(_numbers(row, path, "rotation", (3,)))[0]
    R = _numbers(row, path, "rotation", (3, 3))
    off, sign = np.abs(R @ R.T - np.eye(3)).max(), np.linalg.det(R)
    if off > ROTATION_SLACK:
        raise refuse_camera(
            path,
            row.name,
            f"{name} is not a rotation matrix: R times its transpose is off the identity by "
            f"{off:.3g}, at most {ROTATION_SLACK:g} is taken",
        )
    if sign < 0:
        raise refuse_camera(
            path,
            row.name,
            f"{name} is not a rotation matrix: its determinant is {sign:.3g} and not 1, so it "
            "mirrors (left-handed axes)",
        )
    if off <= EXACT:
        return R
    u, _, v = np.linalg.svd(R)
    return u @ v


def _distortion(row, path):
    count = 0 if row.distortion is None else _count(row.distortion)
    values = np.zeros(0) if not count else _numbers(row, path, "distortion", (count,))
    most = 4 if row.fisheye else 8
    if np.any(values[most:] != 0):
        kind = (
            "a fisheye lens has 4"
            if row.fisheye
            else "a thin prism or tilted lens, 8 are supported"
        )
        raise refuse_camera(
            path, row.name, f"{row.field('distortion')} has {len(values)} numbers: {kind}"
        )
    coefficients = np.zeros(8)
    coefficients[: min(most, len(values))] = values[:most]
    return coefficients


def _size(row, path):
    size, name = _numbers(row, path, "size", (2,)), row.field("size")
    if not ((size >= 1) & (size <= MOST_PIXELS) & (size == np.round(size))).all():
        raise refuse_camera(
            path,
            row.name,
            f"{name} is {_shown(row.size)}, not a width and height of 1 to {MOST_PIXELS} pixels",
        )
    return int(size[0]), int(size[1])

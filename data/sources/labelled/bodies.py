"""What the readers of body datasets share: parameters of body models, boxes, clips of a sequence.

Parameters are kept as the data set has them, under these names, whether or not the model's file is
there (the body model's own units, metres and rotation vectors):

    smpl    pose (24, 3), betas (B,) of the person, transl (3,), and AIST++'s scale (1,)
    smplx   pose (55, 3), betas (B,), transl (3,), expression (E,); body_pose (22, 3) instead of
            pose where the hands' mean is still to be added and nobody has it; translation
            (3,) instead of transl where it is known where joint 0 lies

``transl`` is the models' own: it is added to the posed body, whose joint 0 lies at
J_regressor @ shaped template, so joint 0 is not at ``transl``. All is in the clip's world.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from data.format.labels import BodyParameters
from data.sources.labelled import LabelledSource
from engine.config.parser import key
from engine.errors import UserError

Row = TypeVar("Row")

GENDERS = {"m": "male", "f": "female", "n": "neutral"}
PIXEL_CENTRE = 0.5  # where OpenCV's calibrations, and what is projected by them, have pixel 0
BOX_GROW = 0.1  # of a box's longer side: joints lie within the body


@dataclass
class SequenceSource(LabelledSource):
    """A data set of sequences: consecutive crops of a person become clips of one track."""

    clip_crops: int = key(16, "most crops of a clip; the next clip continues the track", low=1)
    frame_step: int = key(1, "take every n-th frame", low=1)

    def cut_clips(self, frames: Sequence[int]) -> list[list[int]]:
        """Split a person's frames, of which every ``frame_step``-th is taken, into clips."""
        taken = [frame for frame in frames if frame % self.frame_step == 0]
        return [
            taken[start : start + self.clip_crops]
            for start in range(0, len(taken), self.clip_crops)
        ]


@contextmanager
def reading(path: str, what: str) -> Iterator[None]:
    """Tell of data that are not of the format in one sentence.

    Args:
        what: the format, such as "3DPW sequence".
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path} is no {what}: it lacks {error}") from None
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is no {what}: {str(error).splitlines()[0][:200]}") from None


def take_tree(tree: Any) -> Mapping[str, Any]:
    """A dict, or TypeError: what a pickle or JSON should hold."""
    if not isinstance(tree, dict):
        raise TypeError(f"it is a {type(tree).__name__}")
    return tree


def take_numbers(tree: Mapping[str, Any], name: str, *shape: int) -> np.ndarray:
    """Numbers of a tree by name, float64 and of that shape, -1 for any length.

    Raises:
        KeyError: there are none.  ValueError: they are of another shape or type.
    """
    return as_numbers(tree[name], name, *shape)


def as_numbers(value: Any, name: str, *shape: int) -> np.ndarray:
    """Numbers as float64 and of a shape; see ``take_numbers``."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        raise ValueError(f"{name} is of {value.dtype}")
    array = np.asarray(value, np.float64)
    fits = array.ndim == len(shape) and all(
        wanted in (-1, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        words = ", ".join("n" if length < 0 else str(length) for length in shape)
        raise ValueError(f"{name} is of shape {array.shape}, not ({words})")
    return array


def take_text(value: Any) -> str:
    """A text that may be an array of one, or bytes."""
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise ValueError(f"a text of shape {value.shape}")
        value = value.ravel()[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def gender_name(value: Any) -> str:
    """Return "male", "female" or "neutral", or "" where it is none of them."""
    return GENDERS.get(take_text(value)[:1].lower(), "")


def smpl_body(
    pose: np.ndarray,
    betas: np.ndarray,
    transl: np.ndarray | None,
    variant: str,
    model: str = "smpl",
    **more: np.ndarray,
) -> BodyParameters:
    """Parameters of SMPL or SMPL-X.

    Args:
        pose: (72,), (165,) or (J, 3).  transl: None: not known.  more: further parameters.
    """
    values = {"pose": np.asarray(pose, np.float32).reshape(-1, 3), **more}
    if transl is not None:
        values["transl"] = np.asarray(transl, np.float32).reshape(3)
    values["betas"] = np.asarray(betas, np.float32).ravel()
    return BodyParameters(model, variant, values, of_person=frozenset({"betas"}))


def shape_name(betas: np.ndarray) -> str:
    """A name of whoever has this shape, where a data set names nobody but scanned each once."""
    data = np.asarray(betas).round(4).astype(np.float32).tobytes()
    return f"body-{hashlib.blake2b(data, digest_size=6).hexdigest()}"


def box_around(points: np.ndarray, share: float = BOX_GROW) -> np.ndarray:
    """(4,) box around joints, grown by what lies around them; NaN without a point.

    Args:
        points: (n, 2) pixels.  share: of the longer side, that it grows on each side.
    """
    if not len(points):
        return np.full(4, np.nan)
    low, high = points.min(0), points.max(0)
    grow = share * (high - low).max()
    return np.concatenate([low - grow, high + grow])


def box_of_scale(centre: np.ndarray, scale: float) -> np.ndarray:
    """(4,) box of a centre and a scale, which is the box's side over 200 pixels."""
    half = 100 * np.max(scale)
    return np.concatenate([centre - half, centre + half])


def project(points: np.ndarray, K: np.ndarray, Rt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n, 2) pixels, (n,) bool: in front of the camera) of points in the world.

    Args:
        points: (n, 3) metres.  K: (3, 3).  Rt: (3, 4).
    """
    in_camera = points @ Rt[:, :3].T + Rt[:, 3]
    ahead = in_camera[:, 2] > 1e-6
    depth = np.where(ahead, in_camera[:, 2], 1.0)
    pixels = (in_camera / depth[:, None]) @ K.T
    return pixels[:, :2], ahead


def centred(K: np.ndarray) -> np.ndarray:
    """Intrinsics whose first pixel's centre is at 0, as OpenCV has them, in this project's."""
    K = np.array(K, np.float64)
    K[:2, 2] += PIXEL_CENTRE
    return K

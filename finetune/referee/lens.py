"""Clips of calibrated cameras as pinholes of the same intrinsics take them.

Networks answer for a pinhole, so images, boxes, keypoints and outlines are corrected before they
are judged, as ``predict calibration=`` does it, and the camera has no lens from there on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from finetune.inference.image_camera import LensCorrection
from finetune.inference.search import Region
from finetune.referee.takes import SampleClip
from finetune.referee.truth import Seen

Correct = Callable[[np.ndarray], np.ndarray]


def correct_clip(clip: SampleClip, people: Sequence[Seen]) -> tuple[list[Seen], Correct]:
    """Return who is where in the corrected images, and what corrects them.

    The clip's camera becomes the pinhole.

    Args:
        people: found in the images as they are.
    """
    if clip.camera is None:
        return list(people), _leave
    lens = LensCorrection(clip.camera)
    if not lens.bends:
        return list(people), _leave
    clip.camera = replace(
        clip.camera, distortion=np.zeros_like(clip.camera.distortion), fisheye=False
    )
    return [_correct_seen(lens, seen) for seen in people], lens.correct_image


def _leave(image: np.ndarray) -> np.ndarray:
    return image


def _correct_seen(lens: LensCorrection, seen: Seen) -> Seen:
    found = lens.correct_region(Region(seen.box, "right", seen.keypoints, seen.outline))
    square = mask = None
    if found.mask is not None:
        square, mask = found.mask.square, found.mask.inside
    assert found.keypoints is not None
    return replace(seen, box=found.box, keypoints=found.keypoints, square=square, mask=mask)

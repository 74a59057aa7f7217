"""What the readers of hand datasets share: MANO's parameters, boxes, sides.

Parameters are kept as the data set has them, whether or not MANO's file is there; metres and
rotation vectors, in the clip's world:

    pose (16, 3)                wrist and fingers, no mean pose left to be added
    global_orient (3,) with hand_pose_from_mean (15, 3)
                                instead, where MANO's hands_mean is still to be added to the fingers
    global_orient (3,) with hand_pca (45,)
                                instead: coefficients of hands_components, on top of hands_mean
    betas (10,)                 of the person
    translation (3,)            where joint 0 is, the wrist
    transl (3,)                 instead: MANO's own, added to the posed hand, whose joint 0 does not
                                lie at 0
"""

import json
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from data.format.labels import BodyParameters
from data.format.names import decode_text
from data.sources.labelled.archives import Files
from data.sources.labelled.bodies import PIXEL_CENTRE, box_around
from engine.errors import UserError

SIDES = ("right", "left")
FINGER_JOINTS = 15
BOX_GROW = 0.15  # of a box's longer side: joints lie within the hand
# OpenGL's camera looks along -z with y up: half a turn about x from OpenCV's.
OPENGL = np.diag([1.0, -1.0, -1.0])


def mano_body(side: str, values: Mapping[str, np.ndarray]) -> BodyParameters:
    """Parameters of a hand, by the names above.

    Args:
        side: "right" or "left".
    """
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return BodyParameters("mano", side, arrays, of_person=frozenset({"betas"}))


def kind_of(side: str) -> str:
    """Return what a crop of a hand is called."""
    return f"{side}_hand"


def box_around_hand(points: np.ndarray) -> np.ndarray:
    """(4,) box around a hand's joints, grown by what lies around them; NaN without a point.

    Args:
        points: (n, 2) pixels.
    """
    return box_around(points, BOX_GROW)


def outline_of(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons, (n, 2) pixels each, around what is true; holes are filled.

    They take a thousandth of the mask's memory, and a shard's crops wait together.

    Args:
        mask: (H, W) bool.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].astype(np.float64) + PIXEL_CENTRE for contour in found]


def turn_rotation(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(3,) rotation vector of ``rotation`` after the one that a vector means.

    Args:
        rotation: (3, 3).
    """
    turned = rotation @ cv2.Rodrigues(np.asarray(vector, np.float64).reshape(3, 1))[0]
    return cv2.Rodrigues(turned)[0].ravel()


def read_json(files: Files, name: str) -> Any:
    """The value in a JSON file of a data set, in a folder or an archive.

    Raises:
        Failure: it cannot be read or is none.
    """
    try:
        return json.loads(decode_text(files.read(name)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{files.where(name)} is no JSON file: {error}") from None

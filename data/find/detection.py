"""What is known of a person in an image, whoever found it: a network, a tracker, a user's file.

Pixels of the image as it is shown (upright), the first pixel's corner at (0, 0) and its centre at
(0.5, 0.5). Imports neither torch nor a detector.
"""

from dataclasses import dataclass, field

import numpy as np

SIDES = ("left", "right")


@dataclass
class HandDetection:
    """One hand of a person.

    Attributes:
        side: the person's own "left" or "right".
        box: (4,) x0, y0, x1, y1 around the hand.
        score: 0 to 1.
        keypoints: (21, 3) x, y, confidence in the order of the joint set hand21, or None.
    """

    side: str
    box: np.ndarray
    score: float = 1.0
    keypoints: np.ndarray | None = None


@dataclass
class PersonMask:
    """The outline of a person within a square of the image.

    Attributes:
        square: (4,) x0, y0, x1, y1, the square that the mask covers.
        inside: (S, S) bool, true on the person.
    """

    square: np.ndarray
    inside: np.ndarray


@dataclass
class Detection:
    """One person in one image.

    Attributes:
        box: (4,) x0, y0, x1, y1 around the visible person.
        score: 0 to 1, how sure the finder is.
        keypoints: (K, 3) x, y, confidence (0: not found) in the order of ``joint_set``, or None.
        joint_set: a name of data.format.joint_sets.
        hands: by side; a hand that was not found is absent.
        mask: where the person is, or None where nobody knows.
        where: the place in the file that says so, for errors; "" where it was found here.
    """

    box: np.ndarray
    score: float = 1.0
    keypoints: np.ndarray | None = None
    joint_set: str = "coco17"
    hands: dict[str, HandDetection] = field(default_factory=dict)
    mask: PersonMask | None = None
    where: str = ""


# The people of one video: {person: {frame: Detection}}; frames count from 0 in order of display.
Tracks = dict[str, dict[int, Detection]]
# {path of a video, relative to the folder of videos, with "/": its Tracks}
VideoTracks = dict[str, Tracks]

"""Frames with who was matched: true people and found ones as skeletons, a line between two."""

from collections.abc import Sequence

import cv2
import numpy as np

from finetune.evaluation.scene.frame_scores import FrameScores
from finetune.evaluation.scene.matching import FALSE, IGNORED, project_held
from finetune.evaluation.scene.truth import TrueFrame
from finetune.scene.found import FoundPerson

# sRGB: a true person who is found, one who is missed, one who does not count; found people who
# are right, who are nobody, who are one who does not count.
TRUE, MISSED, NOT_COUNTED = (60, 220, 90), (255, 60, 60), (150, 150, 150)
RIGHT, WRONG, LEFT_OUT = (80, 150, 255), (255, 150, 0), (190, 190, 190)
LEGEND = (
    ("true", TRUE),
    ("missed", MISSED),
    ("not counted", NOT_COUNTED),
    ("found", RIGHT),
    ("false", WRONG),
)
SIDE_PX = 960
# Places among data.bodies.base.BODY_KEYPOINTS.
BONES = (
    (0, 1), (1, 4), (4, 7), (7, 9), (0, 2), (2, 5), (5, 8), (8, 10), (0, 3), (3, 6), (6, 11),
    (11, 14), (11, 12), (12, 15), (15, 17), (17, 19), (11, 13), (13, 16), (16, 18), (18, 20),
)  # fmt: skip


def draw_frame(true: TrueFrame, found: Sequence[FoundPerson], scores: FrameScores) -> np.ndarray:
    """Return (H', W', 3) uint8: the frame, pale, with skeletons, boxes of the missed, and links."""
    height, width = true.image.shape[:2]
    scale = SIDE_PX / max(height, width)
    drawn = cv2.resize(true.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    drawn = drawn // 2 + 90
    size = np.array([width, height], np.float64)
    partner, state = scores.matching.partner, scores.matching.state
    places = [
        project_held(one.person.keypoints, one.person.intrinsics, size) * scale for one in found
    ]
    for number, person in enumerate(true.people):
        colour = NOT_COUNTED if not person.counts else MISSED if partner[number] < 0 else TRUE
        if person.keypoints is None:
            continue
        points = project_held(person.keypoints, true.K, size) * scale
        _draw_bones(drawn, points, colour, 2)
        if colour == MISSED:
            x0, y0, x1, y1 = (person.box * scale).astype(int).tolist()
            cv2.rectangle(drawn, (x0, y0), (x1, y1), colour, 1)
        if partner[number] >= 0:
            ends = np.stack([points[0], places[partner[number]][0]]).astype(int).tolist()
            cv2.line(drawn, ends[0], ends[1], (255, 255, 0), 2)
    for number, points in enumerate(places):
        colour = {FALSE: WRONG, IGNORED: LEFT_OUT}.get(int(state[number]), RIGHT)
        _draw_bones(drawn, points, colour, 1)
        at = tuple((points[14] - [0, 8]).astype(int).tolist())
        cv2.putText(drawn, f"{found[number].score:.2f}", at, 0, 0.45, colour, 1, cv2.LINE_AA)
    for row, (words, colour) in enumerate(LEGEND):
        cv2.putText(drawn, words, (8, 20 + 18 * row), 0, 0.5, colour, 1, cv2.LINE_AA)
    return drawn


def _draw_bones(
    drawn: np.ndarray, points: np.ndarray, colour: tuple[int, int, int], thickness: int
) -> None:
    for a, b in BONES:
        ends = [tuple(points[end].astype(int).tolist()) for end in (a, b)]
        cv2.line(drawn, ends[0], ends[1], colour, thickness, cv2.LINE_AA)

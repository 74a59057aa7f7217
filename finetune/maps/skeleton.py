"""Joints of any joint set on an image, joined by the bones whose both ends it has."""

from collections.abc import Sequence

import cv2
import numpy as np

FINGERS = ("thumb", "index", "middle", "ring", "little")
LIMBS = (
    ("shoulder", "elbow"),
    ("elbow", "wrist"),
    ("hip", "knee"),
    ("knee", "ankle"),
    ("ankle", "toes"),
    ("ankle", "big_toe"),
    ("ankle", "heel"),
    ("eye", "ear"),
)
TRUNK = (
    ("pelvis", "spine"),
    ("spine", "chest"),
    ("chest", "neck"),
    ("neck", "head"),
    ("neck", "nose"),
    ("mid_hip", "neck"),
    ("left_hip", "right_hip"),
    ("pelvis", "left_hip"),
    ("pelvis", "right_hip"),
    ("mid_hip", "left_hip"),
    ("mid_hip", "right_hip"),
    ("left_shoulder", "right_shoulder"),
    ("neck", "left_shoulder"),
    ("neck", "right_shoulder"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("nose", "left_eye"),
    ("nose", "right_eye"),
)
LEFT, RIGHT, MIDDLE = (66, 140, 236), (236, 120, 60), (240, 240, 240)  # sRGB
FINGER_COLOURS = (
    (236, 120, 60),
    (240, 200, 70),
    (90, 190, 110),
    (66, 140, 236),
    (170, 110, 220),
)


def list_bones(names: Sequence[str]) -> list[tuple[int, int]]:
    """Returns pairs of indices of joints that are joined."""
    at = {name: i for i, name in enumerate(names)}
    pairs = list(TRUNK)
    for side in ("left", "right"):
        pairs += [(f"{side}_{one}", f"{side}_{other}") for one, other in LIMBS]
    for prefix in ("", "left_hand_", "right_hand_", "left_", "right_"):
        for finger in FINGERS:
            chain = [f"{prefix}wrist"] + [f"{prefix}{finger}_{k}" for k in (1, 2, 3, "tip")]
            pairs += list(zip(chain[:-1], chain[1:], strict=True))
    found = [(at[one], at[other]) for one, other in pairs if one in at and other in at]
    return list(dict.fromkeys(found))


def choose_colour(name: str) -> tuple[int, int, int]:
    """Returns the sRGB of a joint: by finger, else by side."""
    for finger, colour in zip(FINGERS, FINGER_COLOURS, strict=True):
        if finger in name:
            return colour
    if name.startswith("left"):
        return LEFT
    return RIGHT if name.startswith("right") else MIDDLE


def draw_skeleton(
    image: np.ndarray,
    points: np.ndarray,
    names: Sequence[str],
    shown: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the image with joints and bones.

    Args:
        image: (H, W, 3) uint8.  points: (K, 2) pixels.  names: of the K joints.
        shown: (K,) bool, which are drawn; None: all.
    """
    out = np.ascontiguousarray(image).copy()
    extent = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    thick = max(1, round(extent / 90))
    ok = np.ones(len(points), bool) if shown is None else shown
    at = np.round(np.clip(points, -1e4, 1e4)).astype(int)
    for one, other in list_bones(names):
        if ok[one] and ok[other]:
            colour = choose_colour(names[other])
            cv2.line(out, at[one].tolist(), at[other].tolist(), colour, thick, cv2.LINE_AA)
    for place, name, is_shown in zip(at, names, ok, strict=True):
        if is_shown:
            cv2.circle(out, place.tolist(), thick + 1, choose_colour(name), -1, cv2.LINE_AA)
    return out

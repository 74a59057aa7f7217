"""Things at a hand: a pole in its grip, a board at its palm, a top below it, an edge before it.

They are boxes that stand upright, as all of a scene's, and stay where they are while it moves.
"""

from collections.abc import Mapping

import numpy as np

from data.people.bank import Bank
from data.people.warp_types import Box, Struct, fill_struct, vec3

GRIP_DEG = 45.0  # from which mean bend of the middle joints on a hand can close around a pole
CLEAR_M = 0.12  # between a camera and a thing
MOST_HIDDEN = 0.6  # of a hand, for any camera


def make_thing(
    rng: np.random.Generator,
    points: np.ndarray,
    joints: Mapping[str, np.ndarray],
    eyes: np.ndarray,
    bank: Bank,
) -> Struct | None:
    """A thing at a hand; None where a camera would be in it, or would see little of the hand.

    Args:
        points: (n, 3) of the hand's surface at one instant, metres, world.
        joints: {bone without its side: (3,)} of the same instant.
        eyes: (m, 3) of the cameras; something may stand before the hand for the first.
        bank: of the scene's textures.
    """
    if _bend_deg(joints) > GRIP_DEG and rng.random() < 0.6:
        place, half, way = _place_pole(rng, joints)
    else:
        makers = (_place_board, _place_top, _place_edge)
        place, half, way = makers[rng.integers(3)](rng, points, joints, eyes[0])
    away = np.abs(_turned(eyes - place, way)) - half
    if (away.max(1) < CLEAR_M).any():
        return None
    if max(measure_hidden(eye, points, place, half, way) for eye in eyes) > MOST_HIDDEN:
        return None
    return fill_struct(
        Box,
        centre=vec3(place),
        half=vec3(half),
        cos=np.cos(way),
        sin=np.sin(way),
        texture=bank.draw(rng),
        scale=rng.uniform(2.0, 12.0),
        colour=vec3(rng.uniform(0.3, 1.2) * (1 + rng.normal(0, 0.15, 3))),
    )


def _bend_deg(joints: Mapping[str, np.ndarray]) -> float:
    """Mean bend of the fingers' middle joints."""
    bends = []
    for finger in "2345":
        root, middle, end = (joints[f"finger{finger}-{k}"] for k in "123")
        a, b = middle - root, end - middle
        cosine = (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
        bends.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return float(np.mean(bends))


def measure_hidden(
    eye: np.ndarray, points: np.ndarray, place: np.ndarray, half: np.ndarray, way: float
) -> float:
    """Share of points (n, 3) whose line to an eye (3,) meets a box.

    Args:
        place, half: (3,) middle and half sides of the box, turned by ``way`` about the vertical.
    """
    start = _turned(eye[None] - place, way)
    along = _turned(points - place, way) - start
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    # Where the line enters and leaves each pair of sides, from 0 at the eye to 1 at the point.
    first, second = (-half - start) / along, (half - start) / along
    enters = np.minimum(first, second).max(1)
    leaves = np.maximum(first, second).min(1)
    return float(((enters < leaves) & (leaves > 0) & (enters < 0.995)).mean())


def _turned(offsets: np.ndarray, way: float) -> np.ndarray:
    """(m, 3) offsets along a box's own axes; it is turned by ``way`` about the vertical."""
    cos, sin = np.cos(way), np.sin(way)
    x, y, z = offsets.T
    return np.stack([x * cos + y * sin, y * cos - x * sin, z], 1)


def _palm(joints: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(3,) middle of the palm's bones, and (3,) middle of the fingers' middle joints."""
    roots = np.mean([joints[f"finger{f}-1"] for f in "2345"], 0)
    return (joints["wrist"] + 2 * roots) / 3, np.mean([joints[f"finger{f}-2"] for f in "2345"], 0)


def _place_pole(
    rng: np.random.Generator, joints: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float]:
    """A pole, a cup or a phone on end, where bent fingers leave room."""
    palm, _ = _palm(joints)
    ends = np.mean([joints[f"finger{f}-3"] for f in "2345"], 0)
    place = (palm + ends) / 2
    half = np.array([*rng.uniform(0.008, 0.022, 2), rng.uniform(0.05, 0.3)])
    return place + [0, 0, rng.uniform(-0.5, 0.5) * half[2]], half, rng.uniform(0, np.pi)


def _place_board(
    rng: np.random.Generator, points: np.ndarray, joints: Mapping[str, np.ndarray], eye: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """A board, a book or a wall that the hand lies against, on the side away from the camera."""
    palm, middle = _palm(joints)
    view = points.mean(0) - eye
    way = np.arctan2(view[1], view[0]) + rng.normal(0, 0.5)
    out = np.array([np.cos(way), np.sin(way), 0.0])
    half = np.array([rng.uniform(0.003, 0.02), *rng.uniform(0.05, 0.25, 2)])
    behind = ((points - palm) @ out).max() + half[0]
    # Some of them cut into the hand a little: fingers reach around an edge.
    depth = behind * rng.uniform(0.35, 1.0)
    aside = rng.uniform(-0.8, 0.8, 2) * half[1:]
    across = np.array([-out[1], out[0], 0.0])
    return (palm + middle) / 2 + depth * out + aside[0] * across + [0, 0, aside[1]], half, way


def _place_top(
    rng: np.random.Generator, points: np.ndarray, joints: Mapping[str, np.ndarray], eye: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """The top of a table, or of a thing, on which the hand lies."""
    palm, middle = _palm(joints)
    way = rng.uniform(0, np.pi)
    half = np.array([*rng.uniform(0.04, 0.35, 2), rng.uniform(0.006, 0.03)])
    height = points[:, 2].min() - half[2] + rng.uniform(0.0, 0.015)
    # It reaches from the hand on, not through the arm behind it.
    on = (middle - palm)[:2] / (np.linalg.norm((middle - palm)[:2]) + 1e-9)
    return np.array([*(middle[:2] + 0.6 * half[:2].min() * on), height]), half, way


def _place_edge(
    rng: np.random.Generator, points: np.ndarray, joints: Mapping[str, np.ndarray], eye: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Something before the hand that hides up to two fifths of it from the first camera."""
    middle = points.mean(0)
    view = middle - eye
    share = rng.uniform(0.7, 0.92)
    way = np.arctan2(view[1], view[0])
    across = np.array([-np.sin(way), np.cos(way), 0.0])
    wide = np.ptp(points @ across) * share
    half = np.array([0.01, wide * rng.uniform(0.1, 0.5), wide * rng.uniform(0.1, 0.8)])
    hidden = rng.uniform(0.0, 0.4) * wide
    sign = rng.choice([-1.0, 1.0])
    aside = sign * (wide / 2 + half[1] - hidden)
    return eye + share * view + aside * across, half, way

"""Things that a hand holds, or both hands: rigid with the palm, clear of the body and the floor."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.people import gestures, textures
from data.people.bank import Bank
from data.people.motion import Motion
from data.people.rng import pick_one
from data.people.things import (
    Mesh,
    Thing,
    join_meshes,
    make_ball,
    make_box,
    make_disc,
    make_dome,
    make_rod,
)

SIDES = ("L", "R")
# What one hand holds: the hand's shape and how often.
_KINDS = {
    "ball": ("ball", 0.16),
    "stick": ("stick", 0.18),
    "racket": ("stick", 0.1),
    "umbrella": ("stick", 0.08),
    "bag": ("handle", 0.14),
    "phone": ("glass", 0.12),
    "cup": ("glass", 0.12),
    "sheet": ("key", 0.1),
}
_BOTH_SHARE = 0.35  # of holders who hold something between their hands, if those are placed for it
_PALM_M = 0.17  # points of the body that near to a palm may touch what it holds
_GROW_M = 0.03  # points of the body lie 5 cm apart
_MOVES_M = 0.03


@dataclass
class Plan:
    """What is held: a kind, in which hand (0 left, 1 right), and whether both are tried first."""

    kind: str
    side: int
    both: bool


def draw_plan(rng: np.random.Generator, share: float) -> Plan | None:
    """What somebody holds, None for nothing."""
    if rng.random() >= share:
        return None
    weights = [weight for _, weight in _KINDS.values()]
    kind = pick_one(rng, tuple(_KINDS), weights)
    return Plan(kind, int(rng.integers(2)), rng.random() < _BOTH_SHARE)


def grip_hand(moves: Motion, plan: Plan | None) -> Motion:
    """The motion with the hand closed around what it holds."""
    if plan is None:
        return moves
    hands = moves.hands.copy()
    hands[:, plan.side] = gestures.SHAPES[_KINDS[plan.kind][0]]
    return dataclasses.replace(moves, hands=hands)


@dataclass
class Palms:
    """Frames of both palms, (2, T, ...).

    Attributes:
        axes: columns are across the palm from index to little finger, along it, and out of it.
        origin: metres, on the palm's skin.
    """

    axes: np.ndarray
    origin: np.ndarray


def find_palms(joints: np.ndarray, index: dict[str, int]) -> Palms:
    """The Palms of joints (T, B, 3)."""
    axes, origins = [], []
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        wrist = joints[:, index[f"wrist.{side}"]].astype(np.float64)
        roots = np.stack([joints[:, index[f"finger{f}-1.{side}"]] for f in "2345"], 1)
        out = np.cross(roots[:, 0] - wrist, roots[:, 3] - wrist) * sign
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        along = roots.mean(1) - wrist
        along -= (along * out).sum(1, keepdims=True) * out
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        across = np.cross(along, out)
        across *= np.sign(((roots[:, 3] - roots[:, 0]) * across).sum(1, keepdims=True))
        axes.append(np.stack([across, along, out], -1))
        origins.append(0.35 * wrist + 0.65 * roots.mean(1) + 0.014 * out)
    return Palms(np.array(axes), np.array(origins))


def make_held(
    rng: np.random.Generator, plan: Plan, palms: Palms, points: np.ndarray, bank: Bank
) -> list[Thing]:
    """The things of a plan; none where they would be in the body or in the floor.

    Args:
        palms: of the person.  points: (T, n, 3) of its surface.
    """
    if plan.both:
        between = _hold_between(rng, palms, bank)
        if between is not None and _fits([between], palms.origin, points):
            return [between]
    axes, origin = palms.axes[plan.side], palms.origin[plan.side]
    for _ in range(3):
        if plan.kind == "bag":
            axes = _hang(axes)
        meshes = _MAKE[plan.kind](rng)
        things = [_paint(rng, mesh, axes, origin, bank) for mesh in meshes]
        if _fits(things, palms.origin[[plan.side]], points):
            return things
    return []


def _hang(axes: np.ndarray) -> np.ndarray:
    """Axes of what hangs: z up, y as the palm's across at the first instant, but level."""
    level = axes[0, :2, 0]
    level = np.array([*level, 0.0]) / max(float(np.linalg.norm(level)), 1e-6)
    up = np.array([0.0, 0.0, 1.0])
    return np.repeat(np.stack([np.cross(level, up), level, up], -1)[None], len(axes), 0)


def _paint(
    rng: np.random.Generator, mesh: Mesh, axes: np.ndarray, origin: np.ndarray, bank: Bank
) -> Thing:
    plain = rng.random() < 0.45
    colour = textures.any_colour(rng, 0.1, 1.0) ** 2 if plain else np.full(3, rng.uniform(0.5, 1.1))
    texture = 0 if plain else bank.draw(rng)
    return Thing(mesh, axes, origin, colour, texture, rng.uniform(2, 9), rng.choice([0, 0.1, 0.5]))


def _fits(things: list[Thing], palms: np.ndarray, points: np.ndarray) -> bool:
    """Whether things are above the floor and no point of the body but a hand is in their boxes."""
    for thing in things:
        if thing.points()[..., 2].min() < 0.0:
            return False
        low, high = thing.mesh.points.min(0) - _GROW_M, thing.mesh.points.max(0) + _GROW_M
        for t, body in enumerate(points):
            far = np.linalg.norm(body[:, None] - palms[:, t], axis=-1).min(1) > _PALM_M
            local = (body[far] - thing.origin[t]) @ thing.axes[t]
            if ((local > low) & (local < high)).all(1).any():
                return False
    return True


def _hold_between(rng: np.random.Generator, palms: Palms, bank: Bank) -> Thing | None:
    """A box, a ball, a sheet or a bar between both palms, where these keep their distance."""
    left, right = palms.origin
    apart = np.linalg.norm(right - left, axis=1)
    wide = float(apart.mean())
    if not 0.12 < wide < 1.1 or np.ptp(apart) > _MOVES_M:
        return None
    across = (right - left) / apart[:, None]
    along = palms.axes[:, :, :, 1].mean(0)
    along -= (along * across).sum(1, keepdims=True) * across
    length = np.linalg.norm(along, axis=1)
    if length.min() < 0.2:
        return None
    along /= length[:, None]
    axes = np.stack([across, along, np.cross(across, along)], -1)
    faced = [(palms.axes[s, :, :, 2] * across * sign).sum(1).min() for s, sign in ((0, 1), (1, -1))]
    if min(faced) > 0.4 and wide < 0.6:
        half = wide / 2 - 0.008
        if rng.random() < 0.4:
            mesh = make_ball(np.full(3, half))
        else:
            mesh = make_box(np.array([half, *rng.uniform(0.03, 0.2, 2)]))
    elif wide < 0.55 and rng.random() < 0.5:
        mesh = make_box(np.array([wide / 2 + 0.02, rng.uniform(0.08, 0.2), 0.001]))
        mesh = mesh.moved(np.eye(3), np.array([0, 0.06, 0]))
    else:
        more = rng.uniform(0.05, 0.5)
        radius = rng.uniform(0.01, 0.018)
        mesh = make_rod(wide + 2 * more, radius, radius, -wide / 2 - more)
    return _paint(rng, mesh, axes, (left + right) / 2, bank)


def _make_ball(rng: np.random.Generator) -> list[Mesh]:
    radius = float(rng.choice([rng.uniform(0.025, 0.05), rng.uniform(0.08, 0.125)]))
    mesh = make_ball(np.full(3, radius))
    return [mesh.moved(np.eye(3), np.array([0, 0.03, radius + 0.004]))]


def _make_stick(rng: np.random.Generator) -> list[Mesh]:
    length, radius = rng.uniform(0.3, 1.1), rng.uniform(0.009, 0.017)
    end = radius * float(rng.choice([0.8, 1.0, 2.2]))
    rod = make_rod(length, radius, end, -rng.uniform(0.07, 0.15))
    return [rod.moved(np.diag([-1.0, 1.0, -1.0]), np.array([0, 0.035, 0.016]))]


def _make_racket(rng: np.random.Generator) -> list[Mesh]:
    shaft, wide = rng.uniform(0.2, 0.36), rng.uniform(0.07, 0.13)
    tall = wide * rng.uniform(1.0, 1.35)
    rod = make_rod(shaft + 0.08, 0.014, 0.009, -0.08)
    angle = np.linspace(0, 2 * np.pi, 25)
    ring = np.stack([np.cos(angle) * tall, np.sin(angle) * wide, 0 * angle], 1)
    inner = float(rng.choice([0.0, 0.82]))  # a table tennis bat, or a frame whose strings are thin
    blade = make_disc(ring * inner, ring).moved(np.eye(3), np.array([shaft + tall, 0, 0]))
    turn = rng.uniform(0, np.pi)
    about = np.array(
        [[-1, 0, 0], [0, np.cos(turn), np.sin(turn)], [0, np.sin(turn), -np.cos(turn)]]
    )
    return [join_meshes([rod, blade]).moved(about, np.array([0, 0.035, 0.016]))]


def _make_umbrella(rng: np.random.Generator) -> list[Mesh]:
    flip, place = np.diag([-1.0, 1.0, -1.0]), np.array([0, 0.035, 0.016])
    length = rng.uniform(0.6, 0.8)
    rod = make_rod(length + 0.1, 0.011, 0.008, -0.1).moved(flip, place)
    if rng.random() < 0.5:  # closed
        return [rod, make_rod(length - 0.12, 0.03, 0.012, 0.1).moved(flip, place)]
    dome = make_dome(rng.uniform(0.42, 0.55), rng.uniform(0.12, 0.2))
    return [rod, dome.moved(np.eye(3), np.array([length, 0, 0])).moved(flip, place)]


def _make_bag(rng: np.random.Generator) -> list[Mesh]:
    half = np.array([rng.uniform(0.03, 0.09), rng.uniform(0.1, 0.22), rng.uniform(0.1, 0.2)])
    drop = rng.uniform(0.03, 0.2)
    bag = make_box(half).moved(np.eye(3), np.array([0, 0, -half[2] - drop]))
    straps = []
    for sign in (-1, 1):
        line = np.array([0, sign * half[1] * 0.6, -drop])
        strap = make_rod(float(np.linalg.norm(line)), 0.006, 0.006)
        way = line / np.linalg.norm(line)
        second = np.array([1.0, 0, 0])
        straps.append(strap.moved(np.stack([way, second, np.cross(way, second)], 1), np.zeros(3)))
    return [join_meshes([bag, *straps])]


def _make_phone(rng: np.random.Generator) -> list[Mesh]:
    half = np.array([0.037, 0.075, 0.004]) * rng.uniform(0.85, 1.2)
    return [make_box(half).moved(np.eye(3), np.array([-0.005, 0.05, 0.016]))]


def _make_cup(rng: np.random.Generator) -> list[Mesh]:
    radius, tall = rng.uniform(0.03, 0.042), rng.uniform(0.09, 0.24)
    rod = make_rod(tall, radius * rng.uniform(0.7, 1.0), radius, -0.05)
    return [rod.moved(np.diag([-1.0, 1.0, -1.0]), np.array([0, 0.035, radius + 0.004]))]


def _make_sheet(rng: np.random.Generator) -> list[Mesh]:
    half = np.array([rng.uniform(0.05, 0.11), rng.uniform(0.07, 0.15), 0.0006])
    half[2] = float(rng.choice([0.0006, 0.012]))
    return [
        make_box(half).moved(np.eye(3), np.array([-half[0] * 0.8, 0.03 + half[1] * 0.6, 0.016]))
    ]


_MAKE: dict[str, Callable[[np.random.Generator], list[Mesh]]] = {
    "ball": _make_ball,
    "stick": _make_stick,
    "racket": _make_racket,
    "umbrella": _make_umbrella,
    "bag": _make_bag,
    "phone": _make_phone,
    "cup": _make_cup,
    "sheet": _make_sheet,
}

"""Hair volumes, hats and backpacks: meshes in the template's coordinates that ride on head or back.

How hair is cut is also the scalp's thickness and the strands of a Look; see kernels_mesh.dress.
"""

from dataclasses import dataclass

import numpy as np

from data.people import textures, wardrobe
from data.people.bank import Bank
from data.people.rng import pick_one
from data.people.split import draw_held
from data.people.template import Template
from data.people.things import (
    Mesh,
    Thing,
    join_meshes,
    make_ball,
    make_box,
    make_disc,
    make_tube,
)
from data.people.warp_types import MATERIALS, Struct

STYLES = {
    "shaved": 0.1,
    "short": 0.28,
    "full": 0.14,
    "afro": 0.08,
    "bob": 0.1,
    "long": 0.12,
    "pony": 0.1,
    "bun": 0.08,
}
_FEMALE_ONLY = ("bob", "long", "pony", "bun")
HATS = {"none": 0.8, "beanie": 0.06, "cap": 0.08, "brim": 0.06}
_HAIR_SLOT = 3  # of the bank: strands
_SEGMENTS = 10
_STRAP_M = 0.02


@dataclass
class Anchors:
    """Which vertices tell where head and back are, and their template coordinates.

    Attributes:
        head, back: vertex numbers.  rest: (V, 3) template coordinates.
        arm: (V,) how far along the arm.
    """

    head: np.ndarray
    back: np.ndarray
    rest: np.ndarray
    arm: np.ndarray


def find_anchors(template: Template) -> Anchors:
    """The Anchors of the body's mesh."""
    rest, body = template.rest, template.body
    points, arm = rest[body], template.limb[body, 0]
    scalp = (points[:, 2] > 1.66) & (arm < -0.5) & (template.detail[body, 2] < 0.75)
    x, y, z = points.T
    back = (z > 1.08) & (z < 1.42) & (y > 0.02) & (np.abs(x) < 0.13) & (arm < 0.0)
    return Anchors(body[scalp][::9], body[back][::9], rest, template.limb[:, 0])


def fit_frames(rest: np.ndarray, posed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (T, 3, 3), scaled, and origin (T, 3) that lay ``rest`` (n, 3) on ``posed`` (T, n, 3).

    Least squares (Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", 1991).
    """
    middle, middles = rest.mean(0), posed.mean(1, keepdims=True)
    centred = rest - middle
    u, s, vt = np.linalg.svd(np.swapaxes(posed - middles, 1, 2) @ centred)
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    scale = (s * sign).sum(1) / (centred**2).sum()
    axes = (u * sign[:, None]) @ vt * scale[:, None, None]
    return axes, middles[:, 0] - axes @ middle


def draw_hair(rng: np.random.Generator, female: bool, child: bool, looks: str) -> tuple[str, str]:
    """A style of STYLES and a hat of HATS; of these looks."""

    def draw() -> tuple[str, float]:
        style = pick_one(rng, tuple(STYLES), tuple(STYLES.values()))
        if style in _FEMALE_ONLY and not female and rng.random() < 0.85:
            style = "short"
        return style, rng.random()

    style, _ = draw_held(looks, draw, lambda drawn: f"style {drawn[0]} {int(drawn[1] * 20)}")
    hat = pick_one(rng, tuple(HATS), tuple(HATS.values()))
    return ("short" if child and style in ("shaved", "bun") else style), hat


def fill_look(rng: np.random.Generator, look: Struct, style: str, hat: str) -> None:
    """Put a style of hair, and a hat, into a Look."""
    look.hair_on, look.hat = 1, int(hat != "none")
    thickness = {
        "shaved": rng.uniform(0.002, 0.004),
        "short": rng.uniform(0.008, 0.026),
        "full": rng.uniform(0.03, 0.05),
        "afro": rng.uniform(0.055, 0.1),
        "bob": rng.uniform(0.012, 0.024),
        "long": rng.uniform(0.008, 0.02),
    }.get(style, rng.uniform(0.006, 0.012))
    look.hair_thickness = float(rng.uniform(0.01, 0.014) if look.hat else thickness)
    look.strands_from = float(wardrobe.NO_STRANDS)
    if style == "bob":
        look.strands_from = float(rng.uniform(1.53, 1.6))
    if style == "long":
        look.strands_from = float(rng.uniform(1.1, 1.5))


def make_worn(
    rng: np.random.Generator,
    anchors: Anchors,
    vertices: np.ndarray,
    look: Struct,
    style: str,
    hat: str,
) -> list[Thing]:
    """Hair that is tied, and a hat's brim; ``vertices`` (T, V, 3) of the posed body."""
    meshes = []
    if style == "pony":
        meshes.append(_make_tail(rng, low=bool(look.hat)))
    if style == "bun":
        radius = rng.uniform(0.03, 0.048) * np.array([1.0, 1.0, rng.uniform(0.7, 1.0)])
        low = look.hat or rng.random() < 0.5
        place = np.array([0, 0.115, 1.655]) if low else np.array([0, 0.075, 1.79])
        meshes.append(make_ball(radius).moved(np.eye(3), place))
    axes, origin = fit_frames(
        anchors.rest[anchors.head].astype(np.float64), vertices[:, anchors.head].astype(np.float64)
    )
    things = []
    for mesh in meshes:
        hair = np.array([*look.hair]) * 1.3
        label = MATERIALS.index("hair")
        things.append(Thing(mesh, axes, origin, hair, _HAIR_SLOT, 6.0, 0.03, label))
    if hat in ("cap", "brim"):
        colour, label = np.array([*look.hat_colour]), MATERIALS.index("hat")
        things.append(Thing(_make_brim(rng, anchors, hat), axes, origin, colour, label=label))
    return things


def _make_tail(rng: np.random.Generator, low: bool) -> Mesh:
    """A pony tail that leaves the back of the head and falls."""
    start = np.array([0.0, 0.10, 1.64 if low else rng.uniform(1.66, 1.77)])
    length, lean = rng.uniform(0.14, 0.38), rng.uniform(0.01, 0.03)
    share = np.linspace(0, 1, _SEGMENTS)
    away = 0.05 * np.sin(np.pi * np.minimum(share * 2.5, 1) / 2) + lean * share
    spine = start + np.stack([0 * share, away - 0.02, -length * share**1.4], 1)
    thick = rng.uniform(0.018, 0.034)
    radius = thick * np.interp(share, [0, 0.05, 0.35, 0.8, 1], [0.0, 0.5, 1.0, 0.8, 0.0])
    return make_tube(spine, radius)


def _make_brim(rng: np.random.Generator, anchors: Anchors, hat: str) -> Mesh:
    """A peak before the forehead, or a brim all round, from where the hat ends."""
    rest = anchors.rest[anchors.arm < -0.5]
    band = rest[(rest[:, 2] > 1.70) & (rest[:, 2] < 1.74)]
    middle = np.array([0.0, (band[:, 1].min() + band[:, 1].max()) / 2])
    half = np.array([np.abs(band[:, 0]).max(), np.ptp(band[:, 1]) / 2]) + 0.012
    if hat == "cap":
        angle = np.linspace(-np.pi / 2 - 1.1, -np.pi / 2 + 1.1, 15)
        reach = rng.uniform(0.05, 0.075) * np.cos(np.linspace(-1, 1, 15) * np.pi / 2) ** 0.5
        if rng.random() < 0.12:  # worn the other way round
            angle = angle + np.pi
    else:
        angle = np.linspace(0, 2 * np.pi, 29)
        reach = np.full(29, rng.uniform(0.04, 0.12))
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    front = np.clip(-np.sin(angle), 0, 1)
    height = 1.722 + 0.012 * front
    inner = np.column_stack([middle + ring * (half - 0.01), height])
    droop = rng.uniform(0.0, 0.25)
    outer = np.column_stack([middle + ring * (half + reach[:, None]), height - droop * reach])
    return make_disc(inner, outer)


def make_backpack(
    rng: np.random.Generator, anchors: Anchors, vertices: np.ndarray, bank: Bank
) -> list[Thing]:
    """A pack on the back and its straps over the shoulders."""
    axes, origin = fit_frames(
        anchors.rest[anchors.back].astype(np.float64), vertices[:, anchors.back].astype(np.float64)
    )
    half = np.array([rng.uniform(0.11, 0.17), rng.uniform(0.045, 0.1), rng.uniform(0.15, 0.24)])
    behind = float(anchors.rest[anchors.back][:, 1].max()) + 0.01
    place = np.array([0.0, behind + half[1], 1.42 - half[2]])
    pack = make_box(half).moved(np.eye(3), place)
    if rng.random() < 0.6:
        pocket = make_box(half * [0.75, 0.3, 0.45])
        pack = join_meshes([pack, pocket.moved(np.eye(3), place + half * [0, 1.3, -0.4])])
    plain = rng.random() < 0.6
    colour = textures.any_colour(rng, 0.05, 0.9) ** 2 if plain else np.full(3, rng.uniform(0.5, 1))
    texture = 0 if plain else bank.draw(rng)
    things = [Thing(pack, axes, origin, colour, texture, rng.uniform(2, 5), 0.05)]
    strap = colour * rng.uniform(0.3, 1.0) if plain else np.full(3, 0.05)
    for side in (-1, 1):
        things.append(Thing(_make_strap(anchors, side * 0.085), axes, origin, strap))
    return things


def _make_strap(anchors: Anchors, x: float) -> Mesh:
    """A band around a shoulder, from the pack's top over the front to its side."""
    near = np.abs(anchors.rest[:, 0] - x) < 0.02
    near &= (anchors.arm < 0.05) & (anchors.rest[:, 2] > 1.0) & (anchors.rest[:, 2] < 1.52)
    points = anchors.rest[near][:, 1:] - [0.0, 1.30]
    own = np.arctan2(points[:, 1], points[:, 0])
    line = []
    for angle in np.linspace(0.25 * np.pi, 1.25 * np.pi, 18):  # from the back over the shoulder
        apart = np.abs((own - angle + np.pi) % (2 * np.pi) - np.pi)
        reach = np.linalg.norm(points[apart < 0.2], axis=1).max(initial=0.09) + _STRAP_M
        line.append([x, reach * np.cos(angle), 1.30 + reach * np.sin(angle)])
    spine = np.array(line)
    left, right = spine - [_STRAP_M, 0, 0], spine + [_STRAP_M, 0, 0]
    return make_disc(left, right)

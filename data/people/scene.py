"""Where a person is, and in what light.

A room or the open air, boxes as clutter, a key light and a sky.
"""

from collections.abc import Sequence

import numpy as np

from data.people import fabrics
from data.people.bank import Bank
from data.people.config import Domain
from data.people.rng import pick_one
from data.people.textures import (
    BRICKS,
    CHECKER,
    CLOUDY,
    FACADE,
    GROUND,
    PLANKS,
    PLASTER,
    SHAPES,
    STONES,
    WAVES,
)
from data.people.warp_types import (
    MAX_BOXES,
    SKY_DIRECTIONS,
    Box,
    Light,
    Scene,
    Struct,
    fill_struct,
    mat33,
    vec3,
)

SHADOW_SIDE = 288
SKY_SIDE = 96
CONTACT_M = 1.9  # from a lone person's middle, up to which it darkens the floor
BRIGHTEST_GROUND = 0.42
SEAT_M = 0.2  # the surface that near to the pelvis, seen from above, is what one sits on
SEAT_MOVES_M = 0.12
PLAIN_SCALE = 0.003  # a texture drawn so large that one of its texels is a wall
# Elevation in degrees and azimuth in radians of the directions from which the sky is gathered.
_SKY_ELEVATION = np.array([12] * 5 + [48] * 4 + [86])
_SKY_AZIMUTH = np.array([0, 1.257, 2.513, 3.77, 5.027, 0.6, 2.17, 3.74, 5.31, 0])


def sample_scene(
    rng: np.random.Generator, centre: np.ndarray, domain: Domain, bank: Bank
) -> Struct:
    """A Scene around a person at ``centre`` (3,) metres; the floor is z = 0.

    domain: config.Domain.  bank: of the textures.
    """
    outdoors = rng.random() < domain.outdoors_share
    half = rng.uniform(2.2, 6, 2)
    middle = centre[:2] + rng.uniform(-0.4, 0.4, 2) * half * 0.5
    if outdoors:
        ground = (GROUND, GROUND, GROUND, GROUND, BRICKS)
        wall, wall2, wall_scale = PLASTER, pick_one(rng, (FACADE, CLOUDY, GROUND, STONES)), 0.3
    else:
        ground = (PLANKS, BRICKS, CHECKER, GROUND, CLOUDY)
        walls = (PLASTER, CLOUDY, BRICKS, SHAPES, STONES, FACADE, WAVES)
        wall, wall2, wall_scale = pick_one(rng, walls), pick_one(rng, walls), rng.uniform(0.25, 0.8)
    if bank.looks != "few":
        ground, wall, wall2 = _more_kinds(rng, outdoors, ground, wall, wall2)
    wall_texture, wall2_texture = bank.draw_kind(rng, wall), bank.draw_kind(rng, wall2)
    if not outdoors and rng.random() < 0.6:
        wall2_texture = wall_texture
    bright = rng.uniform(0.5, 1.1)
    blue = np.array([0.25, 0.45, 0.85]) * (rng.random() < 0.6)
    ground_texture = bank.draw_kind(rng, pick_one(rng, ground))
    # A pale floor under the sun comes out as a white hole: its mean is kept where the display curve
    # still has detail.
    dim = min(1.0, BRIGHTEST_GROUND / bank.means[ground_texture].max())
    scene = fill_struct(
        Scene,
        outdoors=outdoors,
        half_x=half[0],
        half_y=half[1],
        height=rng.uniform(2.4, 3.6),
        centre_x=middle[0],
        centre_y=middle[1],
        boxes=0,
        ground_texture=ground_texture,
        ground_scale=rng.uniform(0.3, 1.0),
        ground_colour=vec3(dim * rng.uniform(0.7, 1.15) * (1 + rng.normal(0, 0.05, 3))),
        wall_texture=wall_texture,
        wall2_texture=wall2_texture,
        wall_scale=wall_scale,
        wall_colour=vec3(np.full(3, rng.uniform(0.7, 1.2))),
        wall2_colour=vec3(np.full(3, rng.uniform(0.7, 1.2))),
        ceiling=vec3(np.full(3, rng.uniform(0.5, 0.9))),
        zenith=vec3(bright * blue + bright * 0.6 * np.array([0.5, 0.5, 0.52])),
        haze=vec3(bright * np.array([0.85, 0.88, 0.95])),
        rotation=rng.random(),
    )
    # No number is drawn where the share is 0, so that clips made before there was this key stay as
    # they are.
    if domain.plain_share and rng.random() < domain.plain_share:
        scene.ground_scale = scene.wall_scale = PLAIN_SCALE
    return scene


def sample_boxes(
    rng: np.random.Generator, scene: Struct, centre: np.ndarray, most: int, bank: Bank
) -> list[Struct]:
    """Return up to ``most`` textured boxes on the floor around the person.

    At least 1.2 m from its middle.
    """
    out = []
    for _ in range(int(rng.integers(0, most + 1))):
        for _ in range(20):
            half = np.array([rng.uniform(0.1, 0.7), rng.uniform(0.1, 0.5), rng.uniform(0.15, 1.1)])
            radius = rng.uniform(1.4, 7) if scene.outdoors else rng.uniform(1.2, 3.2)
            way = rng.uniform(0, 2 * np.pi)
            place = centre[:2] + radius * np.array([np.cos(way), np.sin(way)])
            off = np.abs(place - [scene.centre_x, scene.centre_y])
            inside = (off < np.array([scene.half_x, scene.half_y]) - 0.2).all()
            if scene.outdoors or inside:
                break
        if scene.outdoors and radius > 4:
            half = half * rng.uniform(1, 3)
        rotation = rng.uniform(0, 2 * np.pi)
        out.append(
            fill_struct(
                Box,
                centre=vec3([*place, half[2]]),
                half=vec3(half),
                cos=np.cos(rotation),
                sin=np.sin(rotation),
                texture=bank.draw(rng),
                scale=rng.uniform(0.5, 2.0),
                colour=vec3(np.full(3, rng.uniform(0.5, 1.1))),
            )
        )
    return out


def find_footprint(box: Struct) -> tuple[np.ndarray, float, float]:
    """(place (2,), radius, height) of the upright cylinder around a Box, metres."""
    return (
        np.array([box.centre[0], box.centre[1]]),
        1.42 * max(box.half[0], box.half[1]),
        2 * box.half[2],
    )


def in_the_way(
    place: np.ndarray, radius: float, eyes: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Return (n,) bool: a cylinder on the floor stands between eyes and targets.

    Its radius is in metres; eyes and targets are (n, 3) each.
    """
    way = targets[:, :2] - eyes[:, :2]
    u = np.clip(((place - eyes[:, :2]) * way).sum(1) / (way * way).sum(1), 0, 1.05)
    return np.linalg.norm(eyes[:, :2] + u[:, None] * way - place, axis=1) < radius


def keep_boxes(
    rng: np.random.Generator,
    boxes: Sequence[Struct],
    eyes: np.ndarray,
    targets: np.ndarray,
    person_height: float,
) -> list[Struct]:
    """Return the boxes that may stay.

    No camera is inside one, and only low ones may stand before a person and hide the legs.
    """
    kept = []
    for box in boxes:
        place, radius, height = find_footprint(box)
        inside = (np.linalg.norm(eyes[:, :2] - place, axis=1) < radius + 0.1).any()
        hides = in_the_way(place, radius + 0.35, eyes, targets).any()
        if not inside and (not hides or (height < 0.38 * person_height and rng.random() < 0.5)):
            kept.append(box)
    return kept[:MAX_BOXES]


def make_seat(
    rng: np.random.Generator,
    points: np.ndarray,
    pelvis: np.ndarray,
    heading_deg: float,
    bank: Bank,
) -> Struct | None:
    """A box under somebody who sits; None where the pelvis moves, or is near the floor.

    Args:
        points: (T, n, 3) of the body's surface.  pelvis: (T, 3).  heading_deg: where it faces.
    """
    if np.linalg.norm(np.ptp(pelvis, 0)) > SEAT_MOVES_M:
        return None
    middle = pelvis.mean(0)
    near = np.linalg.norm(points[..., :2] - middle[:2], axis=-1) < SEAT_M
    top = float(points[near][:, 2].min()) if near.any() else 0.0
    if top < 0.12:
        return None
    way = np.deg2rad(heading_deg)
    forward = np.array([np.sin(way), -np.cos(way)])
    half = np.array([rng.uniform(0.2, 0.45), rng.uniform(0.19, 0.24), top / 2])
    place = middle[:2] - forward * (half[1] - 0.15)
    return fill_struct(
        Box,
        centre=vec3([*place, half[2]]),
        half=vec3(half),
        cos=np.cos(way),
        sin=np.sin(way),
        texture=bank.draw(rng),
        scale=rng.uniform(0.5, 2.0),
        colour=vec3(np.full(3, rng.uniform(0.5, 1.1))),
    )


def make_occluder(
    rng: np.random.Generator, eye: np.ndarray, points: np.ndarray, eyes: np.ndarray, bank: Bank
) -> Struct | None:
    """A post, a panel or a low thing between a camera and a person; None where there is no room.

    Args:
        eye: (3,) of the camera.  points: (n, 3) of the person.  eyes: (m, 3) of all cameras, none
            of which may be inside it.
    """
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    way = middle[:2] - eye[:2]
    distance = float(np.linalg.norm(way))
    share = rng.uniform(0.35, 0.75)
    if distance * (1 - share) < 0.55 or distance * share < 0.35:
        return None
    across = np.array([-way[1], way[0]]) / distance
    width = float(np.ptp(points[:, :2] @ across)) * share  # what hides all of the person there
    reach = eye[2] + share * (high[2] - eye[2])  # and up to where it would
    if rng.random() < 0.45:  # a table, a hedge: all of the width, up to the thighs or the waist
        half = np.array([width * rng.uniform(0.4, 1.2), rng.uniform(0.05, 0.3)])
        knee = eye[2] + share * (low[2] + rng.uniform(0.2, 0.55) * (high[2] - low[2]) - eye[2])
        tall = max(0.05, knee)
        aside = rng.normal(0, 0.3) * width
    else:  # a post, a door: all of the height, up to two fifths of the width
        half = np.array([width * rng.uniform(0.05, 0.2), rng.uniform(0.03, 0.15)])
        tall = reach * rng.uniform(0.8, 1.6) + 0.1
        aside = rng.uniform(-0.5, 0.5) * width
    place = eye[:2] + share * way + aside * across
    radius = float(np.hypot(*half))
    if (np.linalg.norm(eyes[:, :2] - place, axis=1) < radius + 0.15).any():
        return None
    if (np.linalg.norm(points[:, :2] - place, axis=1) < radius).any():
        return None
    return fill_struct(
        Box,
        centre=vec3([*place, tall / 2]),
        half=vec3([*half, tall / 2]),
        cos=across[0],
        sin=across[1],
        texture=bank.draw(rng),
        scale=rng.uniform(0.5, 2.0),
        colour=vec3(np.full(3, rng.uniform(0.5, 1.1))),
    )


def sample_light(
    rng: np.random.Generator, outdoors: bool, centre: np.ndarray, radius: float
) -> tuple[Struct, np.ndarray, np.ndarray]:
    """A Light and what the sky's directions are.

    Args:
        centre: (3,) metres.  radius: metres within which the person stays.
    Returns:
        Light; (SKY_DIRECTIONS, 3, 3) float32 axes of their depth maps; (SKY_DIRECTIONS, 3) float32
        light from each.
    """
    height, way = np.deg2rad(rng.uniform(18, 80)), rng.uniform(0, 2 * np.pi)
    direction = np.array(
        [np.cos(height) * np.cos(way), np.cos(height) * np.sin(way), np.sin(height)]
    )
    warm = rng.uniform(-1, 1)
    if outdoors:
        key = pick_one(rng, (rng.uniform(0.05, 0.3), rng.uniform(0.8, 1.9)), (0.3, 0.7))
    else:
        key = rng.uniform(0.15, 1.15)
    level, tint = rng.uniform(0.35, 0.8), rng.uniform(-1, 1)
    sky = level * np.array([0.92 + 0.1 * tint, 0.98, 1.08 - 0.15 * tint])
    horizon = level * rng.uniform(0.5, 0.9) * np.array([1.0, 0.97, 0.93])
    ground = level * rng.uniform(0.25, 0.6) * np.array([1.0, 0.95, 0.88])
    light = fill_struct(
        Light,
        direction=vec3(direction),
        colour=vec3(key * np.array([1 + 0.14 * warm, 1.0, 1 - 0.2 * warm])),
        axes=mat33(map_axes(direction)),
        centre=vec3(centre),
        shadow_side=SHADOW_SIDE,
        shadow_scale=SHADOW_SIDE / (2.15 * radius),
        sky_side=SKY_SIDE,
        sky_scale=SKY_SIDE / (2.3 * radius),
        sky=vec3(sky),
        horizon=vec3(horizon),
        ground=vec3(ground),
        contact=CONTACT_M,
    )
    height = np.deg2rad(_SKY_ELEVATION)
    way = rng.uniform(0, 2 * np.pi) + _SKY_AZIMUTH
    ways = np.stack([np.cos(height) * np.cos(way), np.cos(height) * np.sin(way), np.sin(height)], 1)
    up = np.sin(height)[:, None]
    colours = (horizon * (1 - up) + sky * up) * 0.32 * rng.uniform(0.6, 1.4, (SKY_DIRECTIONS, 1))
    return (
        light,
        np.stack([map_axes(w) for w in ways]).astype(np.float32),
        colours.astype(np.float32),
    )


def map_axes(direction: np.ndarray) -> np.ndarray:
    """(3, 3) rows x, y, z of a depth map for light from ``direction`` (3,).

    ``z`` grows away from the light.
    """
    z = -np.asarray(direction, np.float64) / np.linalg.norm(direction)
    x = np.cross(z, [0, 0, 1.0] if abs(z[2]) < 0.95 else [1.0, 0, 0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _more_kinds(
    rng: np.random.Generator, outdoors: bool, ground: tuple[int, ...], wall: int, wall2: int
) -> tuple[tuple[int, ...], int, int]:
    """The kinds of ground to draw from and of both walls, with those of the large bank."""
    if outdoors:
        far = (FACADE, fabrics.METAL, fabrics.LEAVES, BRICKS, fabrics.CONCRETE)
        return (*ground, fabrics.CONCRETE, fabrics.TILES), wall, pick_one(rng, (wall2, *far))
    inner = (fabrics.PARQUET, fabrics.TILES, fabrics.CONCRETE, fabrics.RUG, fabrics.FLEECE)
    walls = (PLASTER, fabrics.WALLPAPER, fabrics.PANELS, fabrics.BOOKS, fabrics.CONCRETE)
    walls = (*walls, fabrics.TILES, fabrics.METAL, PLASTER)
    return (PLANKS, CHECKER, *inner), pick_one(rng, (wall, *walls)), pick_one(rng, (wall2, *walls))

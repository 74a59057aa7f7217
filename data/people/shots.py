"""Cameras: where they stand, how they are rotated, which square is the crop.

Also how they develop their image.

A camera of a clip stays where it is and rotates to follow the person, so its crops share the centre
of projection. World: metres, z up. Camera: OpenCV axes. Pixel centres at +0.5.
"""

from collections.abc import Sequence

import numpy as np

from data.people import scene as scenes
from data.people.config import Domain, PeopleConfig
from data.people.rng import pick_one
from data.people.warp_types import MAX_BOXES, Shot, Struct, fill_struct, mat33, vec3
from engine.geometry import angle_about

CANDIDATES = 8
CURVE_STEPS = 2048
WALL_GAP_M = 0.15
LEAST_EYE_M = 0.2  # from a camera to what it looks at
NEAREST_BODY_M, NEAREST_HAND_M = 1.4, 0.5


class Photography:
    """How all cameras of a clip develop their images.

    Attributes:
        gain: (3,) exposure and white balance.  curve: (2048,) float32, display value of linear
            light in [0, 4].
        vignette: darkening at the middle of an edge.  noise: standard deviation of the sensor's
            noise, display values.
    """

    def __init__(self, rng: np.random.Generator, light: Struct) -> None:
        level = light.horizon[1] * 0.75 + light.ground[1] * 0.15 + light.colour[1] * 0.45
        self.gain = (0.70 / level) ** 0.8 * rng.uniform(0.8, 1.22) * (1 + rng.normal(0, 0.05, 3))
        gamma, contrast = rng.uniform(0.88, 1.12) / 2.2, rng.uniform(0.9, 1.18)
        self.vignette = rng.uniform(0, 0.16)
        self.noise = pick_one(rng, (0.0, rng.uniform(0.004, 0.022)))
        x = (np.arange(CURVE_STEPS) + 0.5) / 512
        shoulder = np.clip(
            1.38 * x * (1 + 0.12 * x) / (1 + 0.55 * x), 0, 1
        )  # bright light fades out softly
        self.curve = np.clip(0.5 + (shoulder**gamma - 0.5) * contrast, 0, 1).astype(np.float32)


def sample_azimuths(
    rng: np.random.Generator, heading_deg: float, config: PeopleConfig
) -> np.ndarray:
    """Return (C,) radians about the vertical where the cameras stand.

    The second is near the first, the rest anywhere.
    """
    domain = config.domain
    front = np.deg2rad(heading_deg - 90)
    if rng.random() < domain.any_side_share:
        first = rng.uniform(0, 2 * np.pi)
    else:
        first = front + rng.normal(0, np.deg2rad(domain.facing_deg))
    out = [first]
    for k in range(1, config.cameras):
        least, most = (10, config.near_deg * 0.9) if k == 1 else (15, max(15, domain.far_view_deg))
        out.append(
            first + pick_one(rng, (-1, 1)) * np.deg2rad(rng.uniform(least, max(least, most)))
        )
    return np.array(out)


def sample_eyes(
    rng: np.random.Generator,
    scene: Struct,
    boxes: Sequence[Struct],
    centre: np.ndarray,
    azimuth: float,
    domain: Domain,
    hand: bool,
    spread: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Places for one camera, the first exactly at the azimuth, and how bad each is.

    Args:
        centre: (3,) what it points at.  azimuth: radians.  hand: whether that is a hand.  spread:
            radians.
    Returns:
        eyes (8, 3) metres inside the scene; penalty (8,): 2 where too near, 1 where a box is in the
        way.
    """
    near, far = domain.hand_distance_m if hand else domain.distance_m
    radius = rng.uniform(near, far, CANDIDATES)
    around = azimuth + rng.normal(0, spread, CANDIDATES) * (np.arange(CANDIDATES) > 0)
    if hand:
        height = np.clip(centre[2] + rng.normal(0, 0.5, CANDIDATES) * radius * 0.5, 0.1, 2.6)
    else:
        height = np.clip(rng.normal(domain.height_m, domain.height_spread_m, CANDIDATES), 0.15, 3.0)
    eyes = np.stack(
        [centre[0] + radius * np.cos(around), centre[1] + radius * np.sin(around), height], 1
    )
    if not scene.outdoors:
        room = np.array([scene.half_x, scene.half_y]) - WALL_GAP_M
        middle = np.array([scene.centre_x, scene.centre_y])
        eyes[:, :2] = np.clip(eyes[:, :2], middle - room, middle + room)
        eyes[:, 2] = np.clip(eyes[:, 2], 0.05, scene.height - WALL_GAP_M)
    away = np.linalg.norm(eyes[:, :2] - centre[:2], axis=1)
    penalty = (away < (NEAREST_HAND_M if hand else NEAREST_BODY_M)) * 2.0
    for box in boxes:
        place, size, tall = scenes.find_footprint(box)
        hidden = scenes.in_the_way(place, size + 0.05, eyes, np.tile(centre, (CANDIDATES, 1)))
        at_camera = np.linalg.norm(eyes[:, :2] - place, axis=1) < 0.2 * away + size
        penalty += hidden & (at_camera | (tall > 0.75) | (rng.random(CANDIDATES) < 0.5))
    return eyes, penalty


def near_eye(first: np.ndarray, eye: np.ndarray, centre: np.ndarray, near_rad: float) -> np.ndarray:
    """Move ``eye`` towards ``first`` until the two are at most ``near_rad`` apart.

    As seen from ``centre``; (3,) metres each.

    A wall may have pushed a camera round the person. Halving the way ends inside the room, which is
    convex.
    """
    for _ in range(20):
        if angle_about(centre, first, eye) <= near_rad:
            return eye
        eye = (eye + first) / 2
    return first


def keep_away(eye: np.ndarray, points: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return (3,) the eye, further from ``middle`` where it is nearer than LEAST_EYE_M to a point.

    Args:
        points: (n, 3) that no camera may touch, at all instants.  middle: (3,) of them.
    """
    away = eye - middle
    length = float(np.linalg.norm(away))
    away = away / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])
    while np.linalg.norm(points - eye, axis=1).min() < LEAST_EYE_M:
        eye = eye + LEAST_EYE_M * away
    return eye


def look_at(eye: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """(3, 3) rows right, down, forward of a camera at ``eye`` that points at ``target``.

    ``roll`` in radians.
    """
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * down, -s * right + c * down, forward])


def make_shot(
    rng: np.random.Generator,
    instant: int,
    eye: np.ndarray,
    points: np.ndarray,
    size: int,
    margin: float,
    photography: Photography,
    domain: Domain,
) -> Struct:
    """A crop around some points.

    Args:
        instant: index.  eye: (3,).  points: (n, 3) world points that must be in the crop.  size:
            pixels.
        margin: side of the crop over the side of the points' square.
    """
    target = (points.min(0) + points.max(0)) / 2
    aim = target + rng.normal(0, 0.02, 3)
    if domain.off_axis_deg:
        # A person is rarely in the middle of a photograph: the crop's ray is off the optical axis.
        aside = np.tan(np.deg2rad(rng.normal(0, domain.off_axis_deg, 2)))
        axes = look_at(eye, target, 0.0)
        aim = aim + np.linalg.norm(target - eye) * (aside @ axes[:2])
    rotation = look_at(eye, aim, rng.normal(0, 0.04))
    translation = -rotation @ eye
    seen = points @ rotation.T + translation
    seen = seen[seen[:, 2] > 0.1]
    image = seen[:, :2] / seen[:, 2:]
    low, high = image.min(0), image.max(0)
    side = (high - low).max() * margin
    slack = (margin - 1) / margin / 2
    shift = np.clip(rng.normal(0, 0.04, 2), -0.6 * slack, 0.6 * slack)
    if domain.cut_share and rng.random() < domain.cut_share:
        shift = rng.uniform(-0.3, 0.3, 2)  # the person is cut off by the image's edge
    middle = (low + high) / 2 + shift * side
    focal = size / side
    return fill_struct(
        Shot,
        instant=instant,
        rotation=mat33(rotation),
        translation=vec3(translation),
        focal=focal,
        cx=size / 2 - focal * middle[0],
        cy=size / 2 - focal * middle[1],
        eye=vec3(eye),
        gain=vec3(photography.gain * (1 + rng.normal(0, 0.02, 3))),
        vignette=photography.vignette,
        noise=photography.noise,
        noise_x=rng.integers(256),
        noise_y=rng.integers(256),
    )


def read_calibration(shot: Struct) -> tuple[np.ndarray, np.ndarray]:
    """Return (3, 3) K in the crop's pixels and (3, 4) Rt, world to camera.

    Float64 of the float32 numbers that were drawn with.
    """
    K = np.array([[shot.focal, 0, shot.cx], [0, shot.focal, shot.cy], [0, 0, 1]], np.float64)
    rotation = np.array(shot.rotation, np.float64).reshape(3, 3)
    return K, np.concatenate([rotation, np.array([*shot.translation], np.float64)[:, None]], 1)


def box_spans(shots: Sequence[Struct], boxes: Sequence[Struct]) -> np.ndarray:
    """(N, 8, 4) float32 x0, y0, x1, y1 in pixels that hold each box.

    An empty span where it is behind the camera.
    """
    empty, everywhere = [1e9, 1e9, -1e9, -1e9], [-1e9, -1e9, 1e9, 1e9]
    out = np.tile(np.array(empty, np.float32), (len(shots), MAX_BOXES, 1))
    if not boxes:
        return out
    corners = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], np.float64)
    local = corners[None] * np.array([[*b.half] for b in boxes])[:, None]
    c, s = np.array([b.cos for b in boxes])[:, None], np.array([b.sin for b in boxes])[:, None]
    rotated = np.stack(
        [
            local[..., 0] * c - local[..., 1] * s,
            local[..., 0] * s + local[..., 1] * c,
            local[..., 2],
        ],
        -1,
    )
    world = rotated + np.array([[*b.centre] for b in boxes])[:, None]
    for n, shot in enumerate(shots):
        K, Rt = read_calibration(shot)
        seen = world @ Rt[:, :3].T + Rt[:, 3]
        behind = seen[..., 2] < 0.05
        xy = seen[..., :2] / np.maximum(seen[..., 2:], 1e-3) * shot.focal + K[:2, 2]
        out[n, : len(boxes)] = np.concatenate([xy.min(1) - 1, xy.max(1) + 1], -1)
        out[n, : len(boxes)][behind.any(1)] = everywhere  # partly behind: its corners say nothing
        out[n, : len(boxes)][behind.all(1)] = empty
    return out

"""The camera of a scene: lens, shape of the frame, height, and where it points.

The camera stands at x = y = 0 and stays there. World and camera axes as in shots.py.
"""

from dataclasses import dataclass

import numpy as np

from data.format.frame import ASPECTS
from data.people.config import PeopleConfig
from data.people.rng import pick_one
from data.people.shots import look_at

FILM_MM = 36.0  # along a frame's longer side: focal lengths are as on such film
TALL_M = 1.65  # of somebody for whom a distance is chosen
# How tall somebody is in the frame, over the frame's height: least and most, by the kind of frame.
TALL_IN_FRAME = {"group": (0.3, 1.0), "crowd": (0.12, 0.7), "close": (1.2, 3.4)}
NEAREST_M, FARTHEST_M, FARTHEST_INSIDE_M = 0.75, 45.0, 9.0
LOW_SHARE, HIGH_SHARE = 0.12, 0.15  # of cameras near the floor, and above everybody's heads


@dataclass
class View:
    """How a frame is taken.

    Attributes:
        kind: one of TALL_IN_FRAME.
        width, height: pixels.  focal: pixels.
        eye: (3,) metres.  ahead, right: (2,) unit vectors on the floor.
        distance_m: on the floor, to the person whom the frame is about.
    """

    kind: str
    width: int
    height: int
    focal: float
    eye: np.ndarray
    ahead: np.ndarray
    right: np.ndarray
    distance_m: float

    def place(self, distance_m: float, across: float) -> np.ndarray:
        """(2,) metres on the floor of what is so far and ``across`` the frame, 0 to 1."""
        aside = (across - 0.5) * self.width / self.focal
        return self.eye[:2] + distance_m * (self.ahead + aside * self.right)

    @property
    def nearest_m(self) -> float:
        """Where nobody may come nearer along the optical axis."""
        return 0.45 * NEAREST_M


def draw_size(rng: np.random.Generator, config: PeopleConfig) -> tuple[int, int]:
    """(width, height) in pixels of a frame, both even."""
    ratio = ASPECTS[pick_one(rng, config.scene.aspects)]
    shorter = 2 * round(config.size * min(ratio, 1 / ratio) / 2)
    return (config.size, shorter) if ratio >= 1 else (shorter, config.size)


def draw_view(rng: np.random.Generator, config: PeopleConfig, outdoors: bool) -> View:
    """A View by the config's shares and ranges."""
    keys, domain = config.scene, config.domain
    width, height = draw_size(rng, config)
    low, high = np.log(keys.lens_mm)
    focal = float(np.exp(rng.uniform(low, high))) / FILM_MM * max(width, height)
    others = 1 - keys.close_share - keys.crowd_share
    shares = (others, keys.crowd_share, keys.close_share)
    kind = pick_one(rng, ("group", "crowd", "close"), shares)
    tall = np.exp(rng.uniform(*np.log(TALL_IN_FRAME[kind])))
    most = FARTHEST_M if outdoors else FARTHEST_INSIDE_M
    distance = float(np.clip(TALL_M * focal / (tall * height), NEAREST_M, most))
    eye = np.array([0.0, 0.0, _draw_height(rng, domain.height_m, domain.height_spread_m, outdoors)])
    turn = rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.cos(turn), np.sin(turn)])
    right = np.array([np.sin(turn), -np.cos(turn)])
    return View(kind, width, height, focal, eye, ahead, right, distance)


def _draw_height(rng: np.random.Generator, mean_m: float, spread_m: float, outdoors: bool) -> float:
    drawn, share = float(np.clip(rng.normal(mean_m, spread_m), 0.2, 2.4)), rng.random()
    low, high = rng.uniform(0.15, 0.6), rng.uniform(2.1, 5.0 if outdoors else 2.7)
    if share < LOW_SHARE:
        return float(low)
    return float(high) if share > 1 - HIGH_SHARE else drawn


def aim(rng: np.random.Generator, view: View, points: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of the camera, world to camera; turns the view's ``ahead`` with it.

    A point of the person whom the frame is about is in the frame, mostly one of the upper body.

    Args:
        points: (n, 3) of the person.
    """
    heights = points[:, 2]
    low = np.quantile(heights, rng.uniform(0.2, 0.85))
    upper = points[heights >= low]
    target = upper[int(rng.integers(len(upper)))].astype(np.float64) - view.eye
    across, down = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.62)
    away = float(np.hypot(*target[:2]))
    rise = np.arctan2(target[2], away) + np.arctan((down - 0.5) * view.height / view.focal)
    turn = np.arctan2(target[1], target[0])
    turn += np.arctan((across - 0.5) * view.width / view.focal)
    pitch = float(np.clip(rise, -1.35, 1.0))
    view.ahead = np.array([np.cos(turn), np.sin(turn)])
    view.right = np.array([np.sin(turn), -np.cos(turn)])
    axis = np.array([*(np.cos(pitch) * view.ahead), np.sin(pitch)])
    return look_at(view.eye, view.eye + axis, rng.normal(0, 0.04))

"""Photographs of the user's own as what is behind synthetic humans.

A photograph is laid on a dome around the person: one surface in the world, which all cameras of a
clip see from where they stand. It spans a quarter of the way around, and is mirrored to fill the
rest. The floor inside the dome stays a drawn one, in the light and with the person's shadow, in the
mean colour of the photograph's lowest part. Nobody knows a photograph's own camera: its horizon is
taken to be near its middle, its scale is a guess, and what stood in front in it is on the dome.
"""

import os
from dataclasses import dataclass

import cv2
import numpy as np

from data.people.split import holds
from data.people.warp_types import PHOTO_LEVELS, PHOTO_SIDE, Struct, vec3
from data.sources import photo_folder
from data.sources.frames import Unreadable
from data.sources.images import read_image
from data.sources.user_folder import mark_files
from engine.errors import UserError
from engine.logging.console import get_logger

LEAST_SIDE = 64  # pixels: what is smaller is an icon
QUARTER = np.pi / 2
MEAN_LIGHT = 0.2  # linear; a photograph's mean is moved half of the way there
FLOOR_PART = 0.3  # of the photograph's height, from below: what is taken for ground
KEY = "domain.backgrounds"

log = get_logger(__name__)


@dataclass
class Photo:
    """One photograph as the renderer wants it.

    Attributes:
        texels: (n, 3) uint8 square roots of linear light, PHOTO_SIDE squared and then its smaller
            levels, one after the other.
        height_rad: the angle that it spans from top to bottom, where it spans a quarter across.
        light: linear factor that brings its brightness near that of others.
        floor: (3,) mean linear RGB of its lowest part.
        turn: where around the person it begins, in rounds.
        radius_m, eye_m: of the dome, and the height of the point that it is seen from.
        middle_rad: elevation of its middle.
    """

    texels: np.ndarray
    height_rad: float
    light: float
    floor: np.ndarray
    turn: float
    radius_m: float
    eye_m: float
    middle_rad: float

    def fill(
        self, scene: Struct, light: Struct, centre: np.ndarray, texture_means: np.ndarray
    ) -> None:
        """Put it into a Scene around a person at ``centre`` (3,) metres.

        texture_means: see scene.sample_scene.
        """
        scene.photo = 1
        scene.photo_centre = vec3([centre[0], centre[1], self.eye_m])
        scene.photo_radius = float(self.radius_m)
        scene.photo_scale = float(1 / self.height_rad)
        scene.photo_middle = float(self.middle_rad)
        scene.rotation = float(self.turn)
        # As white paper is lit that faces the camera: see shots.Photography, which exposes for it.
        sky, sun = np.array([*light.horizon]), np.array([*light.colour])
        ground = np.array([*light.ground])
        colour = self.light * (sky * 0.75 + ground * 0.15 + sun * 0.45)
        scene.photo_colour = vec3(colour)
        # The floor is lit (kernels_scene.light_scene): its colour is what comes out in that light.
        lit = ground * 0.25 + np.array([*light.sky]) * 0.35 + sky * 0.65 + sun * light.direction[2]
        scene.outdoors = 1
        scene.ground_colour = vec3(
            self.floor * colour / (lit * texture_means[scene.ground_texture])
        )


def list_photos(folder: str) -> list[str]:
    """Paths of the images below a folder, as data.sources.photo_folder has them."""
    return photo_folder.list_photos(folder, KEY)


def mark_photos(folder: str) -> str:
    """16 hex digits that change with the names, sizes or ends of a folder's images.

    Raises:
        UserError: as list_photos; a file that cannot be read.
    """
    return mark_files(folder, list_photos(folder), KEY, b"backgrounds")


class Backgrounds:
    """Draws photographs from a folder.

    Args:
        folder: of images, also in folders inside it; those that cannot be read are told once and
            passed over.  looks: see split.py; each side has the images whose names are of it.

    Raises:
        UserError: there is no such folder, or no image in it that is of these looks.
    """

    def __init__(self, folder: str, looks: str = "few") -> None:
        names = list_photos(folder)
        self.folder = folder
        self.names = [name for name in names if holds(looks, f"photograph {name}")]
        if not self.names:
            raise UserError(
                f"domain.backgrounds={folder} holds {len(names)} images, and by their names none "
                f"is for domain.looks={looks}; add some"
            )
        self._broken: set[str] = set()

    def draw(self, rng: np.random.Generator) -> Photo:
        """A photograph, and a part of it, drawn by ``rng`` alone.

        Raises:
            UserError: not one image of the folder can be read.
        """
        order = rng.integers(0, 2**32, len(self.names))
        for i in np.argsort(order, kind="stable"):
            image = self._read(self.names[i])
            if image is not None:
                return prepare_photo(image, rng)
        raise UserError(f"domain.backgrounds={self.folder}: none of its images can be read")

    def _read(self, name):
        if name in self._broken:
            return None
        path = os.path.join(self.folder, name)
        try:
            image = read_image(path)
            if min(image.shape[:2]) >= LEAST_SIDE:
                return image
            reason = f"it is {image.shape[1]}x{image.shape[0]}, at least {LEAST_SIDE} are needed"
        except (UserError, Unreadable) as error:
            reason = str(error)
        self._broken.add(name)
        log.warning(f"domain.backgrounds: {path} is passed over: {reason}")
        return None


def prepare_photo(image: np.ndarray, rng: np.random.Generator) -> Photo:
    """A random part of an image (H, W, 3) uint8 of display values as the renderer wants it."""
    height, width = image.shape[:2]
    aspect = float(np.clip(height / width * rng.uniform(0.8, 1.25), 0.5, 1.4))
    share = rng.uniform(0.7, 1.0)
    across = share * min(width, height / aspect)
    down = across * aspect
    x, y = rng.random(2) * [width - across, height - down]
    part = image[int(y) : int(y + down), int(x) : int(x + across)]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    # Displays' curve, roughly: texels are square roots of linear light, as in the bank of textures.
    linear = (np.arange(256, dtype=np.float32) / 255) ** 2.2
    mean = float(linear[part[:: max(1, len(part) // 256)]].mean())
    light = float(np.clip(np.sqrt(MEAN_LIGHT / max(mean, 1e-3)), 0.6, 1.8))
    roots = (np.sqrt(linear) * 255 + 0.5).astype(np.uint8)
    is_large = min(part.shape[:2]) > PHOTO_SIDE
    way = cv2.INTER_AREA if is_large else cv2.INTER_LINEAR
    top = cv2.resize(np.ascontiguousarray(part), (PHOTO_SIDE, PHOTO_SIDE), interpolation=way)
    levels = [roots[top]]
    floor = linear[top[int(PHOTO_SIDE * (1 - FLOOR_PART)) :: 8, ::8]].mean((0, 1))
    for _ in range(PHOTO_LEVELS - 1):
        side = len(levels[-1]) // 2
        levels.append(cv2.resize(levels[-1], (side, side), interpolation=cv2.INTER_AREA))
    return Photo(
        np.concatenate([level.reshape(-1, 3) for level in levels]),
        QUARTER * aspect,
        light,
        floor,
        rng.random(),
        rng.uniform(6.5, 10.0),
        rng.uniform(1.3, 1.9),
        rng.normal(0, 0.08),
    )

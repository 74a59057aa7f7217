"""Photographs as clips to fit: the people in them found and cut, each by its own camera."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from data.cropping.geometry import crop_camera_of, square_around
from data.cropping.host import cut_square
from data.format.clip import Clip, Crop
from data.format.labels import Keypoints, Labels
from data.format.shards import shard_name, write_shard
from data.sources.listing import IMAGE_SUFFIXES
from engine.errors import UserError
from engine.run.files import make_folder
from finetune.fit.footage import CLIPS
from finetune.inference.image_camera import CameraFinder
from finetune.inference.images import read_image
from finetune.inference.search import Region, search_images

LEAST_SCORE = 0.5  # of a person that is fitted
MARGIN, SIZE, QUALITY = 1.25, 256, 92  # of crops, as data pairs cuts them
SETS = {"body": "coco17", "hand": "hand21"}  # of the finder's keypoints
SIDES = ("left", "right")


def is_photo(path: str) -> bool:
    """Whether a path is an image's, by its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def cut_photos(paths: Sequence[str], out: str, kind: str, finder: CameraFinder) -> str:
    """Return the folder of the clips of photographs: one crop of each person.

    Args:
        out: folder of the fit.  kind: "body" or "hand".  finder: of their cameras.
    Raises:
        UserError: nobody is in them, or one cannot be read.
    """
    folder = Path(out) / CLIPS
    place = folder / shard_name(0)
    if place.exists():
        return str(folder)
    clips: list[Clip] = []
    found = search_images(paths, [kind], LEAST_SCORE, SIDES)
    for number, path in enumerate(paths):
        if path in found:
            clips += _cut_people(path, number, found[path][kind], kind, finder)
    if not clips:
        raise UserError(f"{paths[0]}: nobody whose keypoints are known was found in it")
    make_folder(folder, f"out={out}")
    write_shard(str(place), clips)
    return str(folder)


def _cut_people(
    path: str, number: int, regions: Sequence[Region], kind: str, finder: CameraFinder
) -> list[Clip]:
    image = read_image(path)
    height, width = image.shape[:2]
    camera = finder.find_camera(path, width, height, photograph=True)
    print(f"{path}: {camera.describe()}")
    image = camera.correct_image(image)
    clips = []
    for person, region in enumerate(camera.correct_regions(regions)):
        if region.keypoints is None:
            continue
        square = square_around(region.box, MARGIN)
        corner, scale = np.array(square.box[:2]), SIZE / square.side
        points = (region.keypoints[:, :2] - corner) * scale
        crop = Crop(
            "photo",
            0.0,
            "body" if kind == "body" else f"{region.side}_hand",
            crop_camera_of(square, camera.K, SIZE),
            np.eye(3, 4),
            list(square.box),
            os.path.basename(path),
        )
        pixels = np.ascontiguousarray(cut_square(image, square, SIZE))
        seen = Keypoints(SETS[kind], points[None], region.keypoints[None, :, 2])
        clips.append(
            Clip(
                f"photo_{number:06d}_{person:02d}",
                "photographs",
                "",
                f"photo_{number:06d}_{person:02d}",
                SIZE,
                [crop],
                [simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorspace="RGB")],
                labels=Labels(np.zeros(1, np.int64), keypoints=seen),
            )
        )
    return clips

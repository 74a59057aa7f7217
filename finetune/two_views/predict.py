"""``python -m finetune predict_pair``: the mesh of a person or hand in two images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.sources.cameras import Camera, match_videos, read_cameras
from engine.config.parser import parse_keys
from engine.config.paths import split_paths
from engine.errors import UserError, explain, failure_of
from engine.run.files import make_folder
from finetune.image_files import write_results
from finetune.inference.image_camera import (
    CameraFinder,
    ImageCamera,
    LensCorrection,
    estimate_camera,
    take_camera,
)
from finetune.inference.images import read_image
from finetune.inference.lens import open_lens
from finetune.inference.search import Region
from finetune.person import Person
from finetune.predict import list_regions, read_boxes, refuse_equal_names
from finetune.two_views.predictor import PairPredictor, PlacedCamera, move_person
from finetune.verb_config import PredictPairConfig
from finetune.viz import draw

Cameras = tuple[PlacedCamera, PlacedCamera]


def main(argv: Sequence[str]) -> int:
    """Run ``python -m finetune predict_pair``; returns the exit code."""
    config, paths = parse_keys(PredictPairConfig, argv, "finetune predict_pair")
    if len(paths) != 2:
        raise UserError(f"{len(paths)} images are named; predict_pair takes two of one person")
    runs = split_paths(config.run, "run")
    if len(runs) != 1:
        raise UserError(
            f"run={config.run}: one run of task=two_views is wanted; no weights for two views ship"
        )
    finder = CameraFinder(config.intrinsics)
    refuse_equal_names(paths)
    images = [read_image(path) for path in paths]
    predictor = PairPredictor(runs[0], config.device)
    lens = None if config.calibration else open_lens(config.lens, config.device)
    placed = None
    if config.calibration:
        cameras, placed = _place_cameras(config, paths, images)
    else:
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        cameras = [
            finder.find_camera(path, *size, photograph=True)
            for path, size in zip(paths, sizes, strict=True)
        ]
    images = [camera.correct_image(image) for camera, image in zip(cameras, images, strict=True)]
    kind = predictor.body.kind
    regions = _match_people(config, paths, kind)
    if not config.whole_image:
        regions = [
            camera.correct_regions(inside) for camera, inside in zip(cameras, regions, strict=True)
        ]
    if kind == "body" and not config.whole_image:
        cameras = [
            estimate_camera(camera, lens, image, inside)
            for camera, image, inside in zip(cameras, images, regions, strict=True)
        ]
    boxes = None if config.whole_image else _list_boxes(regions)
    K = np.stack([camera.K for camera in cameras])
    sides = [region.side for region in regions[0]]
    found = predictor(images[0], images[1], boxes, placed, K, sides)
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file; results need a folder")
    make_folder(out, f"out={out}")
    stems = [out / Path(path).stem for path in paths]
    write_results(stems[0], images[0], found, {kind: predictor.body}, source=cameras[0].source)
    written = f"{stems[0]}.overlay.png, {stems[0].name}.glb, {stems[0].name}.json"
    if placed is not None:
        _draw_second(stems[1], images[1], found, placed, boxes)
        written += f", {stems[1].name}.overlay.png"
    for path, camera in zip(paths, cameras, strict=True):
        print(f"{path}: {camera.describe()}")
    print(f"{paths[0]} and {paths[1]}: {len(found)} in both: {written}")
    return 0


def _place_cameras(
    config: PredictPairConfig, paths: Sequence[str], images: Sequence[np.ndarray]
) -> tuple[list[ImageCamera], Cameras]:
    """The cameras of both images by calibration=, and how they stand."""
    known = _choose_cameras(config, paths, images)
    source = f"calibration={Path(config.calibration).name}"
    first, second = (PlacedCamera(camera.K, camera.Rt) for camera in known)
    return [ImageCamera(one.K, source, LensCorrection(one)) for one in known], (first, second)


def _choose_cameras(
    config: PredictPairConfig, paths: Sequence[str], images: Sequence[np.ndarray]
) -> list[Camera]:
    """The cameras of both images, as calibration= has them."""
    known = read_cameras(config.calibration)
    names = list(config.cameras)
    if not names:
        stems = [Path(path).stem for path in paths]
        cameras = {stem: name for name, stem in match_videos(known, stems).items()}
        missing = [stem for stem in stems if stem not in cameras]
        if missing:
            raise UserError(
                f"calibration={config.calibration} has no camera named as the image {missing[0]}; "
                f"it has {', '.join(known)}: say which by cameras=FIRST,SECOND"
            )
        names = [cameras[stem] for stem in stems]
    found = []
    for name, path, image in zip(names, paths, images, strict=True):
        asked, size = f"cameras={','.join(names)}", (image.shape[1], image.shape[0])
        found.append(take_camera(known, name, asked, config.calibration, path, size))
    if names[0] == names[1]:
        raise UserError(f"cameras={names[0]},{names[1]}: both images are of one camera")
    return found


def _match_people(config: PredictPairConfig, paths: Sequence[str], kind: str) -> list[list[Region]]:
    """Where the people are in both images, matched by their order.

    Of boxes=, or of the one that is found in each; of whole images boxes that nobody reads.
    """
    listed = read_boxes(config.boxes, paths) if config.boxes else {}
    regions = list_regions(config, paths, [kind], listed)
    for path in paths:
        if path not in regions:
            raise UserError(f"nobody was found in {path}: name who is meant in each by boxes=")
    inside = [regions[path][kind] for path in paths]
    counts = [len(found) for found in inside]
    if not config.boxes and counts != [1, 1]:
        raise UserError(
            f"{paths[0]} shows {counts[0]} and {paths[1]} {counts[1]}: name who is meant in each "
            "by boxes=, in the same order"
        )
    if counts[0] != counts[1]:
        raise UserError(
            f"boxes={config.boxes} has {counts[0]} rows for {paths[0]} and {counts[1]} for "
            f"{paths[1]}: people are matched by their order, so there must be as many"
        )
    return inside


def _list_boxes(regions: Sequence[Sequence[Region]]) -> tuple[np.ndarray, np.ndarray]:
    one, other = (np.stack([region.box for region in found]) for found in regions)
    return one, other


def _draw_second(
    stem: Path,
    image: np.ndarray,
    found: Sequence[Person],
    cameras: Cameras,
    boxes: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    whole = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
    people = [
        move_person(person, cameras, whole if boxes is None else boxes[1][place])
        for place, person in enumerate(found)
    ]
    path = f"{stem}.overlay.png"
    try:
        Image.fromarray(draw.overlay(image, people)).save(path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None

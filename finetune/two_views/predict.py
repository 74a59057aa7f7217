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
from finetune.inference.image_camera import ASSUMED, LensCorrection, take_camera
from finetune.inference.images import read_image
from finetune.inference.predictor import check_intrinsics
from finetune.person import Person
from finetune.predict import list_regions, read_boxes, refuse_equal_names, write_results
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
    if config.intrinsics and len(config.intrinsics) != 4:
        raise UserError(f"intrinsics={config.intrinsics}: four numbers are needed, fx,fy,cx,cy")
    refuse_equal_names(paths)
    images = [read_image(path) for path in paths]
    cameras = None
    if config.calibration:
        lenses = _choose_cameras(config, paths, images)
        images = [
            LensCorrection(lens).correct_image(image)
            for image, lens in zip(images, lenses, strict=True)
        ]
        cameras = PlacedCamera(lenses[0].K, lenses[0].Rt), PlacedCamera(lenses[1].K, lenses[1].Rt)
    predictor = PairPredictor(runs[0], config.device)
    boxes, sides = _match_people(config, paths, predictor.body.kind)
    K = None
    if config.intrinsics:
        fx, fy, cx, cy = config.intrinsics
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        for image in images:
            check_intrinsics(K, image.shape[1], image.shape[0])
    found = predictor(images[0], images[1], boxes, cameras, K, sides)
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file; results need a folder")
    make_folder(out, f"out={out}")
    stems = [out / Path(path).stem for path in paths]
    source = ASSUMED
    if config.calibration or config.intrinsics:
        name = Path(config.calibration).name
        source = f"calibration={name}" if config.calibration else "intrinsics="
    networks = {predictor.body.kind: predictor.predictor}
    write_results(stems[0], images[0], found, networks, source=source)
    written = f"{stems[0]}.overlay.png, {stems[0].name}.glb, {stems[0].name}.json"
    if cameras is not None:
        _draw_second(stems[1], images[1], found, cameras, boxes)
        written += f", {stems[1].name}.overlay.png"
    print(f"{paths[0]} and {paths[1]}: {len(found)} in both: {written}")
    return 0


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


def _match_people(
    config: PredictPairConfig, paths: Sequence[str], kind: str
) -> tuple[tuple[np.ndarray, np.ndarray] | None, list[str]]:
    """(boxes in both images, sides) of the people, matched by their order.

    Of boxes=, or of the one that is found in each; None: each image shows one alone.
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
    sides = [region.side for region in inside[0]]
    if config.whole_image:
        return None, sides
    one, other = (np.stack([region.box for region in found]) for found in inside)
    return (one, other), sides


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

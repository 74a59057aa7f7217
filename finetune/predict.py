"""``python -m finetune predict``: meshes of the people, or hands, in images and videos."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.sources.detections.names import VideoNames
from data.sources.tables import read_rows
from engine.config.parser import is_assignment, parse_keys
from engine.config.paths import split_paths
from engine.errors import Failure, UserError
from engine.logging import progress
from engine.run.files import make_folder
from finetune.fit.refine import make_keys
from finetune.fit.refine_people import PeopleRefiner
from finetune.image_files import count_people, write_results
from finetune.inference.fingers import JoiningRules, join_hands
from finetune.inference.image_answers import answer_image, require_answers, require_image_head
from finetune.inference.image_camera import CameraFinder, ImageCamera, estimate_camera
from finetune.inference.images import read_image
from finetune.inference.lens import LensReader, open_lens
from finetune.inference.predictor import SIDES, Predictor, check_boxes
from finetune.inference.search import Region, search_images
from finetune.live.capture import Capture
from finetune.live.command import check_live, run_live
from finetune.person import Person
from finetune.released.catalogue import list_shipped
from finetune.scene.everybody import open_everybody, refuse_keys
from finetune.scene.network_file import is_scene
from finetune.scene.photos import predict_scenes
from finetune.scene.video import predict_scene_video
from finetune.verb_config import PredictConfig, PredictFilesConfig
from finetune.video.command import check_files, check_videos, is_video, predict_video

USUAL_SIDE = "right"
SHIPPED = ("body", "hand")  # names of weights that are taken where no run is named
COLUMNS = ("image", "x0", "y0", "x1", "y1")


@dataclass
class Listed:
    """A row of the boxes file.

    Attributes:
        where: the file and the row, for messages.
        box: x0, y0, x1, y1 in pixels of the image.
        side: "left", "right", or None where the row does not say.
    """

    where: str
    box: list[float]
    side: str | None


def main(argv: Sequence[str]) -> int:
    """Run ``python -m finetune predict``; returns the exit code."""
    is_live = any(word.startswith("camera=") for word in argv) and all(map(is_assignment, argv))
    config, named = parse_keys(PredictFilesConfig, argv, "finetune predict", 0 if is_live else 1)
    if is_live:
        return _predict_live(config, argv)
    if config.camera and not config.calibration:
        raise UserError(
            f"camera={config.camera} beside images is a name in a file: set calibration= too"
        )
    runs = split_paths(config.run, "run")
    scenes = [run for run in runs if is_scene(run)]
    if scenes:
        refuse_keys(scenes[0], runs, argv)
    finder = CameraFinder(config.intrinsics, config.calibration, config.camera)
    refuse_equal_names(named)
    paths = [path for path in named if not is_video(path)]
    videos = [path for path in named if is_video(path)]
    boxes = read_boxes(config.boxes, paths) if config.boxes and paths else {}
    # All are read once before the first is predicted: what is wrong with the last is reported now,
    # with nothing written.
    cameras = {path: _check(path, boxes.get(path, []), finder) for path in paths}
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file; results need a folder")
    for path in videos:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
    if scenes:
        is_given = any(word.startswith("least_score=") for word in argv)
        least_score = config.least_score if is_given else None
        everybody = open_everybody(scenes[0], config.device, least_score)
        if videos:
            check_files(config, {"body": everybody.body})
        if paths:
            predict_scenes(config, paths, everybody, cameras, out)
        for path in videos:
            _tell_files(path, predict_scene_video(path, config, everybody, finder))
        return 0
    predictors = open_predictors(config)
    lens = open_lens(config.lens, config.device)
    if videos:
        check_videos(config, predictors)
    if paths:
        _predict_images(config, paths, predictors, boxes, cameras, lens, out)
    for path in videos:
        _tell_files(path, predict_video(path, config, predictors, finder, lens=lens))
    return 0


def _tell_files(path: str, written: Sequence[Path]) -> None:
    print(f"{path}: {', '.join(str(file) for file in written)}")


def _predict_live(config: PredictFilesConfig, argv: Sequence[str]) -> int:
    """Recover who is before a camera; files are written where out= is given."""
    out = config.out if any(word.startswith("out=") for word in argv) else ""
    check_live(config, bool(out))
    for run in split_paths(config.run, "run"):
        if is_scene(run):
            raise UserError(
                f"camera={config.camera}: run={run} finds everybody in whole images (task=scene), "
                "which is not shown live: name a run on boxes, or record the camera and predict "
                "the video"
            )
    finder = CameraFinder(config.intrinsics, config.calibration)
    capture = Capture(config.camera)  # before the networks, which take a while
    predictors = open_predictors(config)
    for predictor in predictors.values():
        predictor.require_mesh("predict of a camera")
    return run_live(config, predictors, capture, finder, out)


def _predict_images(
    config: PredictFilesConfig,
    paths: Sequence[str],
    predictors: Mapping[str, Predictor],
    boxes: Mapping[str, Sequence[Listed]],
    cameras: Mapping[str, ImageCamera],
    lens: LensReader | None,
    out: Path,
) -> None:
    """Recover who is in images and write it."""
    masks = "body" in predictors and predictors["body"].config.head.prompt_mask
    regions = list_regions(config, paths, list(predictors), boxes, masks)
    make_folder(out, f"out={out}")
    meshes = {kind: one for kind, one in predictors.items() if one.model.head.has_mesh}
    bodies = {kind: one.body for kind, one in meshes.items()}
    refiner = PeopleRefiner(bodies, make_keys())
    for path in progress.watched(list(regions), "image"):
        pixels = read_image(path)
        seen = [] if config.whole_image else regions[path].get("body", [])
        camera = estimate_camera(cameras[path], lens, pixels, seen)
        image, K = camera.correct_image(pixels), camera.K
        found: list[Person] = []
        wrists: list[dict[str, np.ndarray]] = []
        stem = out / Path(path).stem
        for kind, listed in regions[path].items():
            inside = camera.correct_regions(listed)
            squares = None if config.whole_image else [region.box for region in inside]
            sides = [region.side for region in inside]
            keypoints = [region.keypoints for region in inside]
            outlines = [region.mask for region in inside]
            predictor = predictors[kind]
            if predictor.model.head.has_mesh:
                people = predictor(image, squares, K, sides, keypoints, outlines)
                found += refiner.refine(people, keypoints, kind) if config.refine else people
                wrists += [region.find_wrists(kind) for region in inside]
                continue
            own = f"{stem}.{kind}" if len(predictors) > 1 else str(stem)
            answers = answer_image(predictor, image, squares, K, sides)
            files = require_image_head(predictor).save_answers(Path(own), image, answers)
            print(f"{path}: {len(answers)} x {kind}: {files[0]}, {files[1].name}")
        if config.join_hands and len(meshes) > 1:
            rules = JoiningRules(least_px=config.hand_px)
            found = join_hands(
                found, predictors["body"].body, predictors["hand"].body, rules, wrists
            )
        if found:
            confident = config.colour == "confidence"
            write_results(stem, image, found, bodies, confident, camera.source, config.overlay_px)
            files = f"{stem}.overlay.png, {stem.name}.glb, {stem.name}.json"
            print(f"{path}: {count_people(found)}: {files}")
        print(f"{path}: {camera.describe()}")
    print(f"wrote what was found in {len(regions)} images to {out}")


def open_predictors(config: PredictConfig) -> dict[str, Predictor]:
    """Return {"body", "hand": the run that recovers it}: those that are named, or that ship.

    Raises:
        UserError: a run that is none, or two that recover the same.
    """
    runs = split_paths(config.run, "run") or choose_shipped()
    predictors: dict[str, Predictor] = {}
    for run in runs:
        predictor = require_answers(Predictor(run, config.device), "predict")
        if config.colour == "confidence" and not predictor.model.head.confident:
            raise UserError(
                f"colour=confidence, but run={run} does not say how sure it is: it was trained "
                "without head.confidence=true"
            )
        kind = predictor.body.kind
        if kind in predictors:
            raise UserError(f"run={config.run}: both recover the same, a {kind}; name one of them")
        predictors[kind] = predictor
    if list(predictors) == ["body"] and config.side == "left":
        raise UserError(f"side={config.side}: run={config.run} recovers bodies, which have no side")
    return dict(sorted(predictors.items()))  # bodies first


def choose_shipped() -> list[str]:
    """Return the names of the weights that predict takes where no run is named.

    Raises:
        UserError: none ship.
    """
    known = list_shipped()
    names = [name for name in SHIPPED if name in known]
    if not names:
        raise UserError(
            "run= is not set, and no weights ship with this version: name a run of your own, or "
            "weights by their file, URL or hub repository"
        )
    return names


def list_regions(
    config: PredictConfig,
    paths: Sequence[str],
    kinds: Sequence[str],
    boxes: Mapping[str, Sequence[Listed]],
    masks: bool = False,
) -> dict[str, dict[str, list[Region]]]:
    """{path: {kind: where its people or hands are}}, of images in which any are.

    By ``boxes`` if given: where both kinds are recovered, a row with a side is a hand's. Whole
    images have one region whose box nobody reads.  ``masks``: found people have outlines too.
    """
    side = config.side or USUAL_SIDE
    if config.whole_image:
        if len(kinds) > 1:
            raise UserError(
                "whole_image=true, but both bodies and hands would be recovered: name one by "
                f"run={SHIPPED[0]} or run={SHIPPED[1]}"
            )
        return {path: {kinds[0]: [Region(np.zeros(4), side)]} for path in paths}
    if not config.boxes:
        sides = [config.side] if config.side else SIDES
        return search_images(paths, kinds, config.least_score, sides, masks)
    if len(kinds) == 1:
        return {path: {kinds[0]: _list_rows(boxes[path], side)} for path in paths}
    found = {}
    for path in paths:
        hands = [row for row in boxes[path] if row.side]
        bodies = [row for row in boxes[path] if not row.side]
        parts = {"body": _list_rows(bodies, side), "hand": _list_rows(hands, side)}
        found[path] = {kind: inside for kind, inside in parts.items() if inside}
    return found


def _list_rows(listed: Sequence[Listed], side: str) -> list[Region]:
    return [Region(np.array(row.box, np.float64), row.side or side) for row in listed]


def refuse_equal_names(images: Sequence[str]) -> None:
    """Raise UserError where results of two images would have one name."""
    first: dict[str, str] = {}
    for image in images:
        stem = Path(image).stem
        if stem in first:
            raise UserError(
                f"images {first[stem]} and {image} are both named {stem}: their results would "
                f"overwrite each "
                "other"
            )
        first[stem] = image


def _check(image: str, listed: Sequence[Listed], finder: CameraFinder) -> ImageCamera:
    """The camera of an image; UserError for an image, or a box in it, that cannot be used."""
    height, width = read_image(image).shape[:2]
    camera = finder.find_camera(image, width, height, photograph=True)
    for row in listed:
        try:
            check_boxes([row.box], width, height, 1.0)
        except Failure as error:
            raise UserError(f"{row.where}: {error}") from None
    return camera


def read_boxes(path: str, images: Sequence[str]) -> dict[str, list[Listed]]:
    """Return {path of an image: its rows of a boxes file}.

    Images are matched by path, not by base name: ``take1/a.png`` is not ``take2/a.png``.

    Raises:
        UserError: one of the images is not in it, or a row may be of several; a row that is not a
            box.
    """
    names = VideoNames({image: image for image in images}, path)
    rows: dict[tuple[str, str], list[Listed]] = defaultdict(list)
    for where, row in read_rows(path, COLUMNS, COLUMNS[1:]):
        side = row.get("side") or None
        if side not in (None, *SIDES):
            raise UserError(f"{where}: side={side} is neither left nor right")
        box = [row[column] for column in COLUMNS[1:]]
        image, _ = names.find((str(row["image"]),))
        if image is not None:
            rows[image, str(row["image"])].append(Listed(where, box, side))
    for misfit in names.misfits():
        rows.pop(misfit, None)
    found: dict[str, list[Listed]] = defaultdict(list)
    for (image, _), listed in rows.items():
        found[image] += listed
    for image in images:
        if image not in found:
            raise UserError(
                f"boxes={path} has no row for the image {Path(image).name}; leave it out or "
                f"add its boxes"
            )
    return found

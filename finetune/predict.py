"""``python -m finetune predict``: meshes of the people, or hands, in images and videos."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.format.clip import KINDS
from data.sources.detections.names import VideoNames
from data.sources.tables import read_rows
from engine.config.parser import is_assignment, parse_keys
from engine.config.paths import split_paths
from engine.errors import Failure, UserError, explain, failure_of
from engine.geometry import crop_intrinsics
from engine.logging import progress
from engine.run.files import make_folder
from finetune import export
from finetune.fit.refine import make_keys
from finetune.fit.refine_people import PeopleRefiner
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
from finetune.verb_config import PredictConfig, PredictFilesConfig
from finetune.video.command import check_videos, is_video, predict_video
from finetune.viz import draw
from finetune.viz.confidence import colour_vertices, overlay_confidence
from finetune.viz.scene import draw_scene

USUAL_SIDE = "right"
PNG_LEVEL = 2
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
    predictors = open_predictors(config)
    lens = open_lens(config.lens, config.device)
    if videos:
        check_videos(config, predictors)
    if paths:
        _predict_images(config, paths, predictors, boxes, cameras, lens, out)
    for path in videos:
        written = predict_video(path, config, predictors, finder, lens=lens)
        print(f"{path}: {', '.join(str(file) for file in written)}")
    return 0


def _predict_live(config: PredictFilesConfig, argv: Sequence[str]) -> int:
    """Recover who is before a camera; files are written where out= is given."""
    out = config.out if any(word.startswith("out=") for word in argv) else ""
    check_live(config, bool(out))
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
    refiner = PeopleRefiner({kind: one.body for kind, one in meshes.items()}, make_keys())
    for path in progress.watched(list(regions), "image"):
        pixels = read_image(path)
        bodies = [] if config.whole_image else regions[path].get("body", [])
        camera = estimate_camera(cameras[path], lens, pixels, bodies)
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
            write_results(stem, image, found, meshes, confident, camera.source, config.overlay_px)
            print(f"{path}: {_count(found)}: {stem}.overlay.png, {stem.name}.glb, {stem.name}.json")
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


def _count(found: Sequence[Person]) -> str:
    bodies = [person for person in found if person.kind == "body"]
    alone, joined = len(found) - len(bodies), sum(len(person.hands) for person in bodies)
    words = [
        _word_number(count, one, several)
        for count, one, several in ((len(bodies), "body", "bodies"), (alone, "hand", "hands"))
        if count
    ]
    if joined:
        words[0] += f" with {_word_number(joined, 'hand', 'hands')}"
    return " and ".join(words)


def _word_number(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


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


def write_results(
    stem: Path,
    image: np.ndarray,
    found: Sequence[Person],
    predictors: Mapping[str, Predictor],
    confident: bool = False,
    source: str = "",
    overlay_px: int = 0,
) -> None:
    """Write overlay, views, meshes and numbers of an image.

    STEM.overlay.png, STEM.NAME.png (views of each person), of several STEM.scene.png (all of them
    on one scale), STEM.glb, STEM.npz and STEM.json.

    Args:
        confident: overlay and GLB are coloured by how sure the network is.
        source: where the focal length comes from, for the views and the numbers.
        overlay_px: longer side of the overlay, at most; 0: as the image.
    """
    shown, people = shrink_scene(image, found, overlay_px)
    drawn = overlay_confidence(shown, people) if confident else draw.overlay(shown, people)
    _save(Image.fromarray(drawn), f"{stem}.overlay.png")
    for name, person in zip(export.names_of(found), found, strict=True):
        words = f"{name.replace('_', ' ')}: {person.translation[2]:.2f} m away"
        if source:
            words += f"; {ImageCamera(person.intrinsics, source).describe()}"
        _save(draw.sheet(image, person, [words]), f"{stem}.{name}.png")
    if len(found) > 1:
        words = ImageCamera(found[0].intrinsics, source).describe() if source else ""
        _save(draw_scene(image, found, words), f"{stem}.scene.png")
    colours = [colour_vertices(person) for person in found] if confident else None
    export.save_glb(f"{stem}.glb", found, colours)
    bodies = {kind: predictor.body for kind, predictor in predictors.items()}
    if len(bodies) == 1:
        (body,) = bodies.values()
        export.save_numbers(stem, found, body.keypoint_names, body.joint_names, source)
        return
    by_kind = {kind: bodies["body" if kind == KINDS[0] else "hand"] for kind in KINDS}
    export.save_numbers(
        stem,
        found,
        {kind: body.keypoint_names for kind, body in by_kind.items()},
        {kind: body.joint_names for kind, body in by_kind.items()},
        source,
    )


def shrink_scene(
    image: np.ndarray, people: Sequence[Person], longest: int
) -> tuple[np.ndarray, list[Person]]:
    """Return an image whose longer side has at most so many pixels, and its people in it.

    Args:
        longest: 0: as it is.
    """
    height, width = image.shape[:2]
    scale = longest / max(width, height)
    if not longest or scale >= 1:
        return image, list(people)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    K = [crop_intrinsics(person.intrinsics, (0, 0, width, height), size) for person in people]
    return shown, [replace(one, intrinsics=own) for one, own in zip(people, K, strict=True)]


def _save(image: Image.Image, path: str) -> None:
    try:
        # zlib's usual level takes five times as long and saves a tenth of the bytes.
        image.save(path, compress_level=PNG_LEVEL)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


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

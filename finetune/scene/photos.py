"""``predict`` of photographs by a network that finds everybody in them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.logging import progress
from engine.run.files import make_folder
from finetune import export
from finetune.image_files import count_people, draw_people
from finetune.inference.image_camera import ImageCamera
from finetune.inference.images import read_image
from finetune.person import Person
from finetune.scene.everybody import Everybody
from finetune.scene.found import FoundPerson
from finetune.scene.glb import save_scene
from finetune.scene.ground import Ground, find_ground
from finetune.verb_config import PredictFilesConfig
from finetune.viz.scene import Level


def predict_scenes(
    config: PredictFilesConfig,
    paths: Sequence[str],
    everybody: Everybody,
    cameras: Mapping[str, ImageCamera],
    out: Path,
) -> None:
    """Recover everybody in images and write it; of an image of nobody, that nobody is in it.

    Args:
        cameras: of each path.  out: folder of the files.
    Raises:
        UserError: an image can no longer be read.  Failure: a file cannot be written.
    """
    make_folder(out, f"out={out}")
    for path in progress.watched(list(paths), "image"):
        camera = cameras[path]
        image = camera.correct_image(read_image(path))
        found = everybody.find(image, camera.K if camera.known else None)
        stem = out / Path(path).stem
        people = [mark_score(one) for one in found]
        ground = write_scene(stem, image, people, everybody, camera.source, config.overlay_px)
        if ground is None:
            print(f"{path}: nobody was found in it: {stem}.overlay.png and {stem.name}.json say so")
            continue
        files = f"{stem}.overlay.png, {stem.name}.glb, {stem.name}.json"
        print(f"{path}: {count_people(people)}: {files}")
        print(f"{path}: {camera.describe()}; floor {ground.describe()}")
    print(f"wrote what was found in {len(paths)} images to {out}")


def mark_score(found: FoundPerson) -> Person:
    """Return a found person, who knows how sure the network is of them."""
    return replace(found.person, score=found.score)


def write_scene(
    stem: Path,
    image: np.ndarray,
    people: Sequence[Person],
    everybody: Everybody,
    source: str = "",
    overlay_px: int = 0,
) -> Ground | None:
    """Write the files of everybody in an image; returns the floor, None of nobody.

    STEM.overlay.png, STEM.body-1.png and so on, of several STEM.scene.png, STEM.npz, STEM.json, and
    of anybody STEM.glb (finetune.scene.glb).

    Args:
        source: where the focal length comes from.
        overlay_px: as of finetune.image_files.write_results.
    Raises:
        Failure: a file cannot be written.
    """
    body, more, ground = everybody.body, {}, None
    level, words = None, ""
    if people:
        size = (image.shape[1], image.shape[0])
        ground = find_ground(people, body.keypoint_names, size)
        save_scene(f"{stem}.glb", people, ground, size)
        more = {"ground": describe_ground(ground)}
        level = Level(ground.turn, ground.height_m) if ground.is_seen else None
        words = f"floor {ground.describe()}"
    draw_people(stem, image, people, False, source, overlay_px, level, words)
    export.save_numbers(stem, people, body.keypoint_names, body.joint_names, source, more)
    return ground


def describe_ground(ground: Ground) -> dict[str, object]:
    """Return a floor as JSON holds it, in the camera's frame."""
    return {
        "up": np.round(ground.up, export.DIGITS).tolist(),
        "camera_height_m": round(ground.height_m, export.DIGITS),
        "seen": ground.is_seen,
        "known_by": ground.describe(),
    }

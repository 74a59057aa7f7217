"""The files of an image's people: overlay, views, meshes and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.bodies.base import BodyModel
from data.format.clip import KINDS
from engine.errors import explain, failure_of
from engine.geometry import crop_intrinsics
from finetune import export
from finetune.inference.image_camera import ImageCamera
from finetune.person import Person
from finetune.viz import draw
from finetune.viz.confidence import colour_vertices, overlay_confidence
from finetune.viz.scene import Level, draw_scene

PNG_LEVEL = 2


def write_results(
    stem: Path,
    image: np.ndarray,
    found: Sequence[Person],
    bodies: Mapping[str, BodyModel],
    confident: bool = False,
    source: str = "",
    overlay_px: int = 0,
) -> None:
    """Write overlay, views, meshes and numbers of an image.

    STEM.overlay.png, STEM.NAME.png (views of each person), of several STEM.scene.png (all of them
    on one scale), STEM.glb, STEM.npz and STEM.json.

    Args:
        found: at least one.  bodies: {"body", "hand": the full body model}.
        confident: overlay and GLB are coloured by how sure the network is.
        source: where the focal length comes from, for the views and the numbers.
        overlay_px: longer side of the overlay, at most; 0: as the image.
    """
    draw_people(stem, image, found, confident, source, overlay_px)
    colours = [colour_vertices(person) for person in found] if confident else None
    export.save_glb(f"{stem}.glb", found, colours)
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


def draw_people(
    stem: Path,
    image: np.ndarray,
    found: Sequence[Person],
    confident: bool = False,
    source: str = "",
    overlay_px: int = 0,
    level: Level | None = None,
    words_below: str = "",
) -> None:
    """Draw the people of an image: the PNG files of ``write_results``.

    Args:
        found: of nobody the overlay is the image.
        level: the floor that STEM.scene.png stands on; words_below: what is said there beside.
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
        told = [ImageCamera(found[0].intrinsics, source).describe()] if source else []
        told += [words_below] if words_below else []
        _save(draw_scene(image, found, "; ".join(told), level), f"{stem}.scene.png")


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


def count_people(found: Sequence[Person]) -> str:
    """Return words such as "2 bodies with 1 hand and 1 hand"."""
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

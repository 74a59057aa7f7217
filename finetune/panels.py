"""Images of a run of mesh recovery for people to view.

Validation crops with the mesh on them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data.loading.augment import denormalise
from engine.logging.images import save_image
from engine.run.run_folder import RunFolder
from engine.training.task import Arrays
from finetune.heads.base import ImagePrediction, Prediction
from finetune.people import crop_people, list_kinds, make_people
from finetune.views import View
from finetune.viz.draw import overlay

if TYPE_CHECKING:
    from finetune.tasks.mesh import MeshTask

SIDE = 192  # pixels of an image on the sheet


def save(task: "MeshTask", folder: Path, step: int) -> dict[str, Path]:
    """Draw the first validation crops into ``folder/images/step-XXXXXXXX.png``, meshes below.

    Returns:
        {"overlays": path}, or nothing where it could not be written
    """
    count = task.config.log.images
    val = task.require_val()
    stride = max(1, len(val["tags"]) // count)
    arrays = {name: values[::stride][:count] for name, values in val.items()}
    batch = task.to_device(arrays)
    with torch.no_grad():
        seen, _, found = task.answer(batch, task.body)
    if isinstance(found, Prediction):
        people = crop_people(found, seen, task.body, batch)
        crops = [
            pixels[:size, :size]
            for pixels, size in zip(arrays["pixels"], arrays["tags"][:, -1], strict=True)
        ]
        columns = [
            np.concatenate([_scaled(image), _scaled(overlay(image, [person]))])
            for image, person in zip(crops, people, strict=True)
        ]
    else:
        columns = _draw_answers(task, seen, found)
    path = RunFolder(folder).image(step)
    return (
        {"overlays": path} if save_image(Image.fromarray(np.concatenate(columns, 1)), path) else {}
    )


def draw_seen_sheet(
    task: "MeshTask", arrays: Arrays, labels: Sequence[str], title: str
) -> Image.Image:
    """Return a PIL image of crops as the network sees them, with the mesh found below.

    They are rotated and mirrored as they are.

    Args:
        arrays: of data.loading.crops.layout, a column each.  labels: a text a column.  title: at
            the left of the heading.
    """
    batch = task.to_device(arrays)
    with torch.no_grad():
        seen, _, found = task.answer(batch, task.body)
    if isinstance(found, Prediction):
        kinds = list_kinds(batch["tags"])
        high, wide = seen.require_images().shape[-2:]
        boxes = np.tile(np.array([[0, 0, wide, high]], np.float32), (len(kinds), 1))
        shown = make_people(found, torch.zeros_like(seen.flip), task.body, seen.K, boxes, kinds)
        columns = [
            np.concatenate([_scaled(image), _scaled(overlay(image, [person]))])
            for image, person in zip(_shown_images(seen), shown, strict=True)
        ]
    else:
        columns = _draw_answers(task, seen, found)
    sheet = Image.new("RGB", (SIDE * len(columns), 2 * SIDE + 40), "white")
    sheet.paste(Image.fromarray(np.concatenate(columns, 1)), (0, 40))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((4, 2), title, "black", font)
    for number, label in enumerate(labels):
        draw.text((4 + SIDE * number, 21), label, "black", font)
    return sheet


def _draw_answers(task: "MeshTask", seen: View, found: ImagePrediction) -> list[np.ndarray]:
    """Columns of what a head without a mesh says, each below what it saw."""
    head = task.model.head
    return [
        np.concatenate([_scaled(image), _scaled(head.draw(image, found, row))])
        for row, image in enumerate(_shown_images(seen))
    ]


def _shown_images(seen: View) -> np.ndarray:
    """(B, S, S, 3) uint8: the images as the network saw them."""
    images = denormalise(seen.require_images()).mul(255).round().byte()
    return images.permute(0, 2, 3, 1).cpu().numpy()


def _scaled(image):
    """The image as large as fits into a tile, in its middle."""
    high, wide = image.shape[:2]
    factor = SIDE / max(high, wide)
    size = max(1, round(wide * factor)), max(1, round(high * factor))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    if size == (SIDE, SIDE):
        return scaled
    tile = np.full((SIDE, SIDE, 3), 255, np.uint8)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    tile[top : top + size[1], left : left + size[0]] = scaled
    return tile

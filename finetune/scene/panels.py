"""Images of a run of ``task=scene`` for people to view: validation frames, meshes on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data.loading.augment import denormalise
from engine.logging.images import save_image
from engine.run.run_folder import RunFolder
from engine.training.task import Batch
from finetune.scene.find import find_people
from finetune.scene.people import make_found
from finetune.viz.draw import overlay

if TYPE_CHECKING:
    from finetune.tasks.scene import SceneTask

SIDE = 256  # pixels of an image's tile


def save(task: "SceneTask", folder: Path, step: int) -> dict[str, Path]:
    """Draw validation frames into ``folder/images/step-XXXXXXXX.png``, with meshes below.

    Returns:
        {"overlays": path}, or nothing where it could not be written.
    """
    val = task.require_val()
    count = len(val["tags"])
    rows = range(0, count, max(1, count // task.config.log.images))[: task.config.log.images]
    columns = [draw_column(task, row) for row in rows]
    path = RunFolder(folder).image(step)
    sheet = Image.fromarray(np.concatenate(columns, 1))
    return {"overlays": path} if save_image(sheet, path) else {}


def draw_column(task: "SceneTask", row: int) -> np.ndarray:
    """(2 * SIDE, SIDE, 3) uint8: a validation frame as the network sees it, and its people."""
    size, batch = task.take_val([row])[0]
    task.step_module.size = size
    return draw_batch(task, batch)[0]


def draw_samples(task: "SceneTask", batch: Batch, labels: Sequence[str], title: str) -> Image.Image:
    """Return an image of a batch's frames, a column each with a text, and their people below."""
    columns = draw_batch(task, batch)
    sheet = Image.new("RGB", (SIDE * len(columns), 2 * SIDE + 40), "white")
    sheet.paste(Image.fromarray(np.concatenate(columns, 1)), (0, 40))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((4, 2), title, "black", font)
    for number, label in enumerate(labels):
        draw.text((4 + SIDE * number, 21), label, "black", font)
    return sheet


@torch.no_grad()
def draw_batch(task: "SceneTask", batch: Batch) -> list[np.ndarray]:
    """(2 * SIDE, SIDE, 3) uint8 of each image of a batch: as it is, and with its people."""
    answer, truth = task.step_module.look(batch)
    pixels = denormalise(truth.frames.images).mul(255).round().byte().permute(0, 2, 3, 1)
    body, patch = task.step_module.body, task.model.patch
    found = find_people(answer, truth.K, body, patch, task.threshold)
    columns = []
    for image, people in zip(
        pixels.cpu().numpy(), make_found(found, truth.K, task.body), strict=True
    ):
        shown = overlay(image, [one.person for one in people])
        columns.append(np.concatenate([_put_in_tile(image), _put_in_tile(shown)]))
    return columns


def _put_in_tile(image: np.ndarray) -> np.ndarray:
    """The image as large as fits, in the middle of a white tile."""
    found = Image.fromarray(image)
    found.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (SIDE, SIDE), "white")
    tile.paste(found, ((SIDE - found.width) // 2, (SIDE - found.height) // 2))
    return np.asarray(tile)

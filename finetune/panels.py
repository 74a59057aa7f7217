"""Images of a fine-tuning run for people to look at: held-out crops with the mesh on them."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data.format.clip import KINDS
from data.loading.augment import denormalise
from data.loading.crops import TAGS
from engine.logging.images import save_image
from finetune.draw import overlay
from finetune.people import crop_people, people

SIDE = 192  # pixels of an image on the sheet


def save(trainer, folder, step):
    """Draw the first held-out crops into ``folder/images/step-XXXXXXXX.png``, meshes below.

    Returns:
        {"overlays": path}, or nothing where it could not be written
    """
    count = trainer.config.log.images
    stride = max(1, len(trainer.val["tags"]) // count)
    arrays = {name: values[::stride][:count] for name, values in trainer.val.items()}
    batch = trainer.to_device(arrays)
    with torch.no_grad():
        seen, _ = trainer.step_module.seen(batch)
        people = crop_people(
            trainer.step_module.recover(seen.images, seen.K), seen, trainer.full, batch
        )
    columns = []
    for pixels, size, person in zip(arrays["pixels"], arrays["tags"][:, -1], people, strict=True):
        image = pixels[:size, :size]
        columns.append(np.concatenate([_scaled(image), _scaled(overlay(image, [person]))]))
    path = folder / "images" / f"step-{step:08d}.png"
    return (
        {"overlays": path} if save_image(Image.fromarray(np.concatenate(columns, 1)), path) else {}
    )


def seen_sheet(trainer, arrays, labels, title):
    """A PIL image of crops as the network sees them, turned and mirrored as they are, with the
    mesh found below.

    Args:
        arrays: of data.loading.crops.layout, a column each.  labels: a text a column.  title: at
            the left of the heading.
    """
    batch = trainer.to_device(arrays)
    with torch.no_grad():
        seen, _ = trainer.step_module.seen(batch)
        found = trainer.step_module.recover(seen.images, seen.K)
        kinds = [KINDS[part] for part in batch["tags"][:, TAGS.index("part")].tolist()]
        side = seen.images.shape[-1]
        boxes = np.tile(np.array([[0, 0, side, side]], np.float32), (len(kinds), 1))
        shown = people(found, torch.zeros_like(seen.flip), trainer.full, seen.K, boxes, kinds)
    images = denormalise(seen.images).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    columns = [
        np.concatenate([_scaled(image), _scaled(overlay(image, [person]))])
        for image, person in zip(images, shown, strict=True)
    ]
    sheet = Image.new("RGB", (SIDE * len(columns), 2 * SIDE + 40), "white")
    sheet.paste(Image.fromarray(np.concatenate(columns, 1)), (0, 40))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((4, 2), title, "black", font)
    for number, label in enumerate(labels):
        draw.text((4 + SIDE * number, 21), label, "black", font)
    return sheet


def _scaled(image):
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.LANCZOS))

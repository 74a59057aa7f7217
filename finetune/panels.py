"""Pictures of a fine-tuning run for people to look at: held-out crops with the mesh on them."""

import numpy as np
import torch
from PIL import Image

from engine.errors import UserError, explain
from finetune.draw import overlay
from finetune.people import crop_people

SIDE = 192  # pixels of a picture on the sheet


def save(trainer, folder, step):
    """Draw the first held-out crops into ``folder/pictures/step-XXXXXXXX.png``, meshes below; returns the path."""
    count = trainer.config.log.pictures
    stride = max(1, len(trainer.held_out["tags"]) // count)
    arrays = {name: values[::stride][:count] for name, values in trainer.held_out.items()}
    batch = trainer.to_device(arrays)
    with torch.no_grad():
        seen, _ = trainer.step_module.seen(batch)
        people = crop_people(trainer.step_module.recover(seen.pictures, seen.K), seen, trainer.full, batch)
    columns = []
    for pixels, size, person in zip(arrays["pixels"], arrays["tags"][:, -1], people, strict=True):
        picture = pixels[:size, :size]
        columns.append(np.concatenate([_scaled(picture), _scaled(overlay(picture, [person]))]))
    path = folder / "pictures" / f"step-{step:08d}.png"
    try:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.concatenate(columns, 1)).save(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {explain(error)}") from None
    return path


def _scaled(picture):
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.LANCZOS))

"""Pictures for people to look at: reference, what the network saw, what it made of it, and the truth."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data.augment import denormalise
from data.shards import PAIR_KINDS, explain
from engine.errors import UserError
from pretrain import objective

COLUMNS = ("reference", "masked", "completed", "truth")
GAP, HEAD = 6, 22


def save(trainer, folder, step):
    """Draw the run's fixed held-out pairs into ``folder/pictures/step-XXXXXXXX.png``; returns the path."""
    rows = chosen_rows(trainer.held_out["tags"][:, 0], trainer.config.log.pictures)
    pictures = completed(trainer, {k: v[rows] for k, v in trainer.held_out.items()})
    kinds = [PAIR_KINDS[k].replace("_", "-") for k in trainer.held_out["tags"][rows, 0]]
    path = folder / "pictures" / f"step-{step:08d}.png"
    try:
        path.parent.mkdir(exist_ok=True)
        sheet(pictures, kinds, f"step {step}").save(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {explain(error)}") from None
    return path


@torch.no_grad()
def completed(trainer, arrays):
    """(B, 4, S, S, 3) uint8 of ``sheet`` for pairs as the loader gives them."""
    a, b, keep, masked, _ = trainer.step_module.pairs(trainer.to_device(arrays))
    return complete(a, b, masked, trainer.step_module.complete(a, b, keep, masked), trainer.config)


def chosen_rows(kinds, count):
    """The first ``count`` rows of each kind."""
    return np.concatenate([np.flatnonzero(kinds == k)[:count] for k in range(len(PAIR_KINDS))])


def complete(a, b, masked, predicted, config):
    """(B, 4, S, S, 3) uint8: reference, masked, completed and true pictures.

    A prediction normalised by the patch or the picture is undone with the true picture's statistics, as the parents do.
    """
    patch, kind = config.model.patch, config.objective.target
    grid = a.shape[-2] // patch, a.shape[-1] // patch
    spread = masked[..., None].expand(-1, -1, predicted.shape[-1])
    # What was seen is shown as it is: in the space of the targets the truth is the truth.
    filled = objective.denormalise(objective.targets(a, patch, kind).scatter(1, spread, predicted), a, patch, kind)
    hidden = objective.patchify(a, patch).scatter(1, spread, torch.zeros_like(predicted))
    columns = [b, objective.unpatchify(hidden, patch, grid), filled, a]
    out = denormalise(torch.stack(columns, 1)).mul(255).round().byte()
    return out.permute(0, 1, 3, 4, 2).cpu().numpy()


def sheet(pictures, names, title):
    """One PNG: a row a pair, a column a picture.

    Args:
        pictures: (B, 4, S, S, 3) uint8.  names: a label a row.  title: shown at the top right.
    """
    count, columns, size = pictures.shape[:3]
    scale = -(-150 // size)
    side, left = size * scale, 92
    image = Image.new("RGB", (left + columns * (side + GAP), HEAD + count * (side + GAP)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for c, name in enumerate(COLUMNS):
        draw.text((left + c * (side + GAP), 3), name, "black", font)
    draw.text((4, 3), title, "black", font)
    for r in range(count):
        y = HEAD + r * (side + GAP)
        draw.text((4, y + 4), names[r], "black", font)
        for c in range(columns):
            picture = Image.fromarray(pictures[r, c]).resize((side, side), Image.NEAREST)
            image.paste(picture, (left + c * (side + GAP), y))
    return image

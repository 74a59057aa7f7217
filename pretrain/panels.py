"""Images for people to view.

Reference, what the network saw, what it made of it, and the truth.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data.format.index import PAIR_KINDS
from data.loading.augment import denormalise
from engine.logging.images import save_image
from engine.run.run_folder import RunFolder
from engine.training.task import Arrays, Batch
from pretrain import attention, patch_loss
from pretrain.config import PretrainConfig, get_completion

if TYPE_CHECKING:
    from pretrain.objectives.completion import Completion

COLUMNS = ("reference", "masked", "completed", "truth")
GAP, HEAD, LEFT = 6, 22, 92
SPOTS = 3  # masked patches whose attention is drawn
SPOT_COLOURS = ((229, 57, 53), (255, 179, 0), (30, 136, 229))
# Attention so many times what an even spread would give is drawn in full colour; stronger peaks are
# scaled down to it.
FULL = 4


def save(
    objective: "Completion",
    val: Arrays,
    to_device: Callable[[Arrays], Batch],
    folder: Path,
    step: int,
) -> dict[str, Path]:
    """Draw a run's fixed validation pairs into ``folder/images``.

    step-XXXXXXXX.png and attention-XXXXXXXX.png.

    Returns:
        {"completions", and of a decoder that attends to the reference "attention": path} of those
        that could be written
    """
    rows = choose_rows(val["tags"][:, 0], objective.config.log.images)
    batch = to_device({k: v[rows] for k, v in val.items()})
    layers = []
    if objective.config.model.decoder.cross:
        layers = attention.middle_and_last(len(objective.model.decoder.blocks))
    with torch.no_grad():
        a, b, keep, masked, person, seen = objective.pairs(batch)
        predicted, looks = attention.of_masked(objective, a, b, keep, masked, seen, layers)
    images = draw_completions(a, b, masked, seen, predicted, objective.config)
    kinds = [PAIR_KINDS[k].replace("_", "-") for k in val["tags"][rows, 0]]
    spots = attention.chosen(person, masked, SPOTS)
    looks = [
        look.gather(1, spots[..., None].expand(-1, -1, look.shape[-1])).cpu().numpy()
        for look in looks
    ]
    places = masked.gather(1, spots).cpu().numpy()
    names = [f"block {number + 1}" for number in layers]
    sheets = {"completions": ("step", sheet(images, kinds, f"step {step}"))}
    if layers:
        grid = objective.config.model.grid()
        sheets["attention"] = (
            "attention",
            attention_sheet(images, places, looks, names, kinds, f"step {step}", grid),
        )
    out = {}
    for key, (start, image) in sheets.items():
        path = RunFolder(folder).image(step, start)
        if save_image(image, path):
            out[key] = path
    return out


@torch.no_grad()
def complete_batch(objective: "Completion", batch: Batch) -> np.ndarray:
    """What ``sheet`` draws of a batch of pairs."""
    a, b, keep, masked, _, seen = objective.pairs(batch)
    predicted = objective.complete(a, b, keep, masked, seen)
    return draw_completions(a, b, masked, seen, predicted, objective.config)


def choose_rows(kinds: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` rows of each kind."""
    return np.concatenate([np.flatnonzero(kinds == k)[:count] for k in range(len(PAIR_KINDS))])


def draw_completions(
    a: torch.Tensor,
    b: torch.Tensor | None,
    masked: torch.Tensor,
    seen: torch.Tensor | None,
    predicted: torch.Tensor,
    config: PretrainConfig,
) -> np.ndarray:
    """Return (B, 4, H, W, 3) uint8: reference, masked, completed and true images.

    What is not attended to of the reference is hidden.

    The first is left out where ``b`` is None. A prediction normalised by the patch or the image
    is undone with the true image's statistics, as CroCo does.
    """
    patch, kind = config.model.patch, get_completion(config).target
    grid = a.shape[-2] // patch, a.shape[-1] // patch
    spread = masked[..., None].expand(-1, -1, predicted.shape[-1])
    # What was seen is shown as it is: in the space of the targets the truth is the truth.
    filled = patch_loss.denormalise(
        patch_loss.targets(a, patch, kind).scatter(1, spread, predicted), a, patch, kind
    )
    hidden = patch_loss.patchify(a, patch).scatter(1, spread, torch.zeros_like(predicted))
    if seen is not None and b is not None:
        looked = b.new_zeros(len(b), grid[0] * grid[1]).scatter(1, seen, 1.0)
        b = patch_loss.unpatchify(patch_loss.patchify(b, patch) * looked[..., None], patch, grid)
    columns = [*([] if b is None else [b]), patch_loss.unpatchify(hidden, patch, grid), filled, a]
    out = denormalise(torch.stack(columns, 1)).mul(255).round().byte()
    return out.permute(0, 1, 3, 4, 2).cpu().numpy()


def sheet(images: np.ndarray, names: Sequence[str], title: str) -> Image.Image:
    """One PNG: a row a pair, a column an image.

    Args:
        images: (B, 4 or 3, H, W, 3) uint8 of ``complete``.  names: a label a row.  title: shown
            at the top left.
    """
    count, columns = images.shape[:2]
    high, wide = _sides(images)
    image = Image.new("RGB", (LEFT + columns * (wide + GAP), HEAD + count * (high + GAP)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for c, name in enumerate(COLUMNS[-columns:]):
        draw.text((LEFT + c * (wide + GAP), 3), name, "black", font)
    draw.text((4, 3), title, "black", font)
    for r in range(count):
        y = HEAD + r * (high + GAP)
        draw.text((4, y + 4), names[r], "black", font)
        for c in range(columns):
            image.paste(_scaled(images[r, c], (wide, high)), (LEFT + c * (wide + GAP), y))
    return image


def attention_sheet(
    images: np.ndarray,
    places: np.ndarray,
    looks: Sequence[np.ndarray],
    layers: Sequence[str],
    names: Sequence[str],
    title: str,
    grid: tuple[int, int] | None = None,
) -> Image.Image:
    """One PNG: a row a pair.

    The completion and the truth with marked patches, then what each of them attends to in b.

    Args:
        images: (B, 4, H, W, 3) uint8 of ``complete``.  places: (B, K) the patches of a.
        looks: [(B, K, N), ...] a layer, weights that sum to 1.  layers: their names.  names: a
            label a row.  grid: (rows, columns) of N patches; None: a square.
    """
    count, spots = len(images), places.shape[1]
    high, wide = _sides(images)
    grid = grid or (round(looks[0].shape[-1] ** 0.5),) * 2
    columns = 2 + spots * len(layers)
    image = Image.new("RGB", (LEFT + columns * (wide + GAP), HEAD + count * (high + GAP)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    heads = ["completed", "truth"] + [
        f"{layer}: {spot + 1}" for layer in layers for spot in range(spots)
    ]
    for c, name in enumerate(heads):
        draw.text((LEFT + c * (wide + GAP), 3), name, "black", font)
    draw.text((4, 3), title, "black", font)
    for r in range(count):
        y = HEAD + r * (high + GAP)
        draw.text((4, y + 4), names[r], "black", font)
        tiles = [_marked(_scaled(images[r, c], (wide, high)), places[r], grid) for c in (2, 3)]
        tiles += [
            _heated(_scaled(images[r, 0], (wide, high)), look[r, spot], grid, spot)
            for look in looks
            for spot in range(spots)
        ]
        for c, tile in enumerate(tiles):
            image.paste(tile, (LEFT + c * (wide + GAP), y))
    return image


def _sides(images):
    """(rows, columns) of a tile: a whole multiple of the images', of 150 pixels or more."""
    high, wide = images.shape[2:4]
    factor = -(-150 // max(high, wide))
    return high * factor, wide * factor


def _scaled(image, size):
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST)


def _marked(tile, places, grid):
    """The tile with a numbered frame around each patch."""
    draw, font, cell = ImageDraw.Draw(tile), ImageFont.load_default(12), tile.width / grid[1]
    for number, place in enumerate(places):
        y, x = divmod(int(place), grid[1])
        box = [
            round(x * cell) - 1,
            round(y * cell) - 1,
            round((x + 1) * cell),
            round((y + 1) * cell),
        ]
        draw.rectangle(box, outline=SPOT_COLOURS[number], width=2)
        # Beside the frame, on the side where there is room.
        at = box[2] + 3 if box[2] + 12 < tile.width else box[0] - 10
        draw.text(
            (at, box[1]),
            str(number + 1),
            SPOT_COLOURS[number],
            font,
            stroke_width=1,
            stroke_fill="white",
        )
    return tile


def _heated(tile, look, grid, spot):
    """Return the reference in grey under the attention in the spot's colour.

    With its peak over an even spread written below.
    """
    even = 1 / look.size
    # What an even spread would give everywhere is no colour.
    strength = (look.reshape(grid) / even - 1).clip(0) / max(look.max() / even - 1, FULL - 1)
    strength = (
        np.asarray(
            Image.fromarray(strength.astype(np.float32)).resize(
                tile.size, Image.Resampling.BILINEAR
            )
        )[..., None]
        * 0.85
    )
    grey = np.asarray(tile.convert("L"), np.float32)[..., None] * 0.75 + 40
    mixed = grey * (1 - strength) + np.array(SPOT_COLOURS[spot], np.float32) * strength
    tile = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    draw.text(
        (4, tile.height - 17),
        f"x {look.max() / even:.1f}",
        "white",
        font,
        stroke_width=1,
        stroke_fill="black",
    )
    return tile

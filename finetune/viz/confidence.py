"""Meshes coloured by how sure a network is of them: blue where it is, red where it is not."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.errors import UserError
from finetune.person import Person
from finetune.viz.draw import paint

BANDS = 24
# Standard deviations along an axis, in millimetres, at the scale's ends; between them its log.
ENDS_MM = {"body": (10.0, 160.0), "hand": (2.5, 40.0)}
STRIP, TEXT = 10, 12  # pixels


def list_colours() -> list[tuple[int, int, int]]:
    """Returns BANDS sRGB colours from sure to unsure."""
    steps = np.linspace(16, 240, BANDS).astype(np.uint8)[:, None]
    table = cv2.applyColorMap(steps, cv2.COLORMAP_TURBO)[:, 0, ::-1]
    return [(int(r), int(g), int(b)) for r, g, b in table]


def find_ends(kind: str) -> tuple[float, float]:
    """Returns the standard deviations in millimetres at the ends of the colours of a kind."""
    return ENDS_MM["body" if kind == "body" else "hand"]


def find_bands(kind: str, sd_m: np.ndarray) -> np.ndarray:
    """Returns the band in 0 to BANDS - 1 of standard deviations in metres.

    Args:
        kind: of the person.
    """
    low, high = np.log(find_ends(kind))
    share = (np.log(np.maximum(1000 * sd_m, 1e-6)) - low) / (high - low)
    return np.clip((BANDS * share).astype(int), 0, BANDS - 1)


def colour_vertices(person: Person) -> np.ndarray:
    """Returns (V, 3) uint8 sRGB.

    Raises:
        UserError: the person's network does not say how sure it is.
    """
    return np.array(list_colours(), np.uint8)[find_bands(person.kind, _require(person))]


def overlay_confidence(image: np.ndarray, people: Sequence[Person]) -> np.ndarray:
    """Returns the image with the meshes in these colours and a scale for each kind of them.

    Args:
        image: (H, W, 3) uint8.
    Raises:
        UserError: as in ``colour_vertices``; people have different intrinsics.
    """
    bands = [find_bands(person.kind, _require(person)[person.faces].mean(1)) for person in people]
    painted = paint(image, people, list_colours(), bands)
    kinds = dict.fromkeys("body" if person.kind == "body" else "hand" for person in people)
    for number, kind in enumerate(kinds):
        painted = _add_scale(painted, kind, number)
    return painted


def _require(person: Person) -> np.ndarray:
    if person.vertex_uncertainty is None:
        raise UserError(
            f"{person.kind}: its network does not say how sure it is; one that was trained with "
            "head.confidence=true does"
        )
    return person.vertex_uncertainty


def _add_scale(image: np.ndarray, kind: str, number: int) -> np.ndarray:
    """A strip of the colours with its ends in words, one above the other from below."""
    shown = Image.fromarray(image)
    height, width = image.shape[:2]
    top = height - (number + 1) * (STRIP + TEXT + 8)
    if top < 0 or width < 120:
        return image
    strip = np.array(list_colours(), np.uint8)[None].repeat(STRIP, 0)
    across = min(width - 16, 160)
    shown.paste(Image.fromarray(strip).resize((across, STRIP), Image.Resampling.NEAREST), (8, top))
    low, high = ENDS_MM[kind]
    draw, font = ImageDraw.Draw(shown), ImageFont.load_default(TEXT)
    draw.text(
        (8, top + STRIP),
        f"{kind}: ±{low:g} to {high:g} mm",
        "white",
        font,
        stroke_width=2,
        stroke_fill="black",
    )
    return np.asarray(shown)

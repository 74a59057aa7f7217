"""Where the people, or hands, of an image are that nobody gave boxes of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.find.finder import Finder, open_finder
from engine.errors import UserError
from engine.logging import progress
from engine.logging.console import get_logger
from finetune.inference.images import ImageLike, read_image

REMEDY = "name them by boxes=FILE, or set whole_image=true where each image shows one alone"

log = get_logger(__name__)


@dataclass
class Region:
    """Where a person or a hand is.

    Attributes:
        box: (4,) x0, y0, x1, y1 in pixels of the image.
        side: of a hand, "left" or "right"; of a body "right", which says nothing.
    """

    box: np.ndarray
    side: str = "right"


def open_searcher(kind: str) -> Finder:
    """Return the Finder of what a run recovers.

    Args:
        kind: "body" or "hand".

    Raises:
        UserError: ai-edge-litert or a network is missing; the message names what mends it, and
            what does without.
    """
    try:
        return open_finder(masks=False, hands=kind == "hand")
    except UserError as error:
        raise UserError(f"no boxes= are given, and {error}; or {REMEDY}") from None


def find_regions(finder: Finder, image: ImageLike, kind: str, least_score: float) -> list[Region]:
    """Return where an image shows people, or hands, best first.

    Args:
        image: (H, W, 3) uint8 RGB, a PIL image or a path.
        kind: "body" or "hand".
        least_score: of 0 to 1; less sure ones are left out.
    """
    pixels = read_image(image)
    if kind == "body":
        people = finder.find_people(pixels)
        return [Region(one.box) for one in people if one.score >= least_score]
    hands = finder.find_hands(pixels)
    return [Region(one.box, one.side) for one in hands if one.score >= least_score]


def search_images(
    paths: Sequence[str], kind: str, least_score: float, sides: Iterable[str]
) -> dict[str, list[Region]]:
    """Return {path: its Regions} of images; those without any are left out and named in notes.

    Args:
        kind: "body" or "hand".
        least_score: as in ``find_regions``.
        sides: of the hands that are kept.

    Raises:
        UserError: nobody is in any of them; as ``open_searcher``.
    """
    finder = open_searcher(kind)
    wanted = set(sides)
    found: dict[str, list[Region]] = {}
    for path in progress.watched(paths, "image"):
        regions = find_regions(finder, path, kind, least_score)
        regions = [one for one in regions if kind == "body" or one.side in wanted]
        if regions:
            found[path] = regions
    word = "person" if kind == "body" else "hand"
    if not found:
        where = paths[0] if len(paths) == 1 else f"any of the {len(paths)} images"
        raise UserError(f"no {word} was found in {where}: {REMEDY}")
    for path in paths:
        if path not in found:
            log.info("note: no %s was found in %s: %s", word, path, REMEDY)
    return found

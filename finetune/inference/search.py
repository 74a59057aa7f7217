"""Where the people, or hands, of an image are that nobody gave boxes of."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.find.detection import Detection, PersonMask
from data.find.finder import Finder, open_finder
from data.format.joint_sets import find_joint_set
from engine.errors import UserError
from engine.logging import progress
from engine.logging.console import get_logger
from finetune.inference.images import ImageLike, read_image
from finetune.prompts import PROMPTED, SURE

REMEDY = "name them by boxes=FILE, or set whole_image=true where each image shows one alone"

WORDS = {"body": "person", "hand": "hand"}

log = get_logger(__name__)


@dataclass
class Region:
    """Where a person or a hand is.

    Attributes:
        box: (4,) x0, y0, x1, y1 in pixels of the image.
        side: of a hand, "left" or "right"; of a body "right", which says nothing.
        keypoints: (K, 3) x, y in pixels and confidence, in the order of finetune.prompts.PROMPTED;
            None where they are not known.
        mask: its outline, None where it is not known.
        score: 0 to 1, how sure it is that somebody is there.
    """

    box: np.ndarray
    side: str = "right"
    keypoints: np.ndarray | None = None
    mask: PersonMask | None = None
    score: float = 1.0

    def find_wrists(self, kind: str) -> dict[str, np.ndarray]:
        """Return {side: (2,) pixels} of the wrists of a person that were found for sure."""
        if kind != "body" or self.keypoints is None:
            return {}
        names = PROMPTED["body"]
        rows = {side: self.keypoints[names.index(f"{side}_wrist")] for side in ("left", "right")}
        return {side: row[:2] for side, row in rows.items() if row[2] >= SURE}


def open_searcher(kinds: Collection[str], masks: bool = False) -> Finder:
    """Return the Finder of what runs recover.

    Args:
        kinds: "body" or "hand", or both.  masks: whether outlines of people are wanted too.

    Raises:
        UserError: ai-edge-litert or a network is missing; the message names what mends it, and
            what does without.
    """
    try:
        return open_finder(masks=masks, hands="hand" in kinds)
    except UserError as error:
        raise UserError(f"no boxes= are given, and {error}; or {REMEDY}") from None


def find_regions(
    finder: Finder,
    image: ImageLike,
    kinds: Collection[str],
    least_score: float,
    masks: bool = False,
) -> dict[str, list[Region]]:
    """Return {kind: where an image shows people, or hands, best first}.

    Args:
        image: (H, W, 3) uint8 RGB, a PIL image or a path.
        kinds: "body" or "hand", or both.
        least_score: of 0 to 1; less sure ones are left out.
        masks: whether outlines of people are wanted too.
    """
    pixels = read_image(image)
    found: dict[str, list[Region]] = {}
    people = finder.find_people(pixels) if "body" in kinds else None
    if people is not None:
        sure = [one for one in people if one.score >= least_score]
        found["body"] = [
            Region(one.box, keypoints=order_keypoints(one), score=one.score) for one in sure
        ]
        if masks:
            for region, one in zip(found["body"], sure, strict=True):
                region.mask = finder.find_mask(pixels, one, people)
    if "hand" in kinds:
        # People who are known already are not looked for again.
        hands = finder.find_hands(pixels) if people is None else finder.find_hands(pixels, people)
        sure = [one for one in hands if one.score >= least_score]
        found["hand"] = [Region(one.box, one.side, one.keypoints, score=one.score) for one in sure]
    return found


def order_keypoints(person: Detection) -> np.ndarray | None:
    """(17, 3) of a found person's keypoints, in PROMPTED's order; None where there are none."""
    if person.keypoints is None:
        return None
    names = find_joint_set(person.joint_set).joints
    return person.keypoints[[names.index(name) for name in PROMPTED["body"]]]


def search_images(
    paths: Sequence[str],
    kinds: Collection[str],
    least_score: float,
    sides: Iterable[str],
    masks: bool = False,
) -> dict[str, dict[str, list[Region]]]:
    """Return {path: {kind: its Regions}} of images.

    Those without any are left out and named in notes.

    Args:
        kinds: "body" or "hand", or both.
        least_score: as in ``find_regions``.
        sides: of the hands that are kept.  masks: whether outlines of people are wanted too.

    Raises:
        UserError: nobody is in any of them; as ``open_searcher``.
    """
    finder = open_searcher(kinds, masks)
    wanted = set(sides)
    found: dict[str, dict[str, list[Region]]] = {}
    for path in progress.watched(paths, "image"):
        regions = find_regions(finder, path, kinds, least_score, masks)
        if "hand" in regions:
            regions["hand"] = [one for one in regions["hand"] if one.side in wanted]
        if any(regions.values()):
            found[path] = {kind: inside for kind, inside in regions.items() if inside}
    word = " or ".join(WORDS[kind] for kind in kinds)
    if not found:
        where = paths[0] if len(paths) == 1 else f"any of the {len(paths)} images"
        raise UserError(f"no {word} was found in {where}: {REMEDY}")
    for path in paths:
        if path not in found:
            log.info("note: no %s was found in %s: %s", word, path, REMEDY)
    return found

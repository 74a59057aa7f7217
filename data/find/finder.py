"""Finding people, their outlines and their hands in an image.

    finder = open_finder()
    people = finder.find(image)

Four networks of data.find.models on the CPU. Nothing is kept between two images, and equal images
give equal answers.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.find.detection import Detection, HandDetection, PersonMask
from data.find.hands import (
    SAME_HAND,
    drop_shared_hands,
    find_hands_anywhere,
    find_hands_at_wrists,
    is_part_of_trunk,
)
from data.find.networks import HandNetwork, MaskNetwork, PalmNetwork, PeopleNetwork, box_overlap
from data.find.outline import find_outline
from data.find.people import find_people
from engine.errors import UserError


class Finder:
    """The networks, opened once a process; see ``open_finder``."""

    def __init__(self, masks: bool, hands: bool, tiles: bool, threads: int) -> None:
        self.tiles = tiles
        self._people = PeopleNetwork(threads)
        self._mask = MaskNetwork(threads) if masks else None
        self._palms = PalmNetwork(threads) if hands else None
        self._hands = HandNetwork(threads) if hands else None

    def find(self, image: np.ndarray) -> list[Detection]:
        """Return the people in an image, best first, with outlines and hands where asked for.

        Args:
            image: (H, W, 3) uint8 RGB, upright.

        Raises:
            UserError: it is no such array.
        """
        people = self.find_people(image)
        for person in people:
            if self._mask is not None:
                person.mask = self.find_mask(image, person, people)
            if self._hands is not None:
                person.hands = self.find_hands_of(image, person)
        drop_shared_hands(people)
        return people

    def find_people(self, image: np.ndarray) -> list[Detection]:
        """Return the people in an image, best first: boxes and keypoints alone.

        Args:
            image: (H, W, 3) uint8 RGB, upright.

        Raises:
            UserError: it is no such array.
        """
        return find_people(self._people, check_image(image), self.tiles)

    def find_mask(
        self, image: np.ndarray, person: Detection, others: Sequence[Detection] = ()
    ) -> PersonMask | None:
        """Return the outline of a person whose box is known, None where nobody is seen in it.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            person: its keypoints, where they are known, say which part of the outline is its own.
            others: people of the same image, perhaps the person among them.

        Raises:
            UserError: no such array.
        """
        if self._mask is None:
            raise ValueError("this Finder was opened without masks")
        return find_outline(self._mask, check_image(image), person, others)

    def find_hands_of(self, image: np.ndarray, person: Detection) -> dict[str, HandDetection]:
        """Return the hands, by side, at the wrists of a person whose keypoints (coco17) are known.

        Args:
            image: (H, W, 3) uint8 RGB, upright.

        Raises:
            UserError: no such array.
        """
        if self._palms is None or self._hands is None:
            raise ValueError("this Finder was opened without hands")
        return find_hands_at_wrists(self._palms, self._hands, check_image(image), person)

    def find_hands(
        self, image: np.ndarray, people: Sequence[Detection] | None = None
    ) -> list[HandDetection]:
        """Return all hands of an image, those of people and those without one (close-ups).

        Best first. The side of a hand at a wrist is that of the body's wrist; of others it is what
        the hand's own network says.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            people: at whose wrists hands are looked for; None: those that are found.

        Raises:
            UserError: no such array.
        """
        if self._palms is None or self._hands is None:
            raise ValueError("this Finder was opened without hands")
        seen = self.find_people(image) if people is None else people
        # Copies: the detections of others stay as they are.
        owners = [replace(one, hands=self.find_hands_of(image, one)) for one in seen]
        drop_shared_hands(owners)
        found: list[HandDetection] = []
        for owner in owners:
            found += owner.hands.values()
        others = find_hands_anywhere(self._palms, self._hands, check_image(image))
        found += [hand for hand in others if not is_part_of_trunk(hand, seen)]
        kept: list[HandDetection] = []
        for hand in found:
            if all(box_overlap(hand.box, one.box) < SAME_HAND for one in kept):
                kept.append(hand)
        return sorted(kept, key=lambda hand: -hand.score)


def open_finder(
    masks: bool = True, hands: bool = True, tiles: bool = True, threads: int = 1
) -> Finder:
    """Return a Finder; open one in each process.

    Args:
        masks: outlines of people too.
        hands: hands too.
        tiles: a second look, into overlapping parts of the image, for small people and crowds.
        threads: of the CPU for each network.

    Raises:
        UserError: ai-edge-litert is not installed, or a network is not in the cache; the message
            names the command that mends it.
    """
    return Finder(masks, hands, tiles, threads)


def check_image(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) of an image; one of a single channel gets it three times.

    Raises:
        UserError: it is not (H, W, 3) or (H, W) uint8 with pixels in it.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, 2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f"people are found in (H, W, 3) uint8 RGB, this image is {image.shape} {image.dtype}"
        )
    return image

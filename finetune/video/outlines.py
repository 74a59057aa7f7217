"""Outlines of the people of a frame, for networks that take them beside the keypoints."""

from collections.abc import Sequence

import numpy as np

from data.find.detection import Detection, PersonMask
from data.find.finder import Finder, open_finder
from finetune.inference.search import Region


class Outliner:
    """Finds the outlines of people whose boxes are known; the network opens with the first one.

    Raises:
        UserError: as ``open_finder``, of the first frame.
    """

    def __init__(self) -> None:
        self._finder: Finder | None = None

    def find_masks(
        self, image: np.ndarray, regions: Sequence[Region], everybody: Sequence[Region]
    ) -> list[PersonMask | None]:
        """Return the outline of each region, None where nobody is seen in it.

        Args:
            image: (H, W, 3) uint8 RGB.
            everybody: in the image: what is another's is left out of an outline.
        """
        if self._finder is None:
            self._finder = open_finder(masks=True, hands=False)
        known = {id(region): _describe(region) for region in [*regions, *everybody]}
        others = [known[id(region)] for region in everybody]
        return [self._finder.find_mask(image, known[id(one)], others) for one in regions]


def _describe(region: Region) -> Detection:
    # finetune.prompts.PROMPTED has a body's keypoints in the order of coco17.
    return Detection(region.box, keypoints=region.keypoints)

"""One focal length for an image or a video, of what its people's crops tell.

Each crop tells a distribution over its own focal length as a multiple of its side
(finetune/heads/lens.py); all are of one camera, so they are moved onto one axis, the log of the
focal length over the image's diagonal, and multiplied, with what lenses there are at all:

    log p(f) = log prior(f / diagonal) + n / (1 + (n - 1) r) * mean over people of
               (mean over their crops of log p(f / side))

Crops of one person are no independent witnesses, so they are averaged; n people are not quite
either (one scene, one network, which errs alike), as for a design effect (Kish 1965) with r between
them. The principal point is the image's middle.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.errors import UserError
from finetune.heads.lens import LensHead, LensPrediction, list_focals
from finetune.inference.predictor import BATCH, Predictor, check_boxes, check_intrinsics
from finetune.inference.search import Region
from finetune.released.catalogue import list_shipped

SHIPPED = "lens"  # the name of the weights that are taken where no network is named
NONE = "none"
# Log-normal over the diagonal: half of all photographs between 25 and 48 mm on film, 95 % between
# 14 and 84 mm.
PRIOR_MEDIAN, PRIOR_SPREAD = 0.8, 0.45
ALIKE = 0.3  # r
GRID = np.linspace(math.log(0.1), math.log(12.0), 512)  # log of f over the diagonal
LEAST_SIDE_PX = 32  # smaller people say nothing


@dataclass(frozen=True)
class CropTold:
    """What one crop tells.

    Attributes:
        person: whose it is.
        side_px: of its square, pixels of the image.
        logits: (BINS,) of finetune.heads.lens.LensPrediction.
    """

    person: str
    side_px: float
    logits: np.ndarray


@dataclass(frozen=True)
class FocalEstimate:
    """A focal length.

    Attributes:
        focal_px: pixels of the image.
        factor: by which it is off, either way, in a third of all cases by more.
        people, crops: of which it is told.
    """

    focal_px: float
    factor: float
    people: int
    crops: int

    def describe(self) -> str:
        """Return a line such as "estimated from 2 people, within x/: 1.25"."""
        who = f"{self.people} {'person' if self.people == 1 else 'people'}"
        seen = f" in {self.crops} crops" if self.crops > self.people else ""
        return f"estimated from {who}{seen}, within x/: {self.factor:.2f}"

    def make_intrinsics(self, width: int, height: int) -> np.ndarray:
        """Return (3, 3) intrinsics of an image of this size."""
        focal = self.focal_px
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def combine_crops(told: Sequence[CropTold], diagonal_px: float) -> FocalEstimate:
    """Return the focal length that crops of one camera tell together.

    Args:
        told: of any number of people and frames; none: what the prior says.
        diagonal_px: of the image or video.
    """
    by_person: dict[str, list[np.ndarray]] = {}
    for one in told:
        by_person.setdefault(one.person, []).append(_place(one, diagonal_px))
    log_share = -0.5 * ((GRID - math.log(PRIOR_MEDIAN)) / PRIOR_SPREAD) ** 2
    if by_person:
        count = len(by_person)
        mean = np.mean([np.mean(found, 0) for found in by_person.values()], 0)
        log_share = log_share + count / (1 + (count - 1) * ALIKE) * mean
    share = np.exp(log_share - log_share.max())
    share /= share.sum()
    middle = float(share @ GRID)
    spread = math.sqrt(float(share @ (GRID - middle) ** 2))
    return FocalEstimate(
        math.exp(middle) * diagonal_px, math.exp(spread), len(by_person), len(told)
    )


def _place(one: CropTold, diagonal_px: float) -> np.ndarray:
    """The (len(GRID),) log-likelihood of a crop; beyond its bins it is that of the last."""
    logits = one.logits.astype(np.float64)
    logits = logits - np.logaddexp.reduce(logits)
    focals = list_focals().double().numpy()
    return np.interp(GRID + math.log(diagonal_px / one.side_px), focals, logits)


class LensReader:
    """Tells focal lengths by the people in images.

        estimate = LensReader("runs/lens")(image, boxes)
        people = load("body")(image, boxes, estimate.make_intrinsics(width, height))

    Args:
        run: a run of head.name=lens, or weights; see finetune.released.locate.
        device: "auto", "cpu" or "cuda".
        name: of the key that names the run, for messages.
    Raises:
        UserError: there is no such run, or its head is another.
    """

    def __init__(self, run: str | Path, device: str = "auto", name: str = "lens") -> None:
        self.predictor = Predictor(run, device, name)
        if not isinstance(self.predictor.model.head, LensHead):
            raise UserError(
                f"{name}={run}: its head, {self.predictor.config.head.name}, tells no focal "
                "length; a run of head.name=lens is wanted"
            )
        if self.predictor.body.kind != "body":
            raise UserError(f"{name}={run} was trained on crops of hands; bodies are wanted")

    def __call__(
        self,
        image: np.ndarray,
        boxes: Sequence[np.ndarray],
        keypoints: Sequence[np.ndarray | None] | None = None,
    ) -> FocalEstimate:
        """Return the focal length of an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: n of (4,) x0, y0, x1, y1 in pixels, one a person.
            keypoints: n of (17, 3), as Predictor takes them.
        """
        points = [None] * len(boxes) if keypoints is None else keypoints
        regions = {
            str(number): Region(np.asarray(box, np.float64), keypoints=found)
            for number, (box, found) in enumerate(zip(boxes, points, strict=True))
        }
        return combine_crops(self.read_crops(image, regions), math.hypot(*image.shape[:2]))

    @torch.no_grad()
    def read_crops(self, image: np.ndarray, regions: Mapping[str, Region]) -> list[CropTold]:
        """Return what the people of an image tell.

        Args:
            image: (H, W, 3) uint8 RGB.  regions: {name: where a person is}.
        """
        height, width = image.shape[:2]
        predictor, size = self.predictor, self.predictor.config.model.size
        inside = {
            name: region for name, region in regions.items() if _shows(region.box, width, height)
        }
        K = check_intrinsics(None, width, height)  # its focal length is not read
        told: list[CropTold] = []
        names = list(inside)
        for first in range(0, len(names), BATCH):
            part = names[first : first + BATCH]
            boxes = [inside[name].box for name in part]
            squares, _ = check_boxes(boxes, width, height, predictor.config.margin, size)
            flip = torch.zeros(len(part), dtype=torch.bool, device=predictor.device)
            images, cameras = predictor.cut_crops(image, K, squares, flip)
            points = [inside[name].keypoints for name in part]
            prompts = predictor.place_prompts(points, squares, flip)
            found = predictor.model(images, cameras, predictor.body, prompts)
            assert isinstance(found, LensPrediction)
            told += [
                CropTold(name, square.side, logits)
                for name, square, logits in zip(
                    part, squares, found.logits.cpu().numpy(), strict=True
                )
            ]
        return told


def open_lens(spec: str, device: str) -> LensReader | None:
    """Return what the key ``lens=`` names; None where it is none, or empty and none ships.

    Raises:
        UserError: as LensReader.
    """
    if spec == NONE or (not spec and SHIPPED not in list_shipped()):
        return None
    return LensReader(spec or SHIPPED, device)


def _shows(box: np.ndarray, width: int, height: int) -> bool:
    """Whether a box is large enough and lies in an image."""
    x0, y0, x1, y1 = np.asarray(box, float).tolist()
    overlaps = min(x1, width) - max(x0, 0) >= 1 and min(y1, height) - max(y0, 0) >= 1
    return overlaps and max(x1 - x0, y1 - y0) >= LEAST_SIDE_PX

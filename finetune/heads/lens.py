"""The lens head: how long the focal length is, by what perspective does to a person.

Whoever is near is seen from above at the feet and from the front at the face, and what is nearer is
larger; whoever is far away is seen from one side all over. So a crop tells its own field of view,
which is how far away the person is for their size, however wide the photograph was. The answer is a
distribution over the log of the focal length as a multiple of the crop's side, for many crops say
little: finetune/inference/lens.py makes one focal length out of those of all people of an image or
video.

It reads tokens and keypoints that were found (head.prompts), nothing of the camera: neither its
focal length, which is what it is to tell, nor where its axis passes the crop. That place over the
crop's side is the focal length times the tangent of an angle, so a network that knows it learns by
heart how far from the axis people were put when its crops were made.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from data.bodies.base import BodyModel
from data.cropping.geometry import Size, find_longer, find_sides
from engine.config.parser import key
from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from finetune.crop_camera import focal_length
from finetune.heads.base import HEADS, ImagePrediction, Truth
from finetune.heads.image_head import Asked, Comparison, ImageHead
from finetune.heads.keys import HeadConfig
from finetune.heads.token_pool import TokenPool
from finetune.means import Means
from finetune.prompts import PROMPTED
from pretrain.config import VisionConfig
from pretrain.model import initialise

LEAST, MOST = 0.4, 48.0  # focal length over the crop's side: of arm's length, and of a long lens
BINS = 48
STEP = math.log(MOST / LEAST) / (BINS - 1)
BLUR = 1.0  # bins: standard deviation of what a crop is to answer, so that neighbours learn too


@dataclass
class LensConfig(HeadConfig):
    """Sizes of finetune/heads/lens.py, and the weight of its term."""

    width: int = key(256, "channels of its two layers", low=8)
    token_proj_dim: int = key(
        16, "channels of a token that are read; 0: none, the keypoints alone", low=0
    )
    lens: float = key(1.0, "weight of the focal length's cross-entropy", low=0)
    prompts: bool = key(  # pyrefly: ignore - of all heads False, of this one a key
        False,
        "whether it takes keypoints that were found, beside the image (data.augment.prompt_share)",
    )

    def check(self) -> None:
        """Raise UserError where it would read nothing."""
        if not self.token_proj_dim and not self.prompts:
            raise UserError(
                "head.token_proj_dim=0 and head.prompts=false: the head reads tokens, keypoints or "
                "both"
            )


@dataclass(eq=False, kw_only=True)
class LensPrediction(ImagePrediction):
    """What is said of the focal lengths of B images.

    Attributes:
        logits: (B, BINS) over ``list_focals()``.
    """

    logits: torch.Tensor


def list_focals() -> torch.Tensor:
    """Return the (BINS,) log of the focal length over the image's side, bin by bin."""
    return math.log(LEAST) + STEP * torch.arange(BINS)


def read_focal(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (mean, standard deviation) of the log of the focal length over the side.

    Args:
        logits: (..., BINS).
    """
    share, focals = logits.softmax(-1), list_focals().to(logits)
    mean = (share * focals).sum(-1)
    spread = (share * (focals - mean[..., None]).square()).sum(-1)
    return mean, spread.sqrt()


@HEADS.register("lens")
class LensHead(ImageHead):
    """Tokens and keypoints to a focal length; see finetune.heads.base.Head for the arguments."""

    schema = LensConfig
    needs = ()  # the camera is known of every crop

    def __init__(self, config: VisionConfig, head: LensConfig, body: BodyModel) -> None:
        super().__init__()
        self.takes_prompts = head.prompts
        self.points = len(PROMPTED[body.kind]) if head.prompts else 0
        width = 3 * self.points
        self.pool = None
        if head.token_proj_dim:
            self.norm = nn.LayerNorm(config.encoder.width)
            self.pool = TokenPool(config.encoder.width, config.grid(), head.token_proj_dim)
            width += self.pool.width
        self.mix = nn.Sequential(
            nn.Linear(width, head.width),
            nn.GELU(),
            nn.Linear(head.width, head.width),
            nn.GELU(),
        )
        self.answers = nn.Linear(head.width, BINS)
        self.apply(initialise)

    def forward(
        self,
        features: torch.Tensor,
        K: torch.Tensor,
        size: Size,
        means: Means,
        body: BodyModel,
        prompts: torch.Tensor | None = None,
    ) -> LensPrediction:
        """Predict the focal lengths of images; see finetune.heads.base.Head. ``K`` is not read."""
        read: list[torch.Tensor] = []
        if self.pool is not None:
            read.append(self.pool(self.norm(features)))
        if self.points:
            known = K.new_zeros(len(K), self.points, 3) if prompts is None else prompts
            read.append(known.flatten(1))
        return LensPrediction(logits=self.answers(self.mix(torch.cat(read, 1))).float())

    def list_comparisons(self) -> Sequence[tuple[str, str, Comparison]]:
        """Cross-entropy of the distribution."""
        return (("lens", "head.lens", _compare),)

    def list_judgements(self) -> Sequence[tuple[str, str, str, bool, Comparison]]:
        """How far off the focal length is, and the likelihood."""
        return (
            ("focal_off", "focal length off by", "%", True, _measure_ratio),
            ("lens_nats", "cross-entropy", "nats", True, _compare),
        )

    def read_truth(self, truth: Truth) -> torch.Tensor:
        """(B,) log of the true focal length over the side, of crops."""
        return torch.log(focal_length(truth.K) / find_longer(truth.size))

    def average_truths(self, told: Sequence[torch.Tensor]) -> LensPrediction:
        """How often crops have each focal length."""
        share = spread_truth(torch.cat(list(told))).mean(0, keepdim=True)
        return LensPrediction(logits=share.clamp_min(1e-6).log())

    def draw(self, image: np.ndarray, found: ImagePrediction, row: int) -> np.ndarray:
        """The image, twice as large, with the distribution below it and its mean in words."""
        logits = _require_logits(found)[row : row + 1].detach().cpu()
        shown = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        height, width = shown.shape[:2]
        bars = logits[0].softmax(0).numpy()
        for number, share in enumerate(bars / bars.max()):
            x0, x1 = (round(place * width / BINS) for place in (number, number + 1))
            top = height - max(1, round(float(share) * height / 5))
            cv2.rectangle(shown, (x0, top), (max(x0, x1 - 2), height - 1), (255, 120, 0), -1)
        mean, spread = (float(value) for value in read_focal(logits))
        words = f"f = {math.exp(mean):.2f} sides, x/: {math.exp(spread):.2f}"
        cv2.putText(shown, words, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 120, 0), 1)
        return shown

    def save_answers(
        self, stem: Path, image: np.ndarray, answers: Sequence[tuple[Asked, ImagePrediction, int]]
    ) -> list[Path]:
        """Write the image with the focal length that each crop tells, and the numbers."""
        shown, listed = image.copy(), []
        for asked, found, row in answers:
            mean, spread = read_focal(_require_logits(found)[row].detach().cpu())
            side = side_of(asked)
            focal, factor = side * math.exp(float(mean)), math.exp(float(spread))
            listed.append({"kind": asked.kind, "box": np.round(asked.box, 2).tolist()})
            listed[-1] |= {"focal_px": round(focal, 1), "factor": round(factor, 3)}
            x0, y0, x1, y1 = np.asarray(asked.box).round().astype(int).tolist()
            cv2.rectangle(shown, (x0, y0), (x1, y1), (255, 120, 0), 2)
            words = f"{focal:.0f} px x/: {factor:.2f}"
            place = (max(x0, 0), max(y0 - 5, 12))
            cv2.putText(shown, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 120, 0), 1)
        first, path = Path(f"{stem}.lens.png"), Path(f"{stem}.lens.json")
        try:
            Image.fromarray(shown).save(first)
            write_file(path, json.dumps(listed).encode())
        except OSError as error:
            raise failure_of(error, f"{first} cannot be written: {explain(error)}") from None
        return [first, path]


def side_of(asked: Asked) -> float:
    """Return the side in pixels of the image of what the network saw as its longer one."""
    columns = find_sides(asked.size)[1]
    return float(asked.square[2] - asked.square[0]) * find_longer(asked.size) / columns


def spread_truth(told: torch.Tensor) -> torch.Tensor:
    """Return (B, BINS) shares that sum to 1: what crops of true focal lengths are to answer.

    Args:
        told: (B,) log of the focal length over the side; beyond the bins it is the last one's.
    """
    focals = list_focals().to(told)
    place = told.clamp(float(focals[0]), float(focals[-1]))
    return torch.softmax(-0.5 * ((focals - place[:, None]) / (BLUR * STEP)).square(), 1)


def _require_logits(found: ImagePrediction) -> torch.Tensor:
    if not isinstance(found, LensPrediction):
        raise ValueError("the prediction is none of a lens")
    return found.logits


def _compare(found: ImagePrediction, told: torch.Tensor) -> torch.Tensor:
    return -(spread_truth(told) * F.log_softmax(_require_logits(found), 1)).sum(1)


def _measure_ratio(found: ImagePrediction, told: torch.Tensor) -> torch.Tensor:
    """By how many per cent the longer of true and found focal length is the longer."""
    mean, _ = read_focal(_require_logits(found))
    return 100 * torch.expm1((mean - told).abs())

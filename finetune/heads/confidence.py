"""How sure a head is of each keypoint and vertex: a scale in millimetres, learnt by likelihood.

Beside any head with a mesh (``head.confidence=true``). Along each axis an error about the root is
taken to be Laplace distributed with a scale b of its own: -log p = log(2 b) + |error| / b. The
error is that of the prediction as it stands: no gradient goes from here into the mesh or the
encoder, for a likelihood would pay for being sure and move what it should judge (Seitzer et al.,
ICLR 2022, arXiv 2203.09168, on how it then neglects what is hard).
"""

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from data.bodies.base import BodyModel
from data.cropping.geometry import Size
from finetune.crop_camera import describe_camera, find_ray_rotation
from finetune.heads.base import Prediction, Term, Truth
from finetune.heads.token_pool import TokenPool
from finetune.heads.upsampling import apply_rows, spread_vertices
from pretrain.config import VisionConfig
from pretrain.model import initialise

POINTS = 64  # vertices that have a scale; the others are between them
NEAR = 4
HIDDEN = 128
KEPT = 8  # channels of a token
FIRST_MM, LEAST_MM, MOST_MM = 50.0, 0.5, 2000.0
SD = 2**0.5  # standard deviation of a Laplace distribution over its scale


class Confidence(nn.Module):
    """Adds ``uncertainty`` and ``vertex_uncertainty`` to a Prediction.

    Args:
        config: of the encoder.  body: the full body model.
    """

    def __init__(self, config: VisionConfig, body: BodyModel) -> None:
        super().__init__()
        self.count = len(body.keypoint_names)
        places = torch.full((int(body.vertex_ids.max()) + 1,), -1)
        places[body.vertex_ids.cpu()] = torch.arange(len(body.vertex_ids))
        around = surround_vertices(body)
        # Of the body model, so no part of the network's files.
        self.register_buffer("_places", places, persistent=False)
        self.register_buffer("_index", around.index, persistent=False)
        self.register_buffer("_weight", around.weight, persistent=False)
        points = len(around.rows)
        self.norm = nn.LayerNorm(config.encoder.width)
        self.pool = TokenPool(config.encoder.width, config.grid(), KEPT)
        self.read = nn.Linear(self.pool.width + 3 * self.count + 3, HIDDEN)
        self.answer = nn.Linear(HIDDEN, self.count + points)
        self.apply(initialise)
        nn.init.zeros_(self.answer.weight)

    def forward(
        self,
        features: torch.Tensor | None,
        found: Prediction,
        K: torch.Tensor,
        size: Size,
        body: BodyModel,
    ) -> Prediction:
        """Returns the Prediction with standard deviations along each axis, metres.

        Args:
            features: (B, N, C) of the encoder; None where there was no image.
            found: what the head said, of ``body``, coarse or full.
            K, size: of the images.
        """
        points = found.keypoints.detach()
        points = (points - points[:, :1]) @ find_ray_rotation(K, size)
        if features is None:
            pooled = points.new_zeros(len(points), self.pool.width)
        else:
            pooled = self.pool(self.norm(features.detach()))
        known = torch.cat([pooled, points.flatten(1), describe_camera(K, size)], 1)
        logs = self.answer(F.gelu(self.read(known))).float()
        with torch.autocast(points.device.type, enabled=False):
            sd = FIRST_MM * SD * logs.clamp(-5, 5).exp() / 1000
            sd = sd.clamp(SD * LEAST_MM / 1000, SD * MOST_MM / 1000)
            rows = self._places[body.vertex_ids]
            spread = sd[:, self.count :, None]
            surface = apply_rows(spread, self._index[rows], self._weight[rows])[..., 0]
        return replace(found, uncertainty=sd[:, : self.count], vertex_uncertainty=surface)


def compare_confidence(found: Prediction, truth: Truth) -> torch.Tensor:
    """(B,) negative log-likelihood of errors in mm, a mean over axes of keypoints and vertices."""
    points, surface = list_errors(found, truth.mesh)
    if found.uncertainty is None or found.vertex_uncertainty is None:
        raise ValueError("the prediction does not say how sure it is")
    terms = [
        _likelihood(points[:, 1:], found.uncertainty[:, 1:]),  # the root is off by nothing
        _likelihood(surface, found.vertex_uncertainty),
    ]
    return (terms[0] + terms[1]) / 2


def list_errors(found: Prediction, true: Prediction) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns errors about the root of keypoints (B, K, 3) and vertices (B, V, 3), detached."""
    here, there = found.keypoints[:, :1].detach(), true.keypoints[:, :1]
    points = (found.keypoints.detach() - here) - (true.keypoints - there)
    surface = (found.vertices.detach() - here) - (true.vertices - there)
    return points, surface


def _likelihood(errors: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    scale_mm = 1000 * sd / SD
    off = 1000 * errors.abs().mean(2)
    return (torch.log(2 * scale_mm) + off / scale_mm).mean(1)


@dataclass(frozen=True)
class Surroundings:
    """The vertices of a full body model that have a scale, and how it is spread to all.

    Attributes:
        rows: (P,) int64 vertices.
        index: (V, NEAR) int64 into ``rows``, the nearest.  weight: (V, NEAR), a row adds up to 1.
    """

    rows: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor


@functools.lru_cache(maxsize=4)
def surround_vertices(body: BodyModel) -> Surroundings:
    """Returns the Surroundings of a full body model, by inverse distances on the unposed body."""
    device = body.vertex_ids.device
    still = torch.zeros(1, len(body.joint_names), 3, device=device)
    shape = torch.full((1, len(body.shape_space.names)), float(body.shape_space.mean))
    with torch.no_grad():
        vertices, _ = body(still, still[:, 0], shape.to(device))
    rest = vertices[0].cpu()
    rows = spread_vertices(rest, torch.ones(len(rest)), POINTS)
    near, index = torch.cdist(rest, rest[rows]).topk(min(NEAR, len(rows)), 1, largest=False)
    weight = 1 / (near + 1e-3)
    return Surroundings(rows, index, weight / weight.sum(1, keepdim=True))


CONFIDENCE = Term("confidence", "head.confidence_weight", compare_confidence)

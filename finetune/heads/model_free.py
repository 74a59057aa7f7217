"""The model-free head: queries for keypoints and for vertices of a coarse mesh.

They attend to each other and to the image's tokens, and answer with where each is, about the root;
one more answers with the translation. A fixed sparse matrix (finetune/heads/upsampling.py) makes
all vertices and joints of them. So a person need not be one that the body model's parameters can
express, and there are no parameters. METRO (arXiv 2012.09760) and FastMETRO (2207.13820) do it so.

As in the model-based head a linear projection of all tokens in their places gives a first answer,
which the queries start from and refine: it learns within minutes, where attention alone does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from data.bodies.base import BodyModel
from data.cropping.geometry import Size
from engine.config.parser import key
from engine.errors import UserError
from engine.logging.console import get_logger
from finetune.crop_camera import describe_camera, find_ray_rotation, to_translation
from finetune.heads.base import HEADS, Head, Prediction, Term, Truth
from finetune.heads.keys import HeadConfig, check_width
from finetune.heads.token_pool import TokenPool
from finetune.heads.upsampling import NEAR, apply_rows, fit_upsampling, list_rows
from finetune.means import Means
from pretrain.config import VisionConfig
from pretrain.model import initialise
from pretrain.position import sincos_table

EDGES = 4  # neighbours of a vertex whose distance is compared

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig

log = get_logger(__name__)


@dataclass
class ModelFreeConfig(HeadConfig):
    """Sizes of the model-free head."""

    width: int = key(256, "channels of a query", low=8)
    depth: int = key(
        2,
        "layers in which queries attend to each other and to tokens; 0: the linear projection "
        "alone",
        low=0,
    )
    heads: int = key(4, "attention heads", low=1)
    token_proj_dim: int = key(16, "channels of a token in the linear projection", low=1)
    coarse: int = key(
        192, "vertices that have queries; the others follow from them", low=NEAR, high=2048
    )
    edges_weight: float = key(
        5.0, "weight of the distances between neighbouring vertices, metres", low=0
    )

    def check(self) -> None:
        """Raise UserError where the width fits neither position encoding nor attention heads."""
        check_width(self.width, self.heads)

    def check_run(self, config: "FinetuneConfig") -> None:
        """Raise UserError where points have no vertex of the training's that says where they are.

        They would stay where they are while what is around them moves.
        """
        if self.coarse > config.coarse_vertices:
            raise UserError(
                f"head.coarse={self.coarse} is above coarse_vertices={config.coarse_vertices}: "
                "training compares no fewer vertices than have queries"
            )


@HEADS.register("model_free")
class ModelFreeHead(Head):
    """Tokens to points; see finetune.heads.base.Head for the arguments.

    Buffers, saved with the weights, and filled by ``begin`` when a run starts: of P control points
    (K keypoints, then C vertices) the mean person's, and the matrix from them to V vertices and J
    joints. Files need neither to be fitted again.
    """

    schema = ModelFreeConfig

    def __init__(self, config: VisionConfig, head: ModelFreeConfig, body: BodyModel) -> None:
        super().__init__()
        self.depth, width = head.depth, head.width
        self.keypoints = len(body.keypoint_names)
        self.coarse = head.coarse
        points = self.keypoints + len(list_rows(body, head.coarse))
        rows = len(body.vertex_ids) + len(body.joint_names)
        near = min(NEAR, points)
        # Numbers of the full mesh's vertices, by their numbers in the whole body's.
        places = torch.full((int(body.vertex_ids.max()) + 1,), -1)
        places[body.vertex_ids] = torch.arange(len(body.vertex_ids))
        self.register_buffer("_places", places, persistent=False)
        self.register_buffer("start", torch.zeros(points, 3))
        self.register_buffer("up_index", torch.zeros(rows, near, dtype=torch.int32))
        self.register_buffer("up_weight", torch.zeros(rows, near))
        self.vertices = len(body.vertex_ids)
        self.norm = nn.LayerNorm(config.encoder.width)
        self.pool = TokenPool(config.encoder.width, config.grid(), head.token_proj_dim)
        self.read = nn.Sequential(nn.Linear(self.pool.width, 2 * width), nn.GELU())
        self.camera = nn.Linear(3, 2 * width)
        self.first = nn.Linear(2 * width, 3 * (points + 1))  # the last is the translation
        first = self.first
        if self.depth:
            self.tell = nn.Linear(2 * width, width)
            self.locate = nn.Linear(3, width)
            self.queries = nn.Parameter(torch.zeros(points + 1, width))
            self.embed = nn.Linear(config.encoder.width, width)
            table = sincos_table(config.grid(), width)
            self.register_buffer("_table", table, persistent=False)
            # No dropout: it would read random numbers that are drawn nowhere else.
            block = nn.TransformerDecoderLayer(
                width,
                head.heads,
                2 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.decoder = nn.TransformerDecoder(block, self.depth)
            self.last_norm = nn.LayerNorm(width)
            self.refine = nn.Linear(width, 3)
        self.apply(initialise)
        if self.depth:
            nn.init.normal_(self.queries, std=0.02)
            nn.init.xavier_uniform_(self.refine.weight, gain=0.01)
        nn.init.xavier_uniform_(first.weight, gain=0.01)  # the first answers are nearly the means

    def list_own_terms(self) -> Sequence[Term]:
        """That of the edges of the mesh."""
        return (Term("edges", "head.edges_weight", compare_edges),)

    @torch.no_grad()
    def begin(self, means: Means, body: BodyModel) -> None:
        """Take the mean person's points, and fit the matrix; see finetune.heads.base.Head."""
        device = body.vertex_ids.device
        fitted = fit_upsampling(body, self.coarse)
        self.up_index.copy_(fitted.index)
        self.up_weight.copy_(fitted.weight)
        pose = means.pose[None].to(device)
        vertices, joints = body(pose, pose.new_zeros(1, 3), means.shape[None].to(device))
        points = torch.cat([body.keypoints(vertices, joints), vertices[:, fitted.rows]], 1)
        self.start.copy_(points[0] - joints[0, :1])
        log.info(
            f"model-free: {self.vertices} vertices follow from {len(self.start)} points to "
            f"{1000 * fitted.error_m:.1f} mm (95 %: {1000 * fitted.worst_m:.1f} mm) on random poses"
        )

    def forward(
        self, features: torch.Tensor, K: torch.Tensor, size: Size, means: Means, body: BodyModel
    ) -> Prediction:
        """Predict the people of images; see finetune.heads.base.Head."""
        offsets = self.answer(self.norm(features), describe_camera(K, size)).float()
        # bf16 would move points by millimetres.
        with torch.autocast(features.device.type, enabled=False):
            turned = find_ray_rotation(K, size)
            points = (self.start + offsets[:, :-1]) @ turned.transpose(1, 2)
            translation = to_translation(means.translation + offsets[:, -1], K, size)
            return self.place(points, translation, body)

    def answer(self, tokens: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        """Returns (B, P + 1, 3): offsets of the points, metres, and of the image translation.

        Args:
            tokens: (B, N, C) of the encoder, normalised.
            camera: (B, 3), see finetune.crop_camera.describe_camera.
        """
        known = self.read(self.pool(tokens)) + self.camera(camera)
        offsets = self.first(known).unflatten(1, (-1, 3))
        if not self.depth:
            return offsets
        at = F.pad(self.start, (0, 0, 0, 1)) + offsets
        queries = self.queries + self.locate(at) + self.tell(known)[:, None]
        queries = self.decoder(queries, self.embed(tokens) + self._table)
        return offsets + self.refine(self.last_norm(queries))

    def place(self, points: torch.Tensor, translation: torch.Tensor, body: BodyModel) -> Prediction:
        """Returns the mesh of control points whose joint 0 is at a translation.

        Args:
            points: (B, P, 3) metres, from wherever.  translation: (B, 3).
            body: the body model whose vertices are wanted, coarse or full.
        """
        rows = self._places[body.vertex_ids]
        joint_rows = torch.arange(self.vertices, len(self.up_index), device=rows.device)
        joints = self._rows(points, joint_rows)
        shift = (translation - joints[:, 0])[:, None]
        vertices = self._rows(points, rows)
        return Prediction(vertices + shift, joints + shift, points[:, : self.keypoints] + shift)

    def _rows(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return apply_rows(points, self.up_index[rows].long(), self.up_weight[rows])


def compare_edges(found: Prediction, truth: Truth) -> torch.Tensor:
    """(B,) L1 of the distances, metres, from each vertex to those that are truly nearest to it."""
    there = truth.mesh.vertices
    with torch.no_grad():
        apart = torch.cdist(there, there)
        lengths, near = apart.topk(EDGES + 1, dim=2, largest=False)
    around = torch.gather(
        found.vertices[:, None].expand(-1, near.shape[1], -1, -1),
        2,
        near[..., 1:, None].expand(-1, -1, -1, 3),
    )
    here = (around - found.vertices[:, :, None]).square().sum(-1).add(1e-8).sqrt()
    return (here - lengths[..., 1:]).abs().mean((1, 2))

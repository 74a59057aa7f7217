"""The model-based head: queries for pose, shape and translation.

They attend to the image's tokens and answer with parameters of the body model, as offsets from
their means.

Two ways lead from tokens to answers. The *linear projection* maps every token, side by side in
their places on a coarse grid: it learns within minutes, where attention alone stays at the mean
(docs/log.md). It starts the queries, which a transformer decoder then refines by attending to all
tokens. With ``head.map_cells`` tokens also say where each keypoint is, and that starts them too;
so do keypoints that were found, with ``head.prompts``.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from data.bodies.base import BodyModel
from finetune.crop_camera import describe_camera
from finetune.heads.base import HEADS, Head, Prediction, Term, pose_body
from finetune.heads.keypoint_maps import KeypointMaps
from finetune.heads.keys import ModelBasedConfig
from finetune.losses import KEYPOINT_MAPS
from finetune.means import Means, Offsets, add_offsets
from finetune.prompts import PROMPTED
from pretrain.config import VisionConfig
from pretrain.model import initialise
from pretrain.position import sincos_table

GRID = 7  # of the linear projection: images of any size are pooled to it


@HEADS.register("model_based")
class ModelBasedHead(Head):
    """Tokens to one answer a query; see finetune.heads.base.Head for the arguments."""

    schema = ModelBasedConfig
    has_parameters = True

    def __init__(self, config: VisionConfig, head: ModelBasedConfig, body: BodyModel) -> None:
        super().__init__()
        # "place" is the translation; the name is in the files of weights.
        answers = {
            "pose": len(body.joint_names) * 6,
            "shape": len(body.shape_space.names),
            "place": 3,
        }
        self.grid, width = config.grid(), head.width
        self.norm = nn.LayerNorm(config.encoder.width)
        side = min(GRID, *self.grid)
        # Pooling as a matrix: torch's own has no deterministic gradient on a GPU.
        cells = torch.eye(self.grid[0] * self.grid[1]).unflatten(1, self.grid)[:, None]
        self.register_buffer(
            "_pool", F.adaptive_avg_pool2d(cells, side).flatten(1).T.contiguous(), persistent=False
        )
        self.compress = nn.Linear(config.encoder.width, head.token_proj_dim)
        self.read = nn.Sequential(
            nn.Linear(side * side * head.token_proj_dim, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, len(answers) * width),
        )
        self.camera = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        self.has_maps = head.map_cells > 0
        if self.has_maps:
            count = len(body.keypoint_names)
            self.maps = KeypointMaps(config.encoder.width, self.grid, head.map_cells, count)
            self.read_maps = nn.Sequential(
                nn.Linear(3 * count, 2 * width),
                nn.GELU(),
                nn.Linear(2 * width, len(answers) * width),
            )
        self.takes_prompts = head.prompts
        self.prompt_numbers = 3 * len(PROMPTED[body.kind])
        last = None
        if self.takes_prompts:
            first = nn.Linear(self.prompt_numbers, 2 * width)
            last = nn.Linear(2 * width, len(answers) * width)
            self.read_prompts = nn.Sequential(first, nn.GELU(), last)
        self.queries = nn.Parameter(torch.zeros(len(answers), width))
        self.depth = head.depth
        if self.depth:
            self.embed = nn.Linear(config.encoder.width, width)
            self.register_buffer("_places", sincos_table(self.grid, width), persistent=False)
            # No dropout: it would read random numbers that are drawn nowhere else.
            block = nn.TransformerDecoderLayer(
                width,
                head.heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.decoder = nn.TransformerDecoder(block, self.depth)
        self.last_norm = nn.LayerNorm(width)
        layers = {name: nn.Linear(width, count) for name, count in answers.items()}
        self.answers = nn.ModuleDict(layers)
        self.apply(initialise)
        nn.init.normal_(self.queries, std=0.02)
        if last is not None:
            # A network that goes on with prompts is at first the one that it was without.
            nn.init.zeros_(last.weight)
        for layer in layers.values():  # the first answers are nearly the means
            nn.init.xavier_uniform_(layer.weight, gain=0.01)

    def forward(
        self,
        features: torch.Tensor,
        K: torch.Tensor,
        size: int,
        means: Means,
        body: BodyModel,
        prompts: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict the people of images; see finetune.heads.base.Head."""
        tokens = self.norm(features)
        maps = self.maps(tokens) if self.has_maps else None
        answers = self.answer(tokens, maps, prompts, describe_camera(K, size))
        # bf16 would rotate a body by a quarter of a degree.
        with torch.autocast(features.device.type, enabled=False):
            offsets = Offsets(*(answers[name].float() for name in ("pose", "shape", "place")))
            found = add_offsets(means, offsets, K, size, body.shape_space, body.name)
        return replace(pose_body(body, found), maps=maps)

    def list_own_terms(self) -> Sequence[Term]:
        """That of the maps, where it has some."""
        return (KEYPOINT_MAPS,) if self.has_maps else ()

    def answer(
        self,
        tokens: torch.Tensor,
        maps: torch.Tensor | None,
        prompts: torch.Tensor | None,
        camera: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Returns {query's name: (B, numbers)}.

        Args:
            tokens: (B, N, C) of the encoder, normalised.
            maps: of KeypointMaps, or None.
            prompts: of finetune.prompts, or None.
            camera: (B, 3), see finetune.crop_camera.describe_camera.
        """
        small = (self._pool @ self.compress(tokens)).flatten(1)
        starts = self.read(small).unflatten(1, self.queries.shape)
        if maps is not None:
            found = self.maps.read(maps).flatten(1)
            starts = starts + self.read_maps(found).unflatten(1, self.queries.shape)
        if self.takes_prompts:
            if prompts is None:
                prompts = tokens.new_zeros(len(tokens), self.prompt_numbers)
            read = self.read_prompts(prompts.flatten(1))
            starts = starts + read.unflatten(1, self.queries.shape)
        queries = self.queries + starts + self.camera(camera)[:, None]
        if self.depth:
            queries = self.decoder(queries, self.embed(tokens) + self._places)
        queries = self.last_norm(queries)
        return {
            name: answer(queries[:, i]) for i, (name, answer) in enumerate(self.answers.items())
        }

"""The model-based head: queries for pose, shape and place look at the image's tokens and answer
with parameters.

Two ways lead from tokens to answers. The *read-out* is a linear map of every token, side by side in
their places on a coarse grid: it learns within minutes, where attention alone stays at the mean
(docs/log.md). It starts the queries, which a transformer decoder then refines by looking at all
tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model import initialise
from pretrain.position import sincos_table

GRID = 7  # the read-out's: images of any size are pooled to it


class ModelBasedHead(nn.Module):
    """Tokens to one answer a query.

    Args:
        config: pretrain.config.VisionConfig of the encoder.  head: finetune.config.HeadConfig.
        answers: {query's name: count of numbers}.
    """

    def __init__(self, config, head, answers):
        super().__init__()
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
        self.queries = nn.Parameter(torch.zeros(len(answers), width))
        self.depth = head.depth
        if self.depth:
            self.embed = nn.Linear(config.encoder.width, width)
            self.register_buffer("_places", sincos_table(self.grid, width), persistent=False)
            # No dropout: it would read random numbers that are drawn nowhere else.
            layer = nn.TransformerDecoderLayer(
                width,
                head.heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.decoder = nn.TransformerDecoder(layer, self.depth)
        self.last_norm = nn.LayerNorm(width)
        self.answers = nn.ModuleDict(
            {name: nn.Linear(width, count) for name, count in answers.items()}
        )
        self.apply(initialise)
        nn.init.normal_(self.queries, std=0.02)
        for answer in self.answers.values():  # the first answers are nearly the means
            nn.init.xavier_uniform_(answer.weight, gain=0.01)

    def forward(self, features, camera):
        """Answers to all queries.

        Args:
            features: (B, N, C) of the encoder.  camera: (B, 3), see finetune.model.camera_words.
        Returns:
            {name: (B, count)}.
        """
        tokens = self.norm(features)
        small = (self._pool @ self.compress(tokens)).flatten(1)
        queries = (
            self.queries
            + self.read(small).unflatten(1, self.queries.shape)
            + self.camera(camera)[:, None]
        )
        if self.depth:
            queries = self.decoder(queries, self.embed(tokens) + self._places)
        queries = self.last_norm(queries)
        return {
            name: answer(queries[:, i]) for i, (name, answer) in enumerate(self.answers.items())
        }

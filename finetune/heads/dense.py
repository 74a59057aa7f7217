"""The dense head: maps of what an image shows, by a small DPT on several encoder layers.

Silhouette, part labels, depth, normals and surface coordinates of the person or the hand, each
switched off by a weight of 0. They cost no labels: the true maps are drawn from the body model's
parameters while training (finetune/maps/targets.py). There is no mesh.

All is about the ray through the image's middle, as other heads' answers are: depth in metres along
it, about the root joint (the pelvis, the wrist), normals in axes of which z is that ray.
``rotate_normals`` turns these into the camera's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.bodies.base import BodyModel
from data.bodies.parts import name_parts
from data.cropping.geometry import Size, scale_size
from engine.config.parser import key
from engine.errors import UserError
from finetune.heads.base import HEADS, ImagePrediction, Truth
from finetune.heads.image_head import Asked, Comparison, ImageHead
from finetune.heads.keys import HeadConfig
from finetune.maps import compare
from finetune.maps.average import average_maps
from finetune.maps.decoder import MapDecoder, choose_layers
from finetune.maps.draw import paint_maps
from finetune.maps.save import save_maps
from finetune.maps.targets import MapDrawer, TrueMaps
from finetune.means import Means
from pretrain.config import VisionConfig
from pretrain.model import initialise

START_PART = 2.0  # logit by which nobody is likelier than each part at first


@dataclass
class DenseConfig(HeadConfig):
    """Sizes of finetune/heads/dense.py, and the weights of its maps."""

    width: int = key(48, "channels of the maps that layers are merged into", low=4)
    layers: int = key(4, "encoder layers that are read, spread evenly", low=1)
    cells: int = key(
        8, "samples of the maps along a token's side: with 16 px a token, 8 are half its pixels"
    )
    drawn_vertices: int = key(
        2000,
        "vertices of the mesh that true maps are drawn from in training; 0: the whole mesh",
        low=0,
    )
    silhouette: float = key(1.0, "weight of the silhouette; 0: no such map", low=0)
    parts: float = key(0.5, "weight of part labels; 0: no such map", low=0)
    depth: float = key(5.0, "weight of depth about the root, metres; 0: no such map", low=0)
    normals: float = key(1.0, "weight of normals, 1 less the cosine; 0: no such map", low=0)
    surface: float = key(5.0, "weight of places on the body at rest, metres; 0: no such map", low=0)

    def check(self) -> None:
        """Raise UserError where there is no map, or maps do not fit tokens."""
        if self.cells & (self.cells - 1) or not 1 <= self.cells <= 32:
            raise UserError(f"head.cells={self.cells} is none of 1, 2, 4, 8, 16, 32")
        if not list_maps(self):
            names = ", ".join(f"head.{name}" for name in compare.MAPS)
            raise UserError(f"{names} are all 0: one of them must be above")


def list_maps(config: DenseConfig) -> tuple[str, ...]:
    """Returns the names of the maps whose weight is above 0, in the order of compare.MAPS."""
    return tuple(name for name in compare.MAPS if getattr(config, name) > 0)


@HEADS.register("dense")
class DenseHead(ImageHead):
    """Layers of tokens to maps; see finetune.heads.base.Head for the arguments.

    Attributes:
        names: of its maps.  part_names: of the parts, whose labels begin at 1; 0 is none.
    """

    schema = DenseConfig

    def __init__(self, config: VisionConfig, head: DenseConfig, body: BodyModel) -> None:
        super().__init__()
        self.names, self.size = list_maps(head), scale_size(config.size, head.cells / config.patch)
        self.part_names = name_parts(body)[1]
        self.layers = choose_layers(config.encoder.depth, head.layers)
        self.decoder = MapDecoder(
            head.width, config.encoder.width, config.grid(), head.cells, len(self.layers)
        )
        self.mix = nn.Conv2d(head.width, head.width, 3, padding=1)
        self.channels = {name: compare.count_channels(name, self.parts) for name in self.names}
        self.answers = nn.Conv2d(head.width, sum(self.channels.values()), 1)
        self.apply(initialise)
        self._start()
        # In a list: the body model is no part of the head. What is drawn is made when it is needed.
        self._body, self._vertices = [body], head.drawn_vertices
        self._drawers: list[MapDrawer] = []

    @property
    def parts(self) -> int:
        """Number of parts, without the background."""
        return len(self.part_names)

    def _start(self) -> None:
        """First answers: nobody anywhere, facing the camera, in the middle of the body."""
        nn.init.xavier_uniform_(self.answers.weight, gain=0.1)
        bias = torch.zeros(sum(self.channels.values()))
        first = 0
        for name, count in self.channels.items():
            if name == "parts":
                bias[first] = START_PART
            if name == "normals":
                bias[first + 2] = -1.0
            first += count
        assert self.answers.bias is not None
        with torch.no_grad():
            self.answers.bias.copy_(bias)

    def forward(
        self,
        features: torch.Tensor,
        K: torch.Tensor,
        size: Size,
        means: Means,
        body: BodyModel,
        layers: Sequence[torch.Tensor] = (),
    ) -> ImagePrediction:
        """Predict the maps of images; see finetune.heads.base.Head.

        ``layers``: (B, N, C) of the encoder's blocks self.layers.
        """
        maps = self.answers(nn.functional.gelu(self.mix(self.decoder(layers)))).float()
        found = maps.split(list(self.channels.values()), 1)
        return ImagePrediction(dense=dict(zip(self.channels, found, strict=True)))

    def list_comparisons(self) -> Sequence[tuple[str, str, Comparison]]:
        """A term a map, whose weights are its own keys."""
        return [
            (name, f"head.{name}", partial(_on_maps, compare.LOSSES[name])) for name in self.names
        ]

    def list_judgements(self) -> Sequence[tuple[str, str, str, bool, Comparison]]:
        """A number a map."""
        return [
            (measure, title, unit, lower, partial(_on_maps, compare.MEASURES[name]))
            for name, measure, title, unit, lower in MEASURES
            if name in self.names
        ]

    def judge_finely(self) -> None:
        """Draw true maps from the whole mesh from here on."""
        self._vertices, self._drawers = 0, []

    def read_truth(self, truth: Truth) -> TrueMaps:
        """The true maps of crops."""
        if not self._drawers:
            self._drawers = [MapDrawer(self._body[0], self._vertices)]
        return self._drawers[0](truth, self.size)

    def average_truths(self, told: Sequence[TrueMaps]) -> ImagePrediction:
        """The mean map of crops; of parts the most frequent one in each place."""
        maps = average_maps(told, self.parts)
        return ImagePrediction(dense={name: maps[name] for name in self.names})

    def draw(self, image: np.ndarray, found: ImagePrediction, row: int) -> np.ndarray:
        """The maps of one image as tiles of one of its shape."""
        maps = {name: values[row] for name, values in found.dense.items()}
        return paint_maps(maps, scale_size(self.size, 4), self._body[0].kind)

    def save_answers(
        self, stem: Path, image: np.ndarray, answers: Sequence[tuple[Asked, ImagePrediction, int]]
    ) -> list[Path]:
        """Write each map as an image, their values as an NPZ, and a contact image."""
        return save_maps(stem, image, answers, self.part_names)


def _on_maps(function, found: ImagePrediction, true: TrueMaps) -> torch.Tensor:
    return function(found.dense, true)


# The map, its name in the log, its title, its unit, whether lower is better.
MEASURES = (
    ("silhouette", "silhouette_iou", "silhouette IoU", "", False),
    ("parts", "parts_iou", "mean IoU of parts", "", False),
    ("depth", "depth_mm", "depth error", "mm", True),
    ("normals", "normals_deg", "normals' angle", "deg", True),
    ("surface", "surface_mm", "surface error", "mm", True),
)

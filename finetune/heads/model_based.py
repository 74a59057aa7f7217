"""The model-based head: queries for pose, shape and translation.

They attend to the image's tokens and answer with parameters of the body model, as offsets from
their means.

Two ways lead from tokens to answers. The *linear projection* maps every token, side by side in
their places on a coarse grid: it learns within minutes, where attention alone stays at the mean
(docs/log.md). It starts the queries, which a transformer decoder then refines by attending to all
tokens. With ``head.map_cells`` tokens also say where each keypoint is, and that starts them too;
so do keypoints that were found, with ``head.prompts``. With ``head.rounds`` an answer is projected
into the image, compared with keypoints and mended, so often (finetune/heads/mending.py); with
``head.aligned_points`` by features at its vertices' places too (finetune/heads/aligned.py).

Keypoints alone give an answer too: without an image nothing is read off tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size
from finetune.crop_camera import describe_camera, find_ray_rotation
from finetune.heads.aligned import AlignedFeatures
from finetune.heads.base import HEADS, Head, Prediction, Term, pose_body
from finetune.heads.keypoint_maps import KeypointMaps
from finetune.heads.keys import ModelBasedConfig
from finetune.heads.mask_prompts import POINTS, MaskPrompts
from finetune.heads.mending import Mending
from finetune.losses import KEYPOINT_MAPS
from finetune.means import Means, Offsets, add_offsets
from finetune.prompts import PROMPTED, count_prompted
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
        self.prompted = count_prompted(body.kind, head.prompt_face) if head.prompts else 0
        # What a body model has no point for was never given in training either.
        known = [name in body.landmark_names for name in PROMPTED[body.kind][-self.prompted :]]
        self.register_buffer("_known", torch.tensor(known)[:, None], persistent=False)
        last = None
        if self.takes_prompts:
            first = nn.Linear(3 * self.prompted, 2 * width)
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
        self.rounds, mended = head.rounds, {}
        self.answer_rounds = head.answer_rounds or head.rounds
        if self.rounds:
            counts = list(answers.values())
            seen = head.aligned_points or (POINTS if head.prompt_mask else 1)
            self.mending = Mending(body, width, counts, self.prompted, self.has_maps, seen)
            self.mended_norm = nn.LayerNorm(width)
            mended = {name: nn.Linear(width, count) for name, count in answers.items()}
            self.mended = nn.ModuleDict(mended)
        self.aligned = None
        if head.aligned_points:
            shape = (len(answers), width)
            points = self.mending.projected
            self.aligned = AlignedFeatures(config.encoder.width, self.grid, points, shape)
        self.takes_masks = head.prompt_mask
        if self.takes_masks:
            points = self.mending.projected if self.rounds else 0
            shape = (len(answers), width)
            self.read_masks = MaskPrompts(config.encoder.width, self.grid, points, shape)
        self.apply(initialise)
        nn.init.normal_(self.queries, std=0.02)
        if last is not None:
            # A network that goes on with prompts is at first the one that it was without.
            nn.init.zeros_(last.weight)
        for layer in layers.values():  # the first answers are nearly the means
            nn.init.xavier_uniform_(layer.weight, gain=0.01)
        if self.rounds:
            # Without keypoints a network that goes on with rounds is at first the one that it was.
            for layer in mended.values():
                nn.init.zeros_(layer.weight)
        if self.aligned is not None:
            self.aligned.reset()
        if self.takes_masks:
            self.read_masks.reset()

    def forward(
        self,
        features: torch.Tensor | None,
        K: torch.Tensor,
        size: Size,
        means: Means,
        body: BodyModel,
        prompts: torch.Tensor | None = None,
        judged: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict the people of images; see finetune.heads.base.Head.

        ``features``: None where there is no image, and keypoints alone are known.  ``judged``: (B,)
        in [0, 1), which round's answer is given, in training; None: the last one's.  ``masks``:
        (B, R, C) of finetune.masks, of images.
        """
        if prompts is not None:
            prompts = prompts[:, -self.prompted :] * self._known if self.prompted else None
        tokens = None if features is None else self.norm(features)
        if masks is not None and tokens is not None:
            tokens = tokens + self.read_masks(masks)
        maps = self.maps(tokens) if self.has_maps and tokens is not None else None
        mapped = None if maps is None else self.maps.read(maps)
        queries = self._start(tokens, mapped, prompts, describe_camera(K, size))
        memory = self._remember(tokens, queries)
        queries = self._decode(queries, memory)
        rounds = [_answer(self.answers, self.last_norm(queries))]
        rotation = find_ray_rotation(K, size)
        aligned, fine = self.aligned, None
        if aligned is not None and tokens is not None:
            fine = aligned.refine(tokens)
        for _ in range(self.rounds if self.training else self.answer_rounds):
            offsets = rounds[-1].detach()
            found = self._add(offsets, means, K, size, body)
            shown, compared, places = self.mending.compare(found, K, size, [prompts, mapped])
            changed = self.mending.change_queries(shown, offsets, compared)
            if aligned is not None and fine is not None:
                changed = changed + aligned(fine, places)
            if masks is not None:
                changed = changed + self.read_masks.compare(masks, places)
            queries = self._decode(queries + changed, memory)
            offsets = self.mending.step(found, offsets, means.pose, compared, rotation)
            rounds.append(offsets.add(_answer(self.mended, self.mended_norm(queries))))
        offsets = rounds[-1] if judged is None else _choose(rounds, judged)
        # bf16 would rotate a body by a quarter of a degree.
        with torch.autocast(K.device.type, enabled=False):
            found = self._add(offsets, means, K, size, body)
            return replace(pose_body(body, found), maps=maps)

    def list_own_terms(self) -> Sequence[Term]:
        """That of the maps, where it has some."""
        return (KEYPOINT_MAPS,) if self.has_maps else ()

    def _add(
        self, offsets: Offsets, means: Means, K: torch.Tensor, size: Size, body: BodyModel
    ) -> BodyParameters:
        """The bodies that offsets stand for."""
        with torch.autocast(K.device.type, enabled=False):
            return add_offsets(means, offsets, K, size, body.shape_space, body.name)

    def _start(
        self,
        tokens: torch.Tensor | None,
        mapped: torch.Tensor | None,
        prompts: torch.Tensor | None,
        camera: torch.Tensor,
    ) -> torch.Tensor:
        """Returns the queries (B, Q, width) that the decoder starts from.

        Args:
            tokens: (B, N, C) of the encoder, normalised, or None.
            mapped: (B, K, 3) of KeypointMaps.read, or None.
            prompts: (B, P, 3) of finetune.prompts, or None.
            camera: (B, 3), see finetune.crop_camera.describe_camera.
        """
        queries = self.queries + self.camera(camera)[:, None]
        parts = []
        if tokens is not None:
            parts.append(self.read((self._pool @ self.compress(tokens)).flatten(1)))
        if mapped is not None:
            parts.append(self.read_maps(mapped.flatten(1)))
        if self.takes_prompts:
            if prompts is None:
                prompts = camera.new_zeros(len(camera), self.prompted, 3)
            parts.append(self.read_prompts(prompts.flatten(1)))
        for part in parts:
            queries = queries + part.unflatten(1, self.queries.shape)
        return queries

    def _remember(self, tokens: torch.Tensor | None, queries: torch.Tensor) -> torch.Tensor | None:
        """What the decoder attends to: the image's tokens, or one of zeros without an image."""
        if not self.depth:
            return None
        if tokens is None:
            return torch.zeros_like(queries[:, :1])
        return self.embed(tokens) + self._places

    def _decode(self, queries: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        return queries if memory is None else self.decoder(queries, memory)


def _answer(layers: nn.ModuleDict, queries: torch.Tensor) -> Offsets:
    """The Offsets that queries (B, Q, width) answer with, in float32."""
    answers = {name: layer(queries[:, i]).float() for i, (name, layer) in enumerate(layers.items())}
    return Offsets(answers["pose"], answers["shape"], answers["place"])


def _choose(rounds: list[Offsets], judged: torch.Tensor) -> Offsets:
    """Offsets of one round for each person: the last one for half of them, any for the others.

    So each round answers as well as it can, and the next one mends what is wrong with it, at the
    cost of posing one answer.
    """
    before = (judged * 2 * (len(rounds) - 1)).long()
    chosen = torch.where(judged < 0.5, before, len(rounds) - 1)
    rows = torch.arange(len(judged), device=judged.device)
    return Offsets(
        torch.stack([one.pose for one in rounds])[chosen, rows],
        torch.stack([one.shape for one in rounds])[chosen, rows],
        torch.stack([one.translation for one in rounds])[chosen, rows],
    )

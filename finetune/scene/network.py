"""The network that finds everybody in an image at once, without boxes.

    image --> encoder --> tokens + camera rays --> heat map --> queries --> blocks --> people

As Multi-HMR does it (arXiv 2402.14654): the token that a person's anchor lies in says that there is
somebody, and its features begin the query that attends to all tokens and answers with a body. Here
a token has places for two people, the nearer one first; queries see one another, which tells two
queries at one person apart from two people; and a query reads a window as large as its person
looks (finetune/scene/windows.py).

The heat map chooses the places that are asked, in training too, where those of true anchors come
first: the others are what confidence learns from.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import nn

from data.bodies.base import BodyModel
from data.sampling.seen import Seen
from finetune.means import flatten_columns
from finetune.scene.anchors import Anchors, token_centres
from finetune.scene.config import SLOTS
from finetune.scene.rays import NUMBERS, describe_rays
from finetune.scene.windows import WindowReader
from pretrain import weights
from pretrain.blocks import EPSILON, DecoderBlock, LayerNorm, take
from pretrain.header import Roles
from pretrain.model import Encoder, initialise, table
from pretrain.position import rope_table

if TYPE_CHECKING:
    from finetune.scene.config import SceneConfig

HEAD_NAME = "scene"  # in the header of the weights: the task has one head
HEAT_SHARE = 0.01  # of the slots of tokens, that hold somebody: what the heat map begins with
FACE_SHARE = 0.03  # of a facial action, that faces show in the mean: what answers begin with
FIRST, STEP = 1e4, 200.0  # above any logit of the heat map, and above any difference of two


@dataclass(eq=False)
class SceneAnswer:
    """What is said of B images and of Q places in each, in float32.

    Attributes:
        heat: (B, N, SLOTS) logits of whether a slot of a token holds somebody.
        token, slot: (B, Q) long, which places were asked.
        centre: (B, Q, 2) pixels, the middles of their tokens.
        coarse_span: (B, Q) the log of how many metres a token spans at the anchor, by the token.
        span: (B, Q) the same, by the query.
        offset: (B, Q, 2) of the anchor from ``centre``, in tokens.
        confidence: (B, Q) logits of whether there is somebody.
        anchor: (B, Q, J) logits of which joint the anchor is.
        pose: (B, Q, J, 6) first two columns of rotations, the root's about the anchor's ray.
        shape: (B, Q, S) free numbers (data.bodies.base.ShapeSpace).
        face: (B, Q, F) facial actions.
        embedding: (B, Q, E) of length 1.
    """

    heat: torch.Tensor
    token: torch.Tensor
    slot: torch.Tensor
    centre: torch.Tensor
    coarse_span: torch.Tensor
    span: torch.Tensor
    offset: torch.Tensor
    confidence: torch.Tensor
    anchor: torch.Tensor
    pose: torch.Tensor
    shape: torch.Tensor
    face: torch.Tensor
    embedding: torch.Tensor

    def select(self, image: torch.Tensor, query: torch.Tensor) -> "SceneAnswer":
        """Return the answers (n, ...) of n queries; the heat map stays as it is."""
        return SceneAnswer(
            self.heat,
            *(getattr(self, field.name)[image, query] for field in fields(self)[1:]),
        )

    def sum_all(self) -> torch.Tensor:
        """Return the sum of all that is said of people, which every layer is part of."""
        said = (self.coarse_span, self.span, self.offset, self.anchor, self.pose)
        more = (self.shape, self.face, self.embedding)
        return torch.stack([values.sum() for values in (*said, *more)]).sum()


class SceneNetwork(nn.Module):
    """Finds people in whole images.

    Args:
        config: of the run.  body: the full body model, whose tables do not become part of it.

    Attributes:
        mean_pose (J, 3, 3), its root about the anchor's ray, mean_shape (S,), mean_span (): what
            answers start from. Buffers, saved with the weights; set by ``set_means``.
    """

    mean_pose: torch.Tensor
    mean_shape: torch.Tensor
    mean_span: torch.Tensor

    def __init__(self, config: "SceneConfig", body: BodyModel) -> None:
        super().__init__()
        keys, model = config.scene, config.model
        self.config, self.keys, self.patch = model, keys, model.patch
        self.shape_space = body.shape_space
        self.encoder = Encoder(model)
        wide, width = model.encoder.width, keys.width
        self.joints, shapes = len(body.joint_names), len(body.shape_space.names)
        # A direction that is not known is a vector of its own.
        self.rays = nn.Linear(NUMBERS, wide) if keys.rays else None
        self.no_ray = nn.Parameter(torch.zeros(wide)) if keys.rays else None
        self.norm = LayerNorm(wide, EPSILON)
        heat = nn.Linear(wide, SLOTS)
        self.heat = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), heat)
        self.spans = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, SLOTS))
        self.embed = nn.Linear(wide, width)
        self.begin_query = nn.Linear(wide, width)
        self.slots = nn.Parameter(torch.zeros(SLOTS, width))
        self.window = WindowReader(wide, keys.token_proj_dim, width)
        self.blocks = nn.ModuleList(
            DecoderBlock(width, keys.heads, model.mlp_ratio, cross=True) for _ in range(keys.depth)
        )
        self.last_norm = LayerNorm(width, EPSILON)
        counts = {
            "pose": 6 * self.joints,
            "shape": shapes,
            "face": len(body.expression_names),
            "span": 1,
            "offset": 2,
            "confidence": 1,
            "anchor": self.joints,
            "embedding": keys.embedding,
        }
        layers = {name: nn.Linear(width, count) for name, count in counts.items()}
        self.answers = nn.ModuleDict(layers)
        self.apply(initialise)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.view(wide, -1))
        nn.init.normal_(self.slots, std=0.02)
        for name in ("pose", "shape", "span"):  # the first answers are nearly the means
            nn.init.xavier_uniform_(layers[name].weight, gain=0.01)
        nn.init.constant_(heat.bias, -math.log(1 / HEAT_SHARE - 1))
        nn.init.constant_(layers["face"].bias, -math.log(1 / FACE_SHARE - 1))
        self.register_buffer("mean_pose", torch.eye(3).repeat(self.joints, 1, 1))
        self.register_buffer("mean_shape", torch.full((shapes,), body.shape_space.mean))
        self.register_buffer("mean_span", torch.zeros(()))
        self._tables: dict[tuple[object, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def roles(self) -> Roles:
        """What the header of its weights says that it is for."""
        return Roles("scene", HEAD_NAME, "anny")

    def take_pretrained(self, init: str) -> Seen:
        """Fill the encoder from weights at a path; see pretrain.weights.init_encoder."""
        return weights.init_encoder(self.encoder, self.config, init)

    def set_means(self, pose: torch.Tensor, shape: torch.Tensor, span: torch.Tensor) -> None:
        """Take over the means of labels."""
        self.mean_pose.copy_(pose)
        self.mean_shape.copy_(shape)
        self.mean_span.copy_(span)

    def forward(
        self,
        images: torch.Tensor,
        K: torch.Tensor,
        known: torch.Tensor,
        anchors: Anchors | None = None,
    ) -> SceneAnswer:
        """Say who is where in images.

        Args:
            images: (B, 3, rows, columns) normalised, multiples of the patch.
            K: (B, 3, 3) intrinsics in their pixels.  known: (B,) bool, whether they may be read.
            anchors: of the people who are asked for first, in training, in the order of those that
                are there; None: the heat map alone chooses.
        """
        grid = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        places, ropes = self._find_tables(grid, images.device)
        tokens = self._add_rays(self.encoder(images, places), K, known, grid)
        heat = self.heat(tokens).float()
        token, slot = self._choose(heat.detach(), anchors)
        centre = token_centres(token, grid[1], self.patch)
        spans = self.spans(tokens).float() + self.mean_span
        coarse = take(spans, token).gather(2, slot[..., None])[..., 0]
        queries = self._ask(tokens, grid, token, slot, centre, coarse.detach(), ropes)
        said = {name: layer(queries).float() for name, layer in self.answers.items()}
        # What the heat map says already is not to be learnt once more.
        warm = take(heat.detach(), token).gather(2, slot[..., None])
        space = self.shape_space
        return SceneAnswer(
            heat,
            token,
            slot,
            centre,
            coarse,
            coarse.detach() + said["span"][..., 0],
            said["offset"],
            (said["confidence"] + warm)[..., 0],
            said["anchor"],
            flatten_columns(self.mean_pose) + said["pose"].unflatten(-1, (self.joints, 6)),
            space.to_free(self.mean_shape) + said["shape"],
            said["face"].sigmoid(),
            nn.functional.normalize(said["embedding"], dim=-1),
        )

    def _add_rays(
        self, tokens: torch.Tensor, K: torch.Tensor, known: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Tokens (B, N, C), normalised, with the rays of those cameras that are known."""
        if self.rays is None or self.no_ray is None:
            return self.norm(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            rays = describe_rays(K.float(), grid, self.patch)
        told = torch.where(known[:, None, None], self.rays(rays).float(), self.no_ray)
        return self.norm(tokens + told)

    def _choose(
        self, heat: torch.Tensor, anchors: Anchors | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(token, slot) (B, Q) that are asked: true anchors in their order, then the hottest."""
        scores = heat.flatten(1)
        if anchors is not None:
            after = anchors.there.shape[1] - anchors.there.cumsum(1)
            # Added where nobody is: nothing. No two people have one place.
            boost = torch.where(anchors.there, FIRST + STEP * after, 0.0)
            place = anchors.token * SLOTS + anchors.slot
            scores = scores.scatter_add(1, place, boost)
        count = min(self.keys.queries, scores.shape[1])
        found = scores.topk(count, 1).indices
        return found.div(SLOTS, rounding_mode="floor"), found % SLOTS

    def _ask(
        self,
        tokens: torch.Tensor,
        grid: tuple[int, int],
        token: torch.Tensor,
        slot: torch.Tensor,
        centre: torch.Tensor,
        span: torch.Tensor,
        ropes: torch.Tensor,
    ) -> torch.Tensor:
        """(B, Q, width) queries that have looked at the image and at one another."""
        queries = self.begin_query(take(tokens, token)) + self.slots[slot]
        queries = queries + self.window(tokens, grid, centre / self.patch, span)
        memory, rope = self.embed(tokens), ropes[token]
        for block in self.blocks:
            queries = block(queries, memory, rope, ropes)
        return self.last_norm(queries)

    def _find_tables(
        self, grid: tuple[int, int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the encoder and rotations of the head's blocks, kept for each grid."""
        key = (grid, device)
        if key not in self._tables:
            model, keys = self.config, self.keys
            ropes = rope_table(grid, keys.width // keys.heads, model.rope_base)
            places = table(model, model.encoder, grid)
            self._tables[key] = places.to(device), ropes.to(device)
        return self._tables[key]

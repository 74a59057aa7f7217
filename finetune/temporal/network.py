"""The motion module: a transformer over frames that chooses the weights of a filter.

Each joint's rotation in each frame becomes a weighted mean of the rotations that were seen around
it, and a small turn on top. The weights are the transformer's: narrow where the motion is fast,
wide where it trembles, none where a frame is wrong or missing; a second, wider mean that may be
subtracted sharpens what the first one has dulled and goes on beyond the last frame. So the module
begins as a filter and cannot do worse than copy, and what rests stays as it is: the turn on top is
faded out where nothing moves.

All is told in the axes of a frame that is typical of the stretch, about its mean place. A camera
that is turned turns the answer with it and changes nothing else; time is seconds, and only
differences of it count.

Six numbers a rotation: Zhou et al., CVPR 2019. Rotary positions: Su et al., arXiv 2104.09864, here
of seconds.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import nn

from data.bodies.base import BodyModel
from engine.geometry import (
    axis_angle_to_matrix,
    matrix_to_rotation_6d,
    rotation_6d_to_matrix,
)
from finetune.temporal.keys import MotionNetworkConfig
from finetune.temporal.limbs import Chain, Limbs

KERNEL = 8  # numbers by which a frame and a joint choose whom they are averaged with
NARROW_S = 0.05  # width of the mean that the module begins with
DISTANCE_S = 0.2  # the same of the distance, which a network sees worst
WIDTHS = 4.0  # how many times wider, or narrower, the module may make it
MOST_ALIKE = 3.0  # by how much frames that are alike may count for more, as a logarithm
WIDE = 3.0  # the second mean's width over the first one's
SLOWEST_HZ, FASTEST_HZ = 0.05, 8.0  # of rotary positions
STILL_RAD, STILL_M = 0.03, 0.02  # spreads below which the turn on top is faded out
PLACE_M = 0.5  # size of the numbers that tell of places
FAR = 1e4


@dataclass(eq=False)
class Stretches:
    """B stretches of T frames.

    Attributes:
        turns: (B, T, J, 3, 3) rotations; the root's in the camera's frame.
        place: (B, T, 3) metres, the root in the camera's frame.
        times: (B, T) seconds, increasing.
        seen: (B, T) bool, whether the frame was seen; what the others hold is never looked at.
        valid: (B, T) bool, whether there is such a frame at all.
        confidence: (B, T) 0 to 1.
    """

    turns: torch.Tensor
    place: torch.Tensor
    times: torch.Tensor
    seen: torch.Tensor
    valid: torch.Tensor
    confidence: torch.Tensor


@dataclass(eq=False)
class Answer:
    """What the module says of all frames.

    Attributes:
        turns: (B, T, J, 3, 3).  place: (B, T, 3) metres.
        log_error: (B, T, J) logarithm of how far it expects each rotation to be off, radians.
    """

    turns: torch.Tensor
    place: torch.Tensor
    log_error: torch.Tensor


class Block(nn.Module):
    """Attention over frames and a perceptron, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor, wave: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, C) of the same.

        Args:
            wave: (B, 1, T, C / heads / 2, 2) cosine and sine of the rotary angles.
            mask: (B, 1, 1, T) which frames are attended to.
        """
        shape = (*x.shape[:2], 3, self.heads, -1)
        q, k, v = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        # On a CPU faster than torch's own for so few frames.
        likeness = _rotate(q, wave) @ _rotate(k, wave).transpose(-1, -2) / q.shape[-1] ** 0.5
        mixed = likeness.masked_fill(~mask, -FAR).softmax(-1).to(v.dtype) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def _rotate(x: torch.Tensor, wave: torch.Tensor) -> torch.Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = wave.to(x.dtype).unbind(-1)
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return torch.stack(turned, -1).flatten(-2)


class MotionNetwork(nn.Module):
    """From what was seen of a motion to what it was; see above.

    Args:
        body: the body model, for where its joints are.
        bf16: the blocks run under bf16 autocast.
    """

    def __init__(
        self, config: MotionNetworkConfig, body: BodyModel, limbs: Limbs, bf16: bool = False
    ) -> None:
        super().__init__()
        self.config, self.bf16, self.joints = config, bf16, len(limbs.names)
        self.chain = Chain(body, limbs)
        width, joints = config.width, self.joints
        self.read = nn.Linear(6 * joints + 3 * self.chain.count + 8, width)
        self.missing = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        # Joints that are mended together have one filter, the ray towards the person and the
        # distance one each.
        self.groups = [list(group) for group in split_groups(limbs)]
        self.filters = len(self.groups) + 2
        self.asks = nn.Linear(width, self.filters * KERNEL)
        self.offers = nn.Linear(width, self.filters * KERNEL)
        self.shapes = nn.Linear(width, self.filters * 3)  # width, sharpness, worth of each frame
        self.turn = nn.Linear(width, 3 * joints)
        self.shift = nn.Linear(width, 3)
        self.doubt = nn.Linear(width, joints)
        for layer in (self.shapes, self.turn, self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.missing, std=0.02)
        nn.init.zeros_(self.doubt.weight)
        nn.init.constant_(self.doubt.bias, -3.0)
        steps = torch.linspace(0, 1, width // config.heads // 2)
        rates = SLOWEST_HZ * (FASTEST_HZ / SLOWEST_HZ) ** steps
        widths_s = torch.full((self.filters, 1, 1), NARROW_S)
        widths_s[-1] = DISTANCE_S
        self.register_buffer("widths_s", widths_s, persistent=False)
        self.register_buffer("rates", 2 * torch.pi * rates, persistent=False)

    def forward(self, given: Stretches) -> Answer:
        """Return what it makes of stretches; each has a frame that was seen."""
        seen = given.seen & given.valid
        level = _Level(given, seen)
        tokens = self._read(given, level, seen)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.bf16):
            wave = self._wave(given.times)
            mask = given.valid[:, None, None]
            for block in self.blocks:
                tokens = block(tokens, wave, mask)
        tokens = self.norm(tokens.float())
        mixed = self._mix(tokens, given.times, seen, level)
        turns = rotation_6d_to_matrix(mixed[..., : 6 * self.joints].unflatten(-1, (-1, 6)))
        spread, spread_m = level.measure_spread()
        turned = self.turn(tokens).unflatten(-1, (-1, 3)) * (spread / STILL_RAD).tanh()[..., None]
        turns = turns @ axis_angle_to_matrix(turned)
        ray = F.normalize(mixed[..., -4:-1], dim=-1)
        place = ray * (mixed[..., -1:] + level.log_distance).exp()
        place = place + self.shift(tokens) * (spread_m / STILL_M).tanh()
        return Answer(*level.put_back(turns, place), self.doubt(tokens))

    def _read(self, given: Stretches, level: "_Level", seen: torch.Tensor) -> torch.Tensor:
        """(B, T, C) tokens; of frames that were not seen nothing but that."""
        points = self.chain(level.turns)
        told = torch.cat(
            [
                matrix_to_rotation_6d(level.turns).flatten(2),
                points.flatten(2) / PLACE_M,
                (level.place - level.middle) / PLACE_M,
                level.rays,
                level.distances,
                given.confidence[..., None],
            ],
            -1,
        )
        return torch.where(seen[..., None], self.read(told), self.missing)

    def _wave(self, times: torch.Tensor) -> torch.Tensor:
        angles = (times[..., None] * self.rates)[:, None]
        return torch.stack([angles.cos(), angles.sin()], -1)

    def _mix(
        self, tokens: torch.Tensor, times: torch.Tensor, seen: torch.Tensor, level: "_Level"
    ) -> torch.Tensor:
        """(B, T, 6 J + 4) filtered: six numbers a joint, the ray, the distance."""
        asks, offers = (
            layer(tokens).unflatten(-1, (self.filters, KERNEL)).transpose(1, 2)
            for layer in (self.asks, self.offers)
        )
        wide, sharp, worth = self.shapes(tokens).unflatten(-1, (self.filters, 3)).unbind(-1)
        # A filter that may be as wide as the window takes slow motions for errors.
        wide = wide.tanh() * log(WIDTHS)
        rate = (-wide).exp().transpose(1, 2)[..., None] / self.widths_s
        apart = (times[:, :, None] - times[:, None, :]).abs()[:, None]
        likeness = (asks / KERNEL**0.5) @ offers.transpose(-1, -2)
        likeness = MOST_ALIKE * (likeness / MOST_ALIKE).tanh()
        hidden = (~seen)[:, None] * -FAR
        likeness = likeness + (worth.transpose(1, 2) + hidden)[:, :, None]
        faded = apart * rate
        narrow = (likeness - faded).softmax(-1)
        broad = (likeness - faded / WIDE).softmax(-1)
        share = sharp.transpose(1, 2)[..., None].tanh()
        weights = narrow + share * (narrow - broad)
        six = matrix_to_rotation_6d(level.turns)
        out = torch.empty_like(six)
        for number, group in enumerate(self.groups):
            mixed = weights[:, number] @ six[:, :, group].flatten(2)
            out[:, :, group] = mixed.unflatten(-1, (len(group), 6))
        ray, distance = weights[:, -2] @ level.rays, weights[:, -1] @ level.distances
        return torch.cat([out.flatten(2), ray, distance], -1)


def split_groups(limbs: Limbs) -> list[tuple[int, ...]]:
    """Return the joints that have one filter: the limbs' groups, arms in two halves."""
    out = []
    for name, joints in limbs.groups.items():
        half = len(joints) // 2 if name.startswith("arm") else len(joints)
        out += [joints[:half], joints[half:]] if half < len(joints) else [joints]
    return out


class _Level:
    """Stretches in the axes of a typical frame of theirs, so that no camera's axes count.

    Attributes:
        turns: (B, T, J, 3, 3), place, rays: (B, T, 3) of Stretches, the first and the last two in
            those axes; rays have length 1.  middle: (B, 1, 3) mean place.
        distances: (B, T, 1) logarithms, of which the mean, ``log_distance`` (B, 1, 1), is taken.
    """

    def __init__(self, given: Stretches, seen: torch.Tensor) -> None:
        self.seen = seen
        shown = seen[..., None]
        root = torch.where(shown[..., None], given.turns[:, :, 0], 0)
        alike = root.flatten(2) @ root.flatten(2).transpose(1, 2)
        # The frame that is most like all others: a mean would lie between two ways to face.
        best = torch.where(seen, alike.sum(2), -FAR).argmax(1)
        self.axes = root[torch.arange(len(root), device=root.device), best].detach()
        still = torch.eye(3, dtype=root.dtype, device=root.device)
        first = self.axes.transpose(-1, -2)[:, None] @ root
        shown3 = shown[..., None, None]
        turns = torch.cat([first[:, :, None], given.turns[:, :, 1:]], 2)
        self.turns = torch.where(shown3, turns, still)
        place = torch.where(shown, given.place @ self.axes, 0)
        count = seen.sum(1)[:, None, None]
        self.middle = place.sum(1, keepdim=True) / count
        self.place = torch.where(shown, place, self.middle)
        length = self.place.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        self.rays = self.place / length
        distance = length.log()
        self.log_distance = torch.where(shown, distance, 0).sum(1, keepdim=True) / count
        self.distances = torch.where(shown, distance - self.log_distance, 0)

    def measure_spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, J) radians and (B, 1, 1) metres by which what was seen varies."""
        shown = self.seen[..., None]
        count = self.seen.sum(1)[:, None]
        flat = self.turns.flatten(3)
        mean = torch.where(shown[..., None], flat, 0).sum(1) / count[..., None]
        apart = torch.where(shown, (flat - mean[:, None]).square().sum(-1), 0).sum(1) / count
        apart_m = (
            torch.where(shown, (self.place - self.middle).square(), 0).sum((1, 2)) / count[:, 0]
        )
        return (apart[:, None] / 2).sqrt().detach(), apart_m.sqrt()[:, None, None].detach()

    def put_back(
        self, turns: torch.Tensor, place: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is in these axes in the camera's."""
        root = self.axes[:, None] @ turns[:, :, 0]
        return torch.cat([root[:, :, None], turns[:, :, 1:]], 2), place @ self.axes.transpose(
            -1, -2
        )

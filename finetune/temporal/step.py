"""From a batch of spoilt motions to losses, and the measures of validation."""

from collections.abc import Mapping

import torch
from torch import nn

from engine.geometry import axis_angle_to_matrix, rotation_6d_to_matrix
from engine.training.task import Batch
from finetune.temporal.keys import MotionLossConfig
from finetune.temporal.limbs import Limbs
from finetune.temporal.network import Answer, MotionNetwork, Stretches

TERMS = ("rotation", "joints", "acceleration", "place", "confidence")
ALONG = 0.25  # of errors of the distance, of which an image tells least, beside the others
HARD = 1e-4  # keeps the square roots' gradients finite
KINDS = ("seen", "missing")  # of frames, which validation tells apart


class MotionStep(nn.Module):
    """Spoils motions on the device, has the network mend them, and compares.

    Args:
        network: whose weights learn.
    """

    _arms: torch.Tensor
    _legs: torch.Tensor
    _mirror: torch.Tensor

    def __init__(self, network: MotionNetwork, limbs: Limbs, weights: MotionLossConfig) -> None:
        super().__init__()
        self.network, self.limbs = network, limbs
        self.weights = {name: getattr(weights, name) for name in TERMS}
        for name in ("arm", "leg"):
            joints = [i for key, group in limbs.groups.items() if key[:3] == name for i in group]
            self.register_buffer(f"_{name}s", _mark(joints, len(limbs.names)), persistent=False)
        mirror = torch.tensor(limbs.mirror)
        self.register_buffer("_mirror", mirror, persistent=False)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{term: (B,)} means over the frames and joints of each row."""
        true, given = self.spoil(batch)
        found = self.network(given)
        return self.compare(found, true, given)

    @torch.no_grad()
    def spoil(self, batch: Batch) -> tuple[Stretches, Stretches]:
        """(what is true, what is seen) of finetune.temporal.batches arrays as tensors."""
        turns = rotation_6d_to_matrix(batch["six"])
        shared = (batch["times"], batch["seen"], batch["valid"], batch["confidence"])
        true = Stretches(turns, batch["place"], *shared)
        seen = turns @ axis_angle_to_matrix(batch["turns"])
        other = seen[:, :, self._mirror] * _signs(seen)
        swapped = batch["arms"][..., None] & self._arms | batch["legs"][..., None] & self._legs
        seen = torch.where(swapped[..., None, None], other, seen)
        # Who faces the wrong way is turned about the own upright axis, z of the body at rest.
        about = seen.new_tensor([-1.0, -1.0, 1.0]).diag()
        root = torch.where(batch["flips"][..., None, None], seen[:, :, 0] @ about, seen[:, :, 0])
        seen = torch.cat([root[:, :, None], seen[:, :, 1:]], 2)
        place = batch["place"]
        away = place.norm(dim=-1, keepdim=True)
        ray = place / away
        beside = batch["beside"] - (batch["beside"] * ray).sum(-1, keepdim=True) * ray
        place = (place + beside) * batch["depth"][..., None].exp()
        return true, Stretches(seen, place, *shared)

    def compare(self, found: Answer, true: Stretches, given: Stretches) -> dict[str, torch.Tensor]:
        """{term: (B,)} of an answer."""
        angles = measure_angles(found.turns, true.turns)
        mine, theirs = self.network.chain(found.turns), self.network.chain(true.turns)
        apart = _length(mine - theirs).mean(-1)
        beside, along = _split_apart(found, true)
        jerk = _length(_differ(mine - theirs + beside[:, :, None])).mean(-1)
        place = _length(beside + ALONG * along)
        log_error = found.log_error.clamp(-8, 2)
        doubt = (log_error + angles.detach() / log_error.exp()).mean(-1)
        kept = true.valid[:, 1:-1] & true.valid[:, 2:] & true.valid[:, :-2]
        whole = {
            "rotation": (angles.mean(-1), true.valid),
            "joints": (apart, true.valid),
            "acceleration": (jerk, kept),
            "place": (place, true.valid),
            "confidence": (doubt, true.valid),
        }
        return {name: _mean(values, where) for name, (values, where) in whole.items()}

    def weigh(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,) losses of rows."""
        total = torch.zeros_like(terms[TERMS[0]])
        for name in TERMS:
            total = total + self.weights[name] * terms[name]
        return total

    @torch.no_grad()
    def measure(self, found: Answer, true: Stretches) -> dict[str, tuple[torch.Tensor, float]]:
        """{measure: (its values, what makes its unit)}; "mpjpe" about the root, ..."""
        mine, theirs = self.network.chain(found.turns), self.network.chain(true.turns)
        apart = (mine - theirs).norm(dim=-1).mean(-1)
        angles = measure_angles(found.turns, true.turns).mean(-1)
        second = _differ(mine - theirs)
        kept = true.valid[:, 2:] & true.valid[:, :-2]
        out = {}
        for name, rows in zip(KINDS, (true.seen, ~true.seen), strict=True):
            out[f"mpjpe_{name}"] = apart[true.valid & rows], 1000.0
        out["angle"] = angles[true.valid], 180 / torch.pi
        out["acceleration"] = second.norm(dim=-1).mean(-1)[kept], 1000.0
        out["place"] = (found.place - true.place).norm(dim=-1)[true.valid], 1000.0
        return out


def measure_angles(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return (...) radians between (..., 3, 3) rotations, differentiable where they are equal.

    2 sin of half the angle is the matrices' distance over the root of 2: near 0 it is the angle, at
    half a turn 2 instead of pi.
    """
    return ((found - true).square().sum((-1, -2)) / 2 + HARD**2).sqrt()


def _mark(joints: list[int], count: int) -> torch.Tensor:
    out = torch.zeros(count, dtype=torch.bool)
    out[joints] = True
    return out


def _signs(like: torch.Tensor) -> torch.Tensor:
    flip = like.new_tensor([-1.0, 1.0, 1.0])
    return flip[:, None] * flip


def _length(vectors: torch.Tensor) -> torch.Tensor:
    return (vectors.square().sum(-1) + HARD**2).sqrt()


def _split_apart(found: Answer, true: Stretches) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much the root is off, (B, T, 3) across the ray towards it and along it."""
    apart = found.place - true.place
    ray = torch.nn.functional.normalize(true.place, dim=-1)
    along = (apart * ray).sum(-1, keepdim=True) * ray
    return apart - along, along


def _differ(points: torch.Tensor) -> torch.Tensor:
    """(B, T - 2, ...) second differences of (B, T, ...), as acceleration errors are told."""
    return points[:, 2:] - 2 * points[:, 1:-1] + points[:, :-2]


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    total = torch.where(where, values, 0).sum(1)
    return total / where.sum(1).clamp_min(1)

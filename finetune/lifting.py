"""People who are given as keypoints alone: bodies of labels, turned anyhow, that nobody rendered.

A head that takes keypoints learns from them beside images how flat points stand for a body in
depth (lifting: Martinez et al., ICCV 2017). That needs no image, so it needs poses alone, and one
pose before ever new cameras is ever new data, at a tenth of the cost of a crop.
"""

import math
from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size, find_longer, find_sides
from data.loading import appearance_keys as columns
from data.loading.crops import FLIP, CropAugmentConfig
from engine.geometry import axis_angle_to_matrix
from finetune.heads.base import Prediction, Truth, pose_body
from finetune.losses import project_points
from finetune.prompts import make_prompts
from finetune.views import Targets, View

# How far people are tilted about a level axis: cameras look down and up; hands are held anyhow.
TILT = {"body": math.radians(25), "hand": math.pi}
CUT_SHARE = 0.25  # of people a part is beyond an image's edge or behind something
CUT_MOST = 0.65  # of their height
INDEX, TURN, TILT_ABOUT, TILT_BY, ROLL, MIRROR, SCALE, SHIFT_X, SHIFT_Y = range(9)
CUT, CUT_AT, CUT_BY, JUDGED = range(9, columns.LIFT)


@dataclass(eq=False)
class Lifted:
    """B people of whom keypoints alone are known.

    Attributes:
        truth: the bodies, before cameras of the network's size.
        prompts: (B, K, 3), see finetune.prompts.
        judged: (B,) uniform numbers, see finetune.model.Recovery.forward.
    """

    truth: Truth
    prompts: torch.Tensor
    judged: torch.Tensor


class Lifting:
    """Draws people from labels.

    Args:
        labels: {name: tensor} of data.loading.build.sample_labels, a row a person.
        augment: how crops are scaled, shifted and rotated.
        body: the run's body model, coarse.
        size: of the network's images.
        margin: side of a crop over the longer side of its box.
    """

    def __init__(
        self,
        labels: dict[str, torch.Tensor],
        augment: CropAugmentConfig,
        body: BodyModel,
        size: Size,
        margin: float,
    ) -> None:
        self.labels, self.augment, self.body = labels, augment, body
        self.targets = Targets(body)
        self.size, self.margin = size, margin

    def __call__(self, u: torch.Tensor) -> Lifted:
        """Return the people that (B, columns.LIFT_DRAWS) uniform numbers stand for."""
        chosen = (u[:, INDEX] * len(self.labels["pose"])).long()
        chosen = chosen.clamp_max(len(self.labels["pose"]) - 1)
        labels = {name: values[chosen] for name, values in self.labels.items()}
        parameters = self._place(labels, u)
        true = pose_body(self.body, parameters)
        K, cut = self._look(true, labels["K"], u)
        prompts = make_prompts(self.body, true, K, self.size, u[:, columns.LIFT :], 1.0)
        shown = self._keep(prompts, cut)
        return Lifted(Truth(true, K, self.size), shown, u[:, JUDGED])

    def _place(self, labels: dict[str, torch.Tensor], u: torch.Tensor) -> BodyParameters:
        """The labelled bodies, turned and tilted about their roots, before rolled cameras."""
        count = len(u)
        pose = axis_angle_to_matrix(labels["pose"])
        about = 2 * math.pi * u[:, TILT_ABOUT]
        level = torch.stack([about.cos(), about.sin(), torch.zeros_like(about)], 1)
        tilt = axis_angle_to_matrix(level * (TILT[self.body.kind] * u[:, TILT_BY])[:, None])
        up = u.new_tensor([0.0, 0.0, 1.0])
        turn = axis_angle_to_matrix(up * (2 * math.pi * u[:, TURN])[:, None])
        root = tilt @ turn @ pose[:, 0]
        pose = torch.cat([root[:, None], pose[:, 1:]], 1)
        most = math.radians(self.augment.rotation_deg)
        ahead = u.new_tensor([0.0, 0.0, 1.0])
        roll = axis_angle_to_matrix(ahead * (most * (2 * u[:, ROLL] - 1))[:, None])
        flip = u[:, MIRROR] < (0.5 if self.augment.flip else 0.0)
        if self.body.kind == "hand":
            flip = labels["numbers"][:, FLIP] > 0.5
        seen = View(None, labels["K"], roll.expand(count, 3, 3), flip)
        return self.targets({**labels, "pose": pose}, seen)

    def _look(
        self, true: Prediction, K: torch.Tensor, u: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a square about what is seen of each.

        Returns:
            (B, 3, 3) intrinsics of the square; (B, 3) the line a x + b y < c about its middle over
            its side, beyond which nothing is seen.
        """
        flat = project_points(true.vertices, K)
        sides = torch.floor(u[:, CUT_AT] * 8).long()  # below in five of eight cases, else a side
        normals = u.new_tensor([[0, 1.0]] * 5 + [[1.0, 0], [-1.0, 0], [0, -1.0]])
        normal = normals[sides.clamp_max(7)]
        along = (flat * normal[:, None]).sum(-1)
        low, high = along.amin(1), along.amax(1)
        by = torch.where(u[:, CUT] < CUT_SHARE, CUT_MOST * u[:, CUT_BY], 0.0)
        edge = high - by * (high - low)
        seen = (along <= edge[:, None])[..., None]
        least = torch.where(seen, flat, torch.inf).amin(1)
        most = torch.where(seen, flat, -torch.inf).amax(1)
        (rows, columns), longer = find_sides(self.size), find_longer(self.size)
        wide, high = (most - least).unbind(1)
        box = torch.maximum(wide * (longer / columns), high * (longer / rows))
        scale = self.augment.scale_min
        scale = scale + (self.augment.scale_max - scale) * u[:, SCALE]
        side = (box * self.margin * scale).clamp_min(1)
        shift = self.augment.shift * (2 * u[:, [SHIFT_X, SHIFT_Y]] - 1)
        middle = (least + most) / 2 + shift * side[:, None]
        K = _cut_cameras(K, middle, side, self.size)
        line = (edge - (middle * normal).sum(1)) / side
        return K, torch.cat([normal, line[:, None]], 1)

    @staticmethod
    def _keep(prompts: torch.Tensor, cut: torch.Tensor) -> torch.Tensor:
        """Prompts without those beyond a line."""
        along = (prompts[..., :2] * cut[:, None, :2]).sum(-1)
        return prompts * (along <= cut[:, 2:])[..., None]


def _cut_cameras(
    K: torch.Tensor, middle: torch.Tensor, side: torch.Tensor, size: Size
) -> torch.Tensor:
    """(B, 3, 3) intrinsics of squares about ``middle`` (B, 2), scaled to ``size`` px.

    Of a rectangular size those of their middles.
    """
    (rows, columns), longer = find_sides(size), find_longer(size)
    out = K.clone()
    out[:, :2, 2] -= middle - side[:, None] / 2
    out[:, :2] *= (longer / side)[:, None, None]
    out[:, 0, 2] -= (longer - columns) / 2
    out[:, 1, 2] -= (longer - rows) / 2
    return out

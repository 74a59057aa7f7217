"""What the network sees of a crop and where its camera then is: the device half of augmentation.

An image that is cut, scaled and turned is the image of another camera: same place, other
intrinsics, turned about its optical axis. So labels follow exactly, whatever the crop. A mirrored
image is that of a mirrored person.
"""

from dataclasses import dataclass

import torch

from data.bodies.models import mirrored, mirrored_rotation
from data.loading.augment import crop, jitter, normalise
from data.loading.crops import CENTRE_X, FLIP, SIDE, TURN


@dataclass
class View:
    """B images for the network and their cameras.

    Attributes:
        images: (B, 3, S, S) normalised.  K: (B, 3, 3) intrinsics in their pixels.
        turn: (B, 3, 3) rotation from the crop's camera to the image's.  flip: (B,) bool, mirrored
            after that.
    """

    images: torch.Tensor
    K: torch.Tensor
    turn: torch.Tensor
    flip: torch.Tensor


def view(batch, size):
    """The View of a batch of data.loading.crops arrays as tensors; ``size``: side S in pixels."""
    numbers = batch["numbers"]
    boxes, angle, flip = numbers[:, CENTRE_X : SIDE + 1], numbers[:, TURN], numbers[:, FLIP] > 0.5
    images = crop(batch["pixels"].permute(0, 3, 1, 2).float().div_(255), boxes, size, angle)
    images = normalise(jitter(images, numbers[:, FLIP + 1 :]))
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    K, turn = turned_camera(batch["K"], boxes, angle, size)
    return View(images, mirrored_camera(K, flip, size), turn, flip)


def turned_camera(K, boxes, angle, size):
    """Intrinsics and rotation of the camera that takes a turned crop.

    A pixel u of the source shows at s Rot(-angle) (u - c) + S/2, with s = S / side. Its 2 x 2 part
    times K's is split by an RQ decomposition into new intrinsics (upper triangular) and a rotation
    about the optical axis.

    Args:
        K: (B, 3, 3).  boxes: (B, 3) centre x, y and side in source pixels.  angle: (B,) radians.
            size: S.
    Returns:
        (B, 3, 3) intrinsics in the crop's pixels, (B, 3, 3) rotation from the source's camera.
    """
    scale = size / boxes[:, 2]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    part = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)
    m = part @ K[:, :2, :2]
    length = m[:, 1].norm(dim=-1)
    s, c = m[:, 1, 0] / length, m[:, 1, 1] / length
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    turn = torch.stack(
        [
            torch.stack([c, -s, zero], -1),
            torch.stack([s, c, zero], -1),
            torch.stack([zero, zero, one], -1),
        ],
        1,
    )
    out = torch.eye(3, device=K.device).repeat(len(K), 1, 1)
    out[:, 0, :2] = (m[:, :1] @ turn[:, :2, :2].transpose(1, 2))[:, 0]
    out[:, 1, 1] = (
        length  # and 0 before it, exactly: whoever draws with these intrinsics asks for that
    )
    out[:, :2, 2] = (part @ (K[:, :2, 2] - boxes[:, :2])[..., None])[..., 0] + size / 2
    return out, turn


def mirrored_camera(K, flip, size):
    """Intrinsics of images of ``size`` px of which those in ``flip`` (B,) are mirrored left to
    right."""
    other = K.clone()
    other[:, 0, 1] = -K[:, 0, 1]
    other[:, 0, 2] = size - K[:, 0, 2]
    return torch.where(flip[:, None, None], other, K)


@dataclass
class Target:
    """What is to be recovered, in the image's camera and in terms of the run's body model.

    Attributes:
        pose: (B, J, 3, 3), joint 0's turns the whole in the camera's frame.  root: (B, 3) metres,
            where joint 0 is.
        shape: (B, S).
    """

    pose: torch.Tensor
    root: torch.Tensor
    shape: torch.Tensor


class Targets:
    """Turns labels into Targets of a body model. ``body``: data.bodies.models.BodyModel."""

    def __init__(self, body):
        self.body, self.names = body, body.whole_names
        self.rows = None
        if body.kind == "hand":
            # A left hand is learnt as the right one in a mirror, so its own joints are looked up
            # under their mirror's names.
            self.rows = {
                side: torch.tensor(
                    [self.names.index(n[:-2] + "." + side) for n in body.joint_names[2:]]
                )
                for side in "LR"
            }
            self.chains = {
                side: _chain(self.names.index(f"wrist.{side}"), body.whole_parents) for side in "LR"
            }

    def __call__(self, labels, seen):
        """The Target of labels (data.loading.crops arrays as tensors; ``pose`` as (B, 104, 3, 3)
        matrices) under a View."""
        rotation, root = (self._body if self.rows is None else self._hand)(labels, seen.flip)
        camera = seen.turn @ labels["Rt"][:, :, :3]
        root = (camera @ root[..., None])[..., 0] + (seen.turn @ labels["Rt"][:, :, 3:])[..., 0]
        rotation = torch.cat([(camera @ rotation[:, 0])[:, None], rotation[:, 1:]], 1)
        flipped = mirrored_rotation(rotation[:, self.body.mirror])
        rotation = torch.where(seen.flip[:, None, None, None], flipped, rotation)
        return Target(
            rotation, torch.where(seen.flip[:, None], mirrored(root), root), labels["shape"]
        )

    def _body(self, labels, flip):
        return labels["pose"], labels["root"]

    def _hand(self, labels, flip):
        """Rotations (B, 21, 3, 3) and wrist (B, 3): of the left hand where the image is mirrored,
        else of the right."""
        out = []
        for side in "RL":
            whole = labels["pose"][:, 0]
            for joint in self.chains[side][1:]:
                whole = whole @ labels["pose"][:, joint]
            none = torch.eye(3, device=whole.device).expand_as(whole)
            fingers = labels["pose"][:, self.rows[side].to(whole.device)]
            wrist = labels["joints"][:, self.chains[side][-1]]
            out.append((torch.cat([torch.stack([whole, none], 1), fingers], 1), wrist))
        (right, at), (left, left_at) = out
        return torch.where(flip[:, None, None, None], left, right), torch.where(
            flip[:, None], left_at, at
        )


def _chain(joint, parents):
    """Joints from the root to this one."""
    out = [joint]
    while parents[out[0]] >= 0:
        out.insert(0, parents[out[0]])
    return out

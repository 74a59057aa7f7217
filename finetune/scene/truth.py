"""What is true of a batch of whole frames, as the network is asked about it."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data.bodies.base import BodyModel, BodyParameters
from data.loading.frame_batch import FrameBatch
from engine.geometry import axis_angle_to_matrix
from finetune.scene.anchors import Anchors, choose_joints, choose_keypoints, place_anchors
from finetune.scene.decode import NEAREST_M

IGNORED_SHARE = 0.1  # of a token's pixels, from which on it says nothing of who is not there


@dataclass(eq=False)
class SceneTruth:
    """What B images show of M people.

    Attributes:
        frames: the labels.
        anchors: where the people are asked for.
        depth: (B, M) metres of the anchors.
        bodies: (B, M) bool, whether a body is known of somebody who is asked for.
        counts: (B, N) bool, tokens where somebody who is found and is none of these is an error:
            elsewhere there may be people whom nobody labelled.
        K: (B, 3, 3) of the images, assumed where nobody knows it.
    """

    frames: FrameBatch
    anchors: Anchors
    depth: torch.Tensor
    bodies: torch.Tensor
    counts: torch.Tensor
    K: torch.Tensor

    def number_bodies(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ((n,) images, (n,) places in them) of those whose bodies are known."""
        image, place = self.bodies.nonzero().unbind(1)
        return image, place

    def take_parameters(
        self, body: BodyModel, image: torch.Tensor, place: torch.Tensor
    ) -> BodyParameters:
        """Return the labelled bodies of some people."""
        frames = self.frames
        pose = axis_angle_to_matrix(frames.pose[image, place])
        return BodyParameters(
            body.name, pose, frames.shape[image, place], frames.root[image, place]
        )


def assume_cameras(K: torch.Tensor, known: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return (B, 3, 3) intrinsics; where they are not known the focal length is the diagonal.

    As in prediction (finetune.inference.predictor.check_intrinsics).

    Args:
        size: (rows, columns) of the images.
    """
    rows, columns = size
    focal = math.hypot(rows, columns)
    guess = K.new_tensor([[focal, 0, columns / 2], [0, focal, rows / 2], [0, 0, 1]])
    return torch.where(known[:, None, None], K, guess)


def tell_truth(frames: FrameBatch, size: tuple[int, int], patch: int) -> SceneTruth:
    """Return what is true of a batch of images of ``size``.

    Who shows no joint within the image is not asked for.
    """
    rows, columns = size
    known = frames.body_known & frames.present
    joint, shown = choose_joints(frames.joint_visible)
    index = joint[..., None, None]
    pixel = frames.joint_points.gather(2, index.expand(*joint.shape, 1, 2))[:, :, 0]
    depth = frames.joints.gather(2, index.expand(*joint.shape, 1, 3))[:, :, 0, 2]
    head = choose_keypoints(frames.keypoints, frames.keypoint_visible)
    there = torch.where(known, shown, head[..., 2] > 0) & frames.present
    pixel = torch.where(known[..., None], pixel, head[..., :2])
    # Of keypoints alone the larger box is taken for the nearer person.
    box = (frames.box[..., 2:] - frames.box[..., :2]).amax(-1).nan_to_num(1.0).clamp_min(1)
    depth = torch.where(known, depth, max(size) / box)
    anchors = place_anchors(there, pixel, joint, depth, (rows // patch, columns // patch), patch)
    bodies = anchors.there & known & (depth > NEAREST_M)
    counts = F.avg_pool2d(frames.ignore[:, None], patch).flatten(1) < IGNORED_SHARE
    K = assume_cameras(frames.K, frames.camera_known, size)
    return SceneTruth(frames, anchors, depth, bodies, counts, K)

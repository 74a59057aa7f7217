"""Whole frames on the device: cut, rotated, mirrored and coloured, labels moved with the images.

Training imports this; the loader's workers do not (it brings torch).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from data.bodies.anny_layout import ANNY
from data.bodies.base import mirrored, pair_sides
from data.cropping.batch import crop_cameras, crop_squares, mirror_cameras
from data.cropping.geometry import find_longer, find_sides, scaled_rotation
from data.format.joint_sets import find_joint_set
from data.format.labels import OUTSIDE
from data.loading.augment import jitter, normalise
from data.loading.degrade import change_tone, degrade
from data.loading.frames import DEGRADE, IGNORE_STEP, KEYPOINT_SET, TONE, FrameAugmentConfig
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

FLIP, COLOURS = 4, slice(5, 8)  # columns of "numbers"


@dataclass
class FrameBatch:
    """A batch of images of one shape, and M places for people in each.

    Attributes:
        images: (B, 3, rows, columns) float32, normalised.
        K: (B, 3, 3) of the images; camera_known: (B,) bool.
        rotation: (B, 3, 3) from the frame's camera to the image's; a mirrored image's is that of
            the image before it was mirrored.
        present: (B, M) bool, whether there is a person.
        shown: (B, M) share of the person that the image shows.
        box: (B, M, 4) x0, y0, x1, y1 in pixels of the image, around the frame's box.
        ignore: (B, rows, columns) in [0, 1], how much of a pixel of the image may show people who
            are not among the present: a network that finds them makes no mistake.
        track: (B, M) int32; equal numbers in one scene are one person.
        body_known: (B, M) bool, whether the following of anny are labelled, in the axes of the
            image's camera, metres.
        pose: (B, M, 104, 3), root: (B, M, 3), shape: (B, M, 6), face: (B, M, 52),
        joints: (B, M, 104, 3).
        joint_points: (B, M, 104, 2) their pixels in the image.
        joint_visible: (B, M, 104) uint8 0 outside the image, 1 hidden, 2 seen.
        keypoints: (B, M, 17, 3) pixels of the image and confidence; keypoint_visible likewise.
    """

    images: torch.Tensor
    K: torch.Tensor
    camera_known: torch.Tensor
    rotation: torch.Tensor
    present: torch.Tensor
    ignore: torch.Tensor
    shown: torch.Tensor
    box: torch.Tensor
    track: torch.Tensor
    body_known: torch.Tensor
    pose: torch.Tensor
    root: torch.Tensor
    shape: torch.Tensor
    face: torch.Tensor
    joints: torch.Tensor
    joint_points: torch.Tensor
    joint_visible: torch.Tensor
    keypoints: torch.Tensor
    keypoint_visible: torch.Tensor


def prepare_frames(
    batch: Mapping[str, torch.Tensor],
    size: tuple[int, int],
    face_names: list[str],
    augment: FrameAugmentConfig | None = None,
) -> FrameBatch:
    """Cut a batch of data.loading.frames and move its labels along.

    Args:
        batch: its arrays as tensors.  size: (rows, columns) of the images, those that the reader
            has for the batch's aspect.
        face_names: of anny's facial actions (data.bodies.anny_body.AnnyBody.face_names), whose
            sides are swapped in mirrored images.
        augment: how images are spoilt and toned before the colour jitter; None: not at all.
    """
    numbers = batch["numbers"]
    squares, angle, flip = numbers[:, :3], numbers[:, 3], numbers[:, FLIP] > 0.5
    images = crop_squares(
        batch["pixels"].permute(0, 3, 1, 2).float().div_(255), squares, size, angle
    )
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    images = images if augment is None else _spoil(images, batch["look"], augment)
    images = normalise(jitter(images, numbers[:, COLOURS]))
    K, rotation = crop_cameras(batch["K"], squares, angle, size)
    K = mirror_cameras(K, flip, size)
    present, known = batch["present"] > 0, batch["body_known"] > 0
    pose, root, joints = _turn_bodies(batch, rotation, flip, known)
    points = _project(joints, K)
    keypoints = _move_points(batch["keypoints"][..., :2], numbers, size)
    confidence = batch["keypoints"][..., 2:]
    mirror = pair_sides(list(ANNY.joint_names), ".L", ".R").to(flip.device)
    sides = pair_sides(list(find_joint_set(KEYPOINT_SET).joints), "left_", "right_").to(flip.device)
    faces = pair_sides(face_names, "Left", "Right").to(flip.device)
    keypoints = torch.cat([keypoints, confidence], -1)
    joint_visible = _swap(batch["joint_visible"], mirror, flip)
    keypoint_visible = _swap(batch["keypoint_visible"], sides, flip)
    keypoints = _swap(keypoints, sides, flip)
    in_front = joints[..., 2] > 0
    return FrameBatch(
        images,
        K,
        batch["camera_known"] > 0,
        rotation,
        present,
        _cut_ignored(batch["ignore"], squares, angle, flip, size),
        batch["shown"],
        _move_boxes(batch["box"], numbers, size),
        batch["track"],
        known,
        pose,
        root,
        batch["shape"],
        _swap(batch["face"], faces, flip),
        joints,
        points,
        _leave_out(joint_visible, points, in_front, size),
        keypoints,
        _leave_out(keypoint_visible, keypoints[..., :2], keypoints[..., 2] > 0, size),
    )


def _cut_ignored(
    cells: torch.Tensor,
    squares: torch.Tensor,
    angle: torch.Tensor,
    flip: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """(B, rows, columns) of the cells (B, C, C) uint8 of frames."""
    shares = cells[:, None].float().div_(255)
    out = crop_squares(shares, squares / IGNORE_STEP, size, angle)[:, 0]
    return torch.where(flip[:, None, None], out.flip(2), out)


def _spoil(images: torch.Tensor, look: torch.Tensor, augment: FrameAugmentConfig) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] as data.loading.degrade changes them."""
    if augment.degrade_share:
        images = degrade(images, look[:, DEGRADE], augment.degrade_share)
    if augment.tone or augment.hue_deg or augment.grey_share:
        hue = math.radians(augment.hue_deg)
        images = change_tone(images, look[:, TONE], augment.tone, hue, augment.grey_share)
    return images


def _turn_bodies(
    batch: Mapping[str, torch.Tensor],
    rotation: torch.Tensor,
    flip: torch.Tensor,
    known: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pose, root and joints in the axes of the images' cameras; 0 where they are not known."""
    pose = batch["pose"].clone()
    turned = rotation[:, None] @ axis_angle_to_matrix(pose[:, :, 0])
    pose[:, :, 0] = matrix_to_axis_angle(turned)
    root = (rotation[:, None] @ batch["root"][..., None])[..., 0]
    joints = batch["joints"] @ rotation.mT[:, None]
    # What a mirror makes of a rotation vector w is -M w: see data.bodies.base.mirrored_rotation.
    mirror = pair_sides(list(ANNY.joint_names), ".L", ".R").to(flip.device)
    mine = flip[:, None, None, None]
    pose = torch.where(mine, -mirrored(pose[:, :, mirror]), pose)
    joints = torch.where(mine, mirrored(joints[:, :, mirror]), joints)
    root = torch.where(flip[:, None, None], mirrored(root), root)
    there = known[..., None].float()
    return pose * there[..., None], root * there, joints * there[..., None]


def _project(joints: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """(B, M, J, 2) pixels of points (B, M, J, 3); those behind the camera go far outside."""
    depth = joints[..., 2:].clamp_min(0.01)
    return (joints / depth @ K.mT[:, None])[..., :2]


def _move_points(
    points: torch.Tensor, numbers: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Pixels of the frame (B, ..., 2) -> pixels of the image, as image_to_crop and a mirror do."""
    rows, columns = find_sides(size)
    x, y, side, angle, flip = numbers[:, :5].unbind(1)
    scale = find_longer(size) / side
    (a, b), (c, d) = scaled_rotation(scale, angle.cos(), -angle.sin())
    part = torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], 1)
    shape = (-1, *[1] * (points.ndim - 2), 2)
    moved = points - torch.stack([x, y], 1).reshape(shape)
    moved = (part.reshape(-1, *[1] * (points.ndim - 2), 2, 2) @ moved[..., None])[..., 0]
    moved = moved + moved.new_tensor([columns / 2, rows / 2])
    other = torch.stack([columns - moved[..., 0], moved[..., 1]], -1)
    return torch.where((flip > 0.5).reshape(-1, *[1] * (points.ndim - 1)), other, moved)


def _move_boxes(box: torch.Tensor, numbers: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, M, 4) boxes around the moved corners of boxes."""
    corners = box[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2))
    moved = _move_points(corners, numbers, size)
    return torch.cat([moved.amin(-2), moved.amax(-2)], -1)


def _swap(values: torch.Tensor, other: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """(B, M, N, ...) with both sides of mirrored images swapped."""
    shape = (-1, *[1] * (values.ndim - 1))
    return torch.where(flip.reshape(shape), values[:, :, other], values)


def _leave_out(
    visible: torch.Tensor, points: torch.Tensor, known: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Visibility in the image: OUTSIDE where a point is not in it or not known.

    What is in the cut but was outside of the frame stays OUTSIDE: there the image is black.
    """
    limit = points.new_tensor([size[1], size[0]])
    inside = ((points >= 0) & (points < limit)).all(-1) & known
    return torch.where(inside, visible, torch.full_like(visible, OUTSIDE))

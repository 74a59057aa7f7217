"""Joints in the image: where they are, read from labels or off a body model, and how far off.

Places are x and y over the image's side, from its corner; of a rectangular image over its longer
side, both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.bodies.anny_layout import OTHER_NAMES
from data.bodies.base import BodyModel
from data.cropping.geometry import Size, find_longer
from data.loading.crops import FLIP, ROTATION
from data.loading.points import STATE_SEEN, STATE_UNKNOWN
from finetune.crop_camera import find_middle
from finetune.given import Given, tell_known
from finetune.heads.base import Truth
from finetune.losses import project_points

NEAR = 2  # samples on either side of a map's highest one whose mean is its place
LEAST_BOX = 0.1  # of the image's side: the least that a joint's distance is divided by
Place = tuple[str, int] | None  # ("landmarks" or "joints", which one), None: nobody knows


@dataclass(eq=False)
class TruePoints:
    """Joints of B crops.

    Attributes:
        points: (B, K, 2) over the image's side.
        known: (B, K) bool.  inside: (B, K) bool, in the image.
        seen: (B, K) bool, known and not hidden; where nobody knows, known.
    """

    points: torch.Tensor
    known: torch.Tensor
    inside: torch.Tensor
    seen: torch.Tensor


def find_places(names: Sequence[str], body: BodyModel) -> list[Place]:
    """Returns where a body model has each joint: among its landmarks, or its own joints."""
    landmarks, joints = list(body.landmark_names), list(body.joint_names)
    found: list[Place] = []
    for name in names:
        place: Place = None
        for wanted in (name, OTHER_NAMES.get(name, name)):
            if place is None and wanted in landmarks:
                place = "landmarks", landmarks.index(wanted)
            if place is None and wanted in joints:
                place = "joints", joints.index(wanted)
        found.append(place)
    return found


def read_points(truth: Truth, places: Sequence[Place], mirror: torch.Tensor) -> TruePoints:
    """Returns the TruePoints of crops: labelled ones where the batch has them, else a body's.

    Args:
        places: of find_places.  mirror: (K,) int64, each joint's number on the other side.
    """
    if "points" in truth.batch:
        return _read_labelled(truth, mirror)
    mesh, body = truth.mesh, truth.body
    if body is None:
        raise ValueError("joints are read off a mesh whose body model is known")
    landmarks = body.landmarks(mesh.vertices, mesh.joints)
    both = torch.cat([landmarks, mesh.joints], 1)
    offset = {"landmarks": 0, "joints": landmarks.shape[1]}
    index = [0 if place is None else offset[place[0]] + place[1] for place in places]
    points = project_points(both[:, index], truth.K) / find_longer(truth.size)
    known = torch.tensor([place is not None for place in places], device=points.device)
    known = known.expand(points.shape[:2])
    if truth.given is not None:
        points, known = _read_given(truth, truth.given, places, points, known)
    return TruePoints(points, known, find_inside(points, truth.size), known)


def _read_given(
    truth: Truth,
    given: Given,
    places: Sequence[Place],
    points: torch.Tensor,
    known: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and what is known of them, of crops without a mesh by their labelled keypoints.

    Landmarks begin with the keypoints; of others nothing is known there.
    """
    mesh = tell_known(given.present, ("mesh",))[:, None]
    index, labelled = [], []
    for place in places:
        is_keypoint = place is not None and place[0] == "landmarks"
        number = place[1] if is_keypoint and place is not None else given.points_2d.shape[1]
        labelled.append(number < given.points_2d.shape[1])
        index.append(number if labelled[-1] else 0)
    own = given.points_2d[:, index] / find_longer(truth.size)
    sure = (given.weights_2d[:, index] > 0) & torch.tensor(labelled, device=own.device)
    return torch.where(mesh[..., None], points, own), torch.where(mesh, known, sure)


def _read_labelled(truth: Truth, mirror: torch.Tensor) -> TruePoints:
    """Those that the reader put into the batch, as the image shows them.

    In a mirrored image left joints are at the places of right ones.
    """
    batch = truth.batch
    if truth.seen is None:
        raise ValueError("labelled joints are placed in images, and this truth has none")
    squares = truth.seen.require_squares()
    points = move_points(batch["points"], squares, batch["numbers"], truth.size)
    state = batch["point_state"]
    flip = (batch["numbers"][:, FLIP] > 0.5)[:, None]
    mirror = mirror.to(points.device)
    points = torch.where(flip[..., None], points[:, mirror], points)
    state = torch.where(flip, state[:, mirror], state)
    return TruePoints(
        points, state > STATE_UNKNOWN, find_inside(points, truth.size), state == STATE_SEEN
    )


def move_points(
    points: torch.Tensor, squares: torch.Tensor, numbers: torch.Tensor, size: Size
) -> torch.Tensor:
    """Returns (B, K, 2) places in the images that ``finetune.views.view`` makes of crops.

    Args:
        points: (B, K, 2) pixels of the crops.
        squares: (B, 3) of the view: which square is cut.
        numbers: (B, PER_CROP) of data.loading.crops: how it is rotated, and whether it is mirrored.
        size: of the images, which show its middle.
    """
    centre, side = squares[:, None, :2], squares[:, None, 2:]
    angle, flip = numbers[:, None, ROTATION], numbers[:, None, FLIP] > 0.5
    x, y = ((points - centre) / side).unbind(-1)
    # The inverse of what data.cropping.batch cuts by: pixel = centre + side R place.
    cos, sin = angle.cos(), angle.sin()
    moved_x, moved_y = cos * x + sin * y, cos * y - sin * x
    moved_x = torch.where(flip, -moved_x, moved_x)
    moved = torch.stack([moved_x, moved_y], -1)
    return moved + find_middle(size, moved)


def find_inside(points: torch.Tensor, size: Size) -> torch.Tensor:
    """Returns (B, K) bool: which places lie in an image of that size."""
    ends = 2 * find_middle(size, points)
    return ((points > 0) & (points < ends)).all(-1)


def read_maps(logits: torch.Tensor) -> torch.Tensor:
    """Returns (B, K, 2) places over width and height: the mean about each map's highest sample.

    Args:
        logits: (B, K, rows, columns).
    """
    rows, columns = logits.shape[2:]
    top = logits.flatten(2).argmax(-1)
    top_y, top_x = top // columns, top % columns
    y = torch.arange(rows, device=logits.device)
    x = torch.arange(columns, device=logits.device)
    near_y = ((y - top_y[..., None]).abs() <= NEAR)[..., :, None]
    near_x = ((x - top_x[..., None]).abs() <= NEAR)[..., None, :]
    kept = logits.masked_fill(~(near_y & near_x), -torch.inf)
    shares = kept.flatten(2).softmax(-1).unflatten(2, (rows, columns))
    place_x = (shares.sum(2) * (x + 0.5)).sum(-1) / columns
    place_y = (shares.sum(3) * (y + 0.5)).sum(-1) / rows
    return torch.stack([place_x, place_y], -1)


def read_scores(logits: torch.Tensor) -> torch.Tensor:
    """Returns (B, K) in [0, 1]: the share of each map about its highest sample."""
    rows, columns = logits.shape[2:]
    shares = logits.flatten(2).softmax(-1).unflatten(2, (rows, columns))
    width = 2 * NEAR + 1
    sums = torch.nn.functional.avg_pool2d(shares, width, 1, NEAR) * width * width
    return sums.flatten(2).amax(-1).clamp(0, 1)


def average_points(told: Sequence[TruePoints]) -> torch.Tensor:
    """Returns (1, K, 2) mean places of the joints that are known and lie in their images."""
    points = torch.cat([true.points for true in told])
    judged = torch.cat([true.known & true.inside for true in told])[..., None].float()
    mean = (points.nan_to_num() * judged).sum(0) / judged.sum(0).clamp_min(1)
    return mean[None]


def measure_boxes(true: TruePoints) -> torch.Tensor:
    """Returns (B,) the longer side of the box around the known joints, over the image's side."""
    known = true.known[..., None]
    low = torch.where(known, true.points, torch.inf).amin(1)
    high = torch.where(known, true.points, -torch.inf).amax(1)
    return (high - low).amax(1).clamp_min(LEAST_BOX)


def measure_pck(places: torch.Tensor, true: TruePoints, share: float) -> torch.Tensor:
    """Returns (B,) share of joints that are found within a share of the box; NaN of none.

    Of joints that are known and lie in the image.
    """
    apart = (places - true.points).norm(dim=-1)
    right = apart <= share * measure_boxes(true)[:, None]
    return _average(right.float(), true)


def measure_distances(places: torch.Tensor, true: TruePoints) -> torch.Tensor:
    """Returns (B,) mean distance over the box's side; NaN of none."""
    apart = (places - true.points).norm(dim=-1) / measure_boxes(true)[:, None]
    return _average(apart, true)


def _average(values: torch.Tensor, true: TruePoints) -> torch.Tensor:
    judged = true.known & true.inside
    total = torch.where(judged, values, 0).sum(1)
    return total / judged.sum(1)

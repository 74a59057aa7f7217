"""Fits as the labels of clips, in the arrays that training reads, whoever made them."""

from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.anny_layout import ANNY as LAYOUT
from data.bodies.base import BodyModel, BodyParameters, mirrored
from data.bodies.models import BODIES
from data.bodies.smpl_layout import FAMILY, FamilySpec
from data.format.clip import Clip, decode_masks, encode
from data.format.label_files import load_arrays, save_arrays
from data.format.labels import OUTSIDE, SEEN, Joints, Labels, pack_labels
from data.format.labels import BodyParameters as LabelledBody
from data.loading.crop_labels import find_label_kind
from engine.errors import UserError
from engine.geometry import matrix_to_axis_angle, project
from finetune.fit.answers import LEFT
from finetune.fit.fitter import Fitted
from finetune.fit.observed import LABELS, View

ANNY, ANNY_HAND = "anny", "anny_hand"
WRITTEN = (ANNY, ANNY_HAND, *FAMILY)
KEPT = ("keypoint_set", "keypoints", "keypoint_confidence")  # of the labels that were there


@dataclass(eq=False)
class Shown:
    """A crop of a clip that a fit is of.

    Attributes:
        number: of the crop in its clip.  view: what it shows.
        fitted: the stretch.  row: of the stretch's instants.
        error, error_px: mean distance of its keypoints, of the person's size and in pixels.
    """

    number: int
    view: View
    fitted: Fitted
    row: int
    error: float
    error_px: float


def find_kind(name: str) -> str:
    """Return "body" or "hand", which a body model is of, without opening it.

    Raises:
        UserError: there is no such model, or its labels are not written.
    """
    BODIES.find(name)
    if name not in WRITTEN:
        raise UserError(f"body={name}: fits are written as labels of {', '.join(WRITTEN)}")
    return "hand" if name == ANNY_HAND else FAMILY[name].kind if name in FAMILY else "body"


def label_clip(
    clip: Clip, members: dict[str, bytes], shown: list[Shown], body: BodyModel
) -> dict[str, bytes]:
    """Return the members of a clip of the crops that fit, with labels.

    Args:
        clip: as its JSON says.  members: its own.
        shown: the crops that are kept, by number.
        body: the full body model.
    """
    kept = [one.number for one in shown]
    rows = sorted({one.row for one in shown})
    instant = np.array([rows.index(one.row) for one in shown])
    side = clip.crops[kept[0]].kind
    found, joints, vertices = _pose(_pick(shown[0].fitted.parameters, rows), side, body)
    crops = []
    for one in shown:
        crop = clip.crops[one.number]
        if crop.K is None or crop.Rt is None:
            crop.K, crop.Rt = one.view.K, one.view.Rt
        crops.append(crop)
    visible = _share_inside(vertices.numpy(), instant, shown, clip.size)
    seen = _find_inside(joints.numpy(), instant, shown, clip.size)
    if body.name == ANNY_HAND:
        # The rest of the person is nowhere.
        others = np.setdiff1d(np.arange(seen.shape[1]), LAYOUT.index_part(side))
        seen[:, others] = OUTSIDE
    labels = _label(found, joints.numpy(), instant, seen, visible, body, side)
    given = load_arrays(members[LABELS])
    labels |= {name: given[name] for name in KEPT[:1]}
    labels |= {name: given[name][kept] for name in KEPT[1:] if name in given}
    labels["fit_error"] = np.array([one.error for one in shown], np.float32)
    labels["fit_error_px"] = np.array([one.error_px for one in shown], np.float32)
    masks = None
    if "masks.bin" in members:
        masks = decode_masks(members["masks.bin"], len(clip.crops))[kept]
    overlap = None if clip.overlap is None else clip.overlap[np.ix_(kept, kept)]
    jpegs = [members[f"{number:02d}.jpg"] for number in kept]
    written = Clip(
        clip.key,
        clip.source,
        clip.licence,
        clip.subject,
        clip.size,
        crops,
        jpegs,
        masks,
        overlap,
        labels,
        clip.split,
        clip.track,
    )
    return encode(written)


def list_labels(fitted: Fitted, body: BodyModel) -> dict[str, np.ndarray]:
    """Return {name: (T, ...)} of the T instants, as training reads them of a clip that is written.

    Args:
        body: the full body model.
    """
    found, joints, _ = _pose(fitted.parameters, fitted.stretch.kind, body)
    count = len(joints)
    seen = np.full((count, joints.shape[1]), SEEN, np.uint8)
    shares = np.ones(count, np.float32)
    side = fitted.stretch.kind
    labels = _label(found, joints.numpy(), np.arange(count), seen, shares, body, side)
    choice = body.label_choice
    kind = find_label_kind(choice.model)
    read = kind.read(save_arrays(labels), count, choice.variant)
    return {
        name: read[name] if name in kind.per_instant else np.stack([read[name]] * count)
        for name in kind.shapes
    }


@torch.no_grad()
def _pose(
    found: BodyParameters, side: str, body: BodyModel
) -> tuple[BodyParameters, torch.Tensor, torch.Tensor]:
    """(bodies as labels have them, their joints, their vertices).

    Args:
        found: as a Fitted has them.  side: the kind of the crop.
    """
    vertices, joints = body(found.pose, found.translation, found.shape)
    if body.name == ANNY_HAND:
        return _join_whole(found, vertices, body, side)
    if body.kind == "hand" and side == LEFT:
        flip = torch.ones(len(found.pose), dtype=torch.bool)
        return body.mirror_parameters(found, flip), mirrored(joints), mirrored(vertices)
    return found, joints, vertices


def _label(
    found: BodyParameters,
    joints: np.ndarray,
    instant: np.ndarray,
    seen: np.ndarray,
    visible: np.ndarray,
    body: BodyModel,
    side: str,
) -> dict[str, np.ndarray]:
    if body.name in (ANNY, ANNY_HAND):
        return _label_anny(found, joints, instant, seen, visible, body.whole)
    variant = body.variant if body.kind == "body" else side.removesuffix("_hand")
    return _label_family(found, joints, instant, seen, visible, FAMILY[body.name], variant)


def _pick(found: BodyParameters, rows: list[int]) -> BodyParameters:
    chosen = torch.tensor(rows)
    return BodyParameters(
        found.body, found.pose[chosen], found.shape[chosen], found.translation[chosen]
    )


def _join_whole(
    hand: BodyParameters, vertices: torch.Tensor, body: BodyModel, side: str
) -> tuple[BodyParameters, torch.Tensor, torch.Tensor]:
    """(a whole body at rest with that hand, its joints, the hand's vertices), out of the mirror.

    Labels of a hand are those of a whole body, of which a network of hands reads the wrist's
    rotation and place and the fingers.

    Args:
        vertices: (T, V, 3) of the right hand that was fitted.
    """
    flip = torch.full((len(hand.pose),), side == LEFT)
    own = body.mirror_parameters(hand, flip)
    wrist, *fingers = LAYOUT.index_part(side)
    pose = torch.eye(3).repeat(len(own.pose), len(body.whole.joint_names), 1, 1)
    pose[:, 0] = own.pose[:, 0] @ own.pose[:, 1]
    pose[:, fingers] = own.pose[:, 2:]
    _, joints = body.whole(pose, torch.zeros(len(pose), 3), own.shape)
    place = own.translation - joints[:, wrist]
    whole = BodyParameters(body.whole.name, pose, own.shape, place)
    return whole, joints + place[:, None], mirrored(vertices) if side == LEFT else vertices


def _find_inside(
    points: np.ndarray, instant: np.ndarray, shown: list[Shown], size: int
) -> np.ndarray:
    """(N, J) uint8 SEEN where a crop shows the place: what hides it, nobody knows."""
    out = np.full((len(shown), points.shape[1]), OUTSIDE, np.uint8)
    for number, (row, one) in enumerate(zip(instant, shown, strict=True)):
        pixels, depth = project(points[row], one.view.K, one.view.Rt)
        inside = (depth > 0) & ((pixels >= 0) & (pixels < size)).all(1)
        out[number, inside] = SEEN
    return out


def _share_inside(
    vertices: np.ndarray, instant: np.ndarray, shown: list[Shown], size: int
) -> np.ndarray:
    """(N,) share of the vertices that lie in each crop; half of them look to the camera."""
    inside = _find_inside(vertices, instant, shown, size) == SEEN
    return (inside.mean(1) / 2).astype(np.float32)


def _label_anny(
    found: BodyParameters,
    joints: np.ndarray,
    instant: np.ndarray,
    seen: np.ndarray,
    visible: np.ndarray,
    body: BodyModel,
) -> dict[str, np.ndarray]:
    """The arrays that labels of synthetic humans have (data/people/labels.py)."""
    return {
        "body_model": np.array(ANNY),
        "pose": matrix_to_axis_angle(found.pose).numpy(),
        "root": found.translation.numpy(),
        "phenotype": found.shape[0].numpy(),
        "face": np.zeros(len(body.expression_names), np.float32),
        "joints": joints,
        "instant": instant.astype(np.uint32),
        "joint_visible": seen,
        "visible": visible,
    }


def _label_family(
    found: BodyParameters,
    joints: np.ndarray,
    instant: np.ndarray,
    seen: np.ndarray,
    visible: np.ndarray,
    spec: FamilySpec,
    variant: str,
) -> dict[str, np.ndarray]:
    """Labels of format 2, as readers of SMPL's family want them.

    Args:
        variant: of the body model; of a hand its side.
    """
    parameters = {
        "pose": matrix_to_axis_angle(found.pose).numpy(),
        "betas": found.shape[0].numpy(),
        "translation": found.translation.numpy(),
    }
    known = np.ones(joints.shape[:2], np.float32)
    labels = Labels(
        instant,
        joints=Joints(spec.joint_set, joints, known, seen),
        body=LabelledBody(spec.name, variant, parameters),
        visible=visible,
    )
    return pack_labels(labels)

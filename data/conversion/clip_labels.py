"""Labels of one clip, read as bodies of one model and written as those of another.

Labels are those of anny (format 1, as ``data make`` writes them) or of SMPL, SMPL-H, SMPL-X and
MANO (format 2, by any of the names that readers use). A left hand goes by way of the mirror.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.anny_layout import ANNY as LAYOUT
from data.bodies.base import BodyModel, BodyParameters
from data.bodies.smpl_layout import FAMILY
from data.conversion.convert import Converted, Converter
from data.format.clip import Clip
from data.format.label_files import load_arrays
from data.format.labels import BodyParameters as LabelledBody
from data.format.labels import Joints, Keypoints, Labels, pack_labels, read_arrays
from data.loading.crop_labels import ANNY, find_label_kind
from data.loading.reader import BadSample, NoPair
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

ANNY_HAND = "anny_hand"
TARGETS = (ANNY, ANNY_HAND, *FAMILY)  # models that labels are written of
ACTIONS = 52  # of anny's face, which is at rest in what is written


@dataclass(eq=False)
class Given:
    """What the labels of a clip say.

    Attributes:
        parameters: of the source at the clip's T instants, left hands as the right ones in a
            mirror.
        known: (T,) bool, which instants are labelled.
        side: "left" or "right" of a hand's, else "body".
        instant: (N,) int64 of the crops.
        joint_visible: (N, J) uint8 of the source's joints.
        visible: (N,) share of the surface that each crop shows.
        keypoints: of the crops, or None.
    """

    parameters: BodyParameters
    known: torch.Tensor
    side: str
    instant: np.ndarray
    joint_visible: np.ndarray
    visible: np.ndarray
    keypoints: Keypoints | None

    @property
    def flip(self) -> torch.Tensor:
        """(T,) bool, whether it is of a left hand."""
        return torch.full_like(self.known, self.side == "left")


def name_body(data: bytes, where: str) -> tuple[str, str]:
    """Returns the body model and variant that labels.npz of a clip is of; "" where none.

    Raises:
        UserError: the bytes are no labels.
    """
    try:
        arrays = load_arrays(data)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    names = (arrays.get(name, np.array("")) for name in ("body_model", "body_variant"))
    model, variant = (str(name.ravel()[0]) if name.size == 1 else "" for name in names)
    return model, variant


def read_given(data: bytes, clip: Clip, source: BodyModel, where: str) -> Given | None:
    """Returns what labels.npz of a clip says; None where nobody knows where the person stands.

    Args:
        source: the full body model that the labels are of, or anny's hand.
    Raises:
        UserError: the labels do not fit, or the clip shows both hands.
    """
    kinds = sorted({crop.kind for crop in clip.crops})
    if len(kinds) > 1:
        raise UserError(f"{where} shows {' and '.join(kinds)}: one of them is converted")
    side, count = kinds[0].partition("_")[0], len(clip.crops)
    kind = find_label_kind(source.label_model)
    try:
        arrays = kind.read(data, count, "")
        keypoints = read_arrays(load_arrays(data), count).keypoints
    except NoPair:
        return None
    except (BadSample, ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from None
    times, instant = len(arrays["pose"]), np.asarray(arrays["instant"], np.int64)
    labels = {
        name: torch.from_numpy(np.asarray(arrays[name], np.float32)).expand(times, *shape)
        for name, shape in kind.shapes.items()
    }
    labels["pose"] = axis_angle_to_matrix(labels["pose"])
    known = torch.ones(times, dtype=torch.bool)
    if "known" in arrays:
        known[torch.from_numpy(instant)] = torch.from_numpy(arrays["known"])
    flip = torch.full((times,), side == "left")
    found = source.mirror_parameters(source.read_labels(labels, flip), flip)
    seen = np.asarray(arrays["joint_visible"], np.uint8)
    return Given(
        found,
        known,
        side,
        instant,
        seen[:, _list_rows(source, side)] if source.label_model == ANNY else seen,
        np.asarray(arrays["visible"], np.float32),
        keypoints,
    )


def pack_clip(given: Given, found: Converted, converter: Converter) -> dict[str, np.ndarray]:
    """Returns the arrays of labels.npz for a converter's target, ``error_mm`` (T, 3) among them.

    Args:
        found: at all instants; what is not ``reached`` is marked as not labelled.
    """
    seen = given.joint_visible[:, converter.nearest_joints.numpy()]
    own = BodyParameters(
        converter.target.name,
        found.parameters.pose,
        found.parameters.shape,
        found.parameters.translation,
    )
    pack = _pack_family if converter.target.name in FAMILY else _pack_anny
    arrays = pack(given, own, found.reached.numpy(), seen, converter.target)
    # 0 where nothing was converted: what is read as numbers has no NaN.
    error = torch.where(found.reached[:, None], found.error_mm, 0)
    return arrays | {"error_mm": error.numpy().astype(np.float32)}


def _pack_family(
    given: Given, found: BodyParameters, known: np.ndarray, seen: np.ndarray, target: BodyModel
) -> dict[str, np.ndarray]:
    """Labels of format 2, as readers of SMPL's family want them."""
    spec = FAMILY[target.name]
    _, joints = target(found.pose, found.translation, found.shape)
    points = joints.numpy() * np.array([-1.0 if given.side == "left" else 1.0, 1, 1], np.float32)
    variant = given.side if target.kind == "hand" else target.variant
    own = target.mirror_parameters(found, given.flip)
    parameters = {
        "pose": matrix_to_axis_angle(own.pose).numpy(),
        "betas": own.shape.numpy(),
        "translation": own.translation.numpy(),
    }
    confidence = np.repeat(known[:, None].astype(np.float32), points.shape[1], 1)
    labels = Labels(
        given.instant,
        keypoints=given.keypoints,
        joints=Joints(spec.joint_set, points, confidence, seen),
        body=LabelledBody(target.name, variant, parameters, dict.fromkeys(parameters, known)),
        visible=given.visible,
    )
    return pack_labels(labels)


def _pack_anny(
    given: Given, found: BodyParameters, known: np.ndarray, seen: np.ndarray, target: BodyModel
) -> dict[str, np.ndarray]:
    """Labels of format 1; a hand is one of a whole body that else is at rest."""
    whole = target.whole
    own = target.mirror_parameters(found, given.flip)
    if whole is not target:
        own = _complete(own, given.side, whole)
        rows = _list_rows(target, given.side)
        every = np.zeros((len(seen), len(whole.joint_names)), np.uint8)
        every[:, rows[1:]] = seen[:, 1:]
        seen = every
    _, joints = whole(own.pose, own.translation, own.shape)
    arrays = {
        "body_model": np.array(ANNY),
        "instant": given.instant.astype(np.uint32),
        "pose": matrix_to_axis_angle(own.pose).numpy(),
        "pose_known": known.astype(np.uint8),
        "root": own.translation.numpy(),
        "phenotype": own.shape[0].numpy(),
        "face": np.zeros(ACTIONS, np.float32),
        "joints": joints.numpy(),
        "joint_confidence": np.repeat(known[:, None].astype(np.float32), joints.shape[1], 1),
        "joint_visible": seen,
        "visible": given.visible,
    }
    if given.keypoints is not None:
        arrays |= pack_labels(Labels(given.instant, keypoints=given.keypoints))
    return arrays


def _complete(hand: BodyParameters, side: str, whole: BodyModel) -> BodyParameters:
    """The whole body at rest that has a hand's rotations and its wrist where the hand is."""
    places = torch.tensor(LAYOUT.index_part(f"{side}_hand"))
    count = len(hand.pose)
    pose = torch.eye(3).repeat(count, len(whole.joint_names), 1, 1)
    # The hand's own wrist turns at its root: both are one rotation of the whole.
    pose[:, 0] = hand.pose[:, 0] @ hand.pose[:, 1]
    pose[:, places[1:]] = hand.pose[:, 2:]
    _, joints = whole(pose, torch.zeros(count, 3), hand.shape)
    return BodyParameters(whole.name, pose, hand.shape, hand.translation - joints[:, places[0]])


def _list_rows(source: BodyModel, side: str) -> np.ndarray:
    """Where a source's joints stand among the whole body's; a hand's root is at the wrist."""
    whole = source.whole.joint_names
    if source.whole is source:
        return np.arange(len(whole))
    wrist, *fingers = LAYOUT.index_part(f"{side}_hand")
    return np.array([wrist, wrist, *fingers])

"""Labels of a clip as the arrays that crops are learnt from, by the body model that they are of.

    labels = find_label_kind("smpl").read(data, count, "neutral")
    labels["pose"][labels["instant"][crop]]         # (24, 3) rotation vectors

Each kind of labels says which arrays a batch has of it (``shapes``) and reads a clip's. All have
``pose``, ``root``, ``shape``, ``face`` and ``joints``; those of SMPL's family say besides what
only the model's own file can tell: ``root_is_transl``, ``fingers`` and ``finger_coding``
(data.bodies.smpl_model). Imports no torch: it runs in the loader's workers.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from data.bodies.smpl_layout import BODY_JOINTS, FAMILY, FINGER_JOINTS, FamilySpec
from data.format.joint_sets import JOINT_SETS, match_joint_sets
from data.format.label_files import load_arrays
from data.format.labels import SEEN, Joints, Labels, read_labels
from data.loading.reader import BadSample, NoPair
from engine.errors import UserError

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
ANNY = "anny"
MOST_BETAS = {"body": 300, "hand": 10}  # that a label may have
MOST_EXPRESSIONS = 100
SCALE_TOLERANCE = 1e-3
# How the fingers' pose is said; as in data.bodies.smpl_model, which needs torch.
GIVEN, FROM_MEAN, COMPONENTS = range(3)


class LabelKind(Protocol):
    """Labels of one body model.

    Attributes:
        shapes: {name: shape} of a crop's arrays.
        per_instant: names of those that have a row an instant in a clip; others are the person's.
    """

    shapes: Shapes
    per_instant: tuple[str, ...]

    def read(self, data: bytes, count: int, variant: str) -> Arrays:
        """Returns {name: array} of a clip of ``count`` crops, checked.

        Besides those of ``shapes``: ``body_model`` a text, ``instant`` (N,), ``joint_visible``
        (N, J), ``visible`` (N,) and, where some crops lack what is wanted, ``known`` (N,) bool.

        Args:
            variant: of the body model that learns from them, such as "neutral".
        Raises:
            NoPair: the clip is labelled otherwise.  BadSample: its labels do not fit.
        """


class AnnyLabels:
    """Labels of anny: format 1, whose arrays are those of a crop.

    Those that were converted from another model's may say where they hold, by ``pose_known``.
    """

    shapes: Shapes = {
        "pose": (104, 3),
        "root": (3,),
        "shape": (6,),
        "face": (52,),
        "joints": (104, 3),
    }
    per_instant: tuple[str, ...] = ("pose", "root", "joints")
    wanted: tuple[str, ...] = (
        "body_model",
        "pose",
        "root",
        "phenotype",
        "face",
        "joints",
        "instant",
        "joint_visible",
        "visible",
    )

    def read(self, data: bytes, count: int, variant: str) -> Arrays:
        """Returns the arrays as they are; see LabelKind."""
        try:
            labels = load_arrays(data, self.wanted, ["pose_known"])
        except KeyError as error:
            if "body_model" not in load_arrays(data):
                raise NoPair from None  # labelled otherwise, as by keypoints alone
            raise BadSample(f"labels.npz: {error}") from None
        except ValueError as error:
            raise BadSample(f"labels.npz: {error}") from None
        model = str(labels["body_model"].ravel()[0]) if labels["body_model"].size == 1 else ""
        if model != ANNY:
            raise BadSample(f"labels are of body model '{model}', not of {ANNY}")
        self._check(labels, count)
        labels["shape"] = labels.pop("phenotype")
        if "pose_known" in labels:
            known, times = labels.pop("pose_known"), len(labels["pose"])
            if known.shape != (times,):
                raise BadSample(f"labels.npz: pose_known is {known.shape}, not ({times},)")
            labels["known"] = known[labels["instant"]].astype(bool)
        return labels

    def _check(self, labels: Mapping[str, np.ndarray], count: int) -> None:
        """Raise BadSample for arrays that do not fit each other or the clip's crops."""
        times = len(np.atleast_1d(labels["pose"]))
        wanted = {
            "phenotype" if name == "shape" else name: (
                (times, *shape) if name in self.per_instant else shape
            )
            for name, shape in self.shapes.items()
        }
        wanted |= {
            "instant": (count,),
            "joint_visible": (count, *self.shapes["joints"][:1]),
            "visible": (count,),
        }
        for name, shape in wanted.items():
            array = labels[name]
            kinds = "iu" if name == "instant" else "fiu"
            if array.shape != shape or array.dtype.kind not in kinds:
                raise BadSample(
                    f"labels.npz: {name} is {array.shape} of {array.dtype}, not numbers of shape "
                    f"{shape}"
                )
            if not (np.abs(array) < np.finfo(np.float32).max).all():  # false for NaN too
                raise BadSample(f"labels.npz: {name} holds numbers that are not finite")
        instant = labels["instant"]
        if instant.min() < 0 or instant.max() >= times:
            raise BadSample(f"labels.npz: instants {instant.min()} to {instant.max()} of {times}")


class FamilyLabels:
    """Labels of SMPL, SMPL-H, SMPL-X or MANO: format 2, by any of the names that readers use.

    A crop is known where its pose, betas and place are. Labels of another variant are passed over,
    for betas mean another shape there; a variant that is not named is any.
    """

    def __init__(self, spec: FamilySpec) -> None:
        self.spec = spec
        joints = len(spec.parents)
        self.shapes: Shapes = {
            "pose": (joints, 3),
            "root": (3,),
            "root_is_transl": (),
            "shape": (MOST_BETAS[spec.kind],),
            "face": (MOST_EXPRESSIONS if spec.name == "smplx" else 1,),
            "joints": (joints, 3),
        }
        if spec.name != "smpl":
            self.shapes["finger_coding"] = ()
        if spec.kind == "hand":
            self.shapes["fingers"] = (FINGER_JOINTS, 3)
        self.per_instant = tuple(self.shapes)

    def read(self, data: bytes, count: int, variant: str) -> Arrays:
        """Returns the labels as arrays of this kind; see LabelKind."""
        try:
            labels = read_labels(data, count)
        except (ValueError, UserError) as error:
            raise BadSample(f"labels.npz: {error}") from None
        body, spec = labels.body, self.spec
        if body is None or labels.frame == "root":
            raise NoPair  # labelled otherwise, or nobody knows where the person stands
        if body.model != spec.name:
            raise BadSample(f"labels are of body model '{body.model}', not of {spec.name}")
        if spec.kind == "body" and variant and body.variant not in ("", variant):
            raise NoPair
        times = int(labels.instant.max()) + 1
        out: Arrays = {name: np.zeros((times, *s), np.float32) for name, s in self.shapes.items()}
        known = np.ones(times, bool)
        known &= self._put_pose(out, labels)
        known &= self._put_root(out, labels)
        known &= self._put_numbers(out["shape"], labels, "betas")
        self._put_numbers(out["face"], labels, "expression")
        self._refuse_scale(labels)
        visible = self._put_joints(out, labels)
        shares = np.ones(count, np.float32) if labels.visible is None else labels.visible
        return out | {
            "body_model": np.array(spec.name),
            "instant": labels.instant,
            "joint_visible": visible,
            "visible": shares,
            "known": known[labels.instant],
        }

    def _rows(
        self, labels: Labels, name: str, shape: tuple[int | None, ...]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """((T, *shape) values, (T,) bool whether known) of a parameter; None where it has none."""
        body = labels.body
        if body is None or name not in body.parameters:
            return None
        values, times = body.parameters[name], int(labels.instant.max()) + 1
        if values.ndim == 1:
            values = np.broadcast_to(values, (times, len(values)))
        fits = (
            len(values) >= times
            and values.ndim == len(shape) + 1
            and all(
                wanted in (None, length)
                for wanted, length in zip(shape, values.shape[1:], strict=True)
            )
        )
        if not fits:
            raise BadSample(f"labels.npz: {name} of {self.spec.name} is {values.shape[1:]}")
        known = body.known.get(name, np.ones(len(values), bool))
        return values[:times], known[:times]

    def _put_pose(self, out: Arrays, labels: Labels) -> np.ndarray:
        """Put rotations and say how the fingers' are to be read; (T,) where they are known."""
        pose = out["pose"]
        whole = self._rows(labels, "pose", (pose.shape[1], 3))
        if whole is not None:
            pose[:] = whole[0]
            return whole[1]
        if self.spec.kind == "hand":
            return self._put_hand(out, labels)
        body = self._rows(labels, "body_pose", (BODY_JOINTS, 3))
        if body is None or "finger_coding" not in out:
            return np.zeros(len(pose), bool)
        pose[:, :BODY_JOINTS] = body[0]
        out["finger_coding"][:] = FROM_MEAN
        return body[1]

    def _put_hand(self, out: Arrays, labels: Labels) -> np.ndarray:
        """Put a hand whose fingers are said by the file's mean or components."""
        root = self._rows(labels, "global_orient", (3,))
        numbers = 3 * FINGER_JOINTS
        from_mean = self._rows(labels, "hand_pose_from_mean", (FINGER_JOINTS, 3))
        components = self._rows(labels, "hand_pca", (None,))
        fingers = components if from_mean is None else from_mean
        if root is None or fingers is None:
            return np.zeros(len(out["pose"]), bool)
        out["pose"][:, 0] = root[0]
        values = fingers[0].reshape(len(fingers[0]), -1)
        if values.shape[1] > numbers:
            raise BadSample(f"labels.npz: hand_pca has {values.shape[1]} numbers, not {numbers}")
        out["fingers"].reshape(len(values), numbers)[:, : values.shape[1]] = values
        out["finger_coding"][:] = COMPONENTS if from_mean is None else FROM_MEAN
        return root[1] & fingers[1]

    def _put_root(self, out: Arrays, labels: Labels) -> np.ndarray:
        """Put where joint 0 is, or the family's own translation; (T,) where either is known."""
        place, own = self._rows(labels, "translation", (3,)), self._rows(labels, "transl", (3,))
        known = np.zeros(len(out["root"]), bool)
        for found, is_transl in ((own, 1), (place, 0)):
            if found is not None:
                values, there = found
                out["root"][there], out["root_is_transl"][there] = values[there], is_transl
                known |= there
        return known

    def _put_numbers(self, out: np.ndarray, labels: Labels, name: str) -> np.ndarray:
        """Put as many numbers as there are; (T,) where they are known."""
        found = self._rows(labels, name, (None,))
        if found is None:
            return np.zeros(len(out), bool)
        values, known = found
        if values.shape[1] > out.shape[1]:
            raise BadSample(
                f"labels.npz: {name} has {values.shape[1]} numbers, {self.spec.title} at most "
                f"{out.shape[1]}"
            )
        out[:, : values.shape[1]] = np.where(known[:, None], values, 0)
        return known

    def _refuse_scale(self, labels: Labels) -> None:
        """A body that its data set scales, as AIST++ does, is no body of this model."""
        found = self._rows(labels, "scale", (1,))
        if found is not None and np.abs(found[0] - 1).max() > SCALE_TOLERANCE:
            raise BadSample(
                f"labels.npz: scale is {found[0].flat[0]:.3f}; a scaled {self.spec.title} is not "
                "read (counterpose bodies convert fits one that is not)"
            )

    def _put_joints(self, out: Arrays, labels: Labels) -> np.ndarray:
        """Put the joints that the labels have by name; (N, J) uint8 which are seen."""
        visible = np.zeros((len(labels), self.shapes["joints"][0]), np.uint8)
        joints = labels.joints
        if joints is None or joints.joint_set not in JOINT_SETS or joints.visible is None:
            return visible
        places = match_joint_sets(joints.joint_set, self.spec.joint_set)
        there = np.flatnonzero(places >= 0)
        out["joints"][:, there] = joints.points[: len(out["joints"]), places[there]]
        is_seen = _list_seen(joints, labels.instant)[:, places[there]]
        visible[:, there] = np.where(is_seen, SEEN, 0)
        return visible


def _list_seen(joints: Joints, instant: np.ndarray) -> np.ndarray:
    """(N, J) bool: labelled, and seen in the crop."""
    if joints.visible is None:
        return np.zeros((len(instant), joints.points.shape[1]), bool)
    return (joints.visible == SEEN) & (joints.confidence[instant] > 0)


_KINDS: dict[str, LabelKind] = {ANNY: AnnyLabels()}
_KINDS |= {name: FamilyLabels(spec) for name, spec in FAMILY.items()}


def find_label_kind(model: str) -> LabelKind:
    """Returns how labels of a body model are read.

    Raises:
        UserError: nobody knows.
    """
    if model not in _KINDS:
        raise UserError(f"labels of body model '{model}' are not read: {', '.join(_KINDS)} are")
    return _KINDS[model]

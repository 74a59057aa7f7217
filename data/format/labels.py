"""The one schema of labels, whoever made them: ``KEY.labels.npz`` of a clip.

For N crops and T instants; every part may be absent, and what is absent is left out of the losses.

    instant             (N,) whole numbers: which row of the arrays per instant each crop shows;
                        absent: each crop is an instant of its own, T = N
    keypoint_set        text, a name of data.format.joint_sets
    keypoints           (N, K, 2) pixels of the crop, whose first pixel's centre is at (0.5, 0.5)
    keypoint_confidence (N, K) 0 to 1, 0: not labelled; absent: 1
    keypoint_visible    (N, K) 0 outside the crop, 1 inside but hidden, 2 seen
    joint_set           text; absent: the body model's own joints
    joints              (T, J, 3) metres
    joint_confidence    (T, J) 0 to 1, 0: not labelled; absent: 1
    joint_visible       (N, J), as keypoint_visible
    body_model          text, such as "anny", "smplx" or "mano"
    body_variant        text, such as "neutral", "female" or "left"; absent: the model has one. Of
                        whole frames also (T,) texts, each person's own
    parameters          (P,) text: the arrays below that the body model takes. Absent: PARAMETERS
                        of the model, which labels of format 1 have
    NAME of parameters  (T, ...), or with one dimension the person's, the same at all instants.
                        Rotations are rotation vectors relative to the parent, with no mean pose
                        left to be added
    vertices            (T, V, 3) metres
    vertex_visible      (N, ceil(V / 8)) a bit a vertex, high bit first: seen in the crop
    NAME_known          (T,) 0 or 1, of a parameter or of vertices: 0 where the row is not labelled
    visible             (N,) share of the surface that the crop shows, 0 to 1
    annotation          (N,) number, annotation_box (N, 4) and annotation_area (N,), see Annotation
    frame               text. "world": the clip's world, whose cameras are the crops' Rt.
                        "root": joints, vertices and translation are in the camera's axes, but
                        nobody knows where the person stands; only differences mean something.
                        Absent: "world"

Arrays of other names do no harm and are passed over. Labels of format 1 (those of synthetic humans)
are such arrays already: pose, root, phenotype and face of anny, and its joints.

Imports neither torch nor webdataset: it runs in the loader's workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data.format.annotation import Annotation
from data.format.label_files import load_arrays

OUTSIDE, HIDDEN, SEEN = range(3)  # of keypoint_visible and joint_visible
FRAMES = ("world", "root")
# What a body model takes where "parameters" does not say: all labels of format 1 are of this one.
PARAMETERS = {"anny": ("pose", "root", "phenotype", "face")}
RESERVED = frozenset(
    {
        "instant",
        "keypoint_set",
        "keypoints",
        "keypoint_confidence",
        "keypoint_visible",
        "joint_set",
        "joints",
        "joint_confidence",
        "joint_visible",
        "body_model",
        "body_variant",
        "parameters",
        "vertices",
        "vertex_visible",
        "visible",
        "annotation",
        "annotation_box",
        "annotation_area",
        "frame",
    }
)


@dataclass
class Keypoints:
    """Keypoints of N crops.

    Attributes:
        joint_set: a name of data.format.joint_sets.
        points: (N, K, 2) float32 pixels of the crop.
        confidence: (N, K) float32, 0 where a point is not labelled.
        visible: (N, K) uint8 OUTSIDE, HIDDEN or SEEN, or None where nobody knows.
    """

    joint_set: str
    points: np.ndarray
    confidence: np.ndarray
    visible: np.ndarray | None = None


@dataclass
class Joints:
    """Joints at T instants.

    Attributes:
        joint_set: a name of data.format.joint_sets, or of a body model whose own joints they are.
        points: (T, J, 3) float32 metres, in Labels.frame.
        confidence: (T, J) float32, 0 where a joint is not labelled.
        visible: (N, J) uint8 of each crop, OUTSIDE, HIDDEN or SEEN, or None where nobody knows.
    """

    joint_set: str
    points: np.ndarray
    confidence: np.ndarray
    visible: np.ndarray | None = None


@dataclass
class BodyParameters:
    """What a body model was posed with.

    Attributes:
        model: its name.  variant: which of its kinds, or "".
        variants: (T,) of each row where they differ, as the people of a frame do; else empty.
        parameters: {name: (T, ...) float32, or (S,) float32 for all instants}.
        known: {name: (T,) bool}; a name that is not there is known at all instants.
        of_person: names of those that are the person's, the same at all instants. In the labels of
            a clip their arrays have one dimension; in those of one crop only this tells.
    """

    model: str
    variant: str = ""
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    of_person: frozenset[str] = frozenset()
    variants: tuple[str, ...] = ()


@dataclass
class Labels:
    """All that is known of a clip's person; each part may be None. See the module.

    Attributes:
        instant: (N,) int64, the row of arrays per instant that each crop shows.
        vertices: (T, V, 3) float32 metres.  vertices_known: (T,) bool, or None: all.
        vertex_visible: (N, V) bool.
        visible: (N,) float32, share of the surface that each crop shows.
        annotation: of each crop, or None where nobody knows.
        frame: "world" or "root".
    """

    instant: np.ndarray
    keypoints: Keypoints | None = None
    joints: Joints | None = None
    body: BodyParameters | None = None
    vertices: np.ndarray | None = None
    vertices_known: np.ndarray | None = None
    vertex_visible: np.ndarray | None = None
    visible: np.ndarray | None = None
    frame: str = "world"
    annotation: Annotation | None = None

    def __len__(self) -> int:
        """The number of crops."""
        return len(self.instant)

    def at(self, crop: int) -> "CropLabels":
        """What is known of one crop; parts that are not labelled there are None."""
        row = int(self.instant[crop])
        out = CropLabels(frame=self.frame)
        points = self.keypoints
        if points is not None and points.confidence[crop].any():
            out.keypoints = Keypoints(
                points.joint_set,
                points.points[crop],
                points.confidence[crop],
                None if points.visible is None else points.visible[crop],
            )
        joints = self.joints
        if joints is not None and joints.confidence[row].any():
            out.joints = Joints(
                joints.joint_set,
                joints.points[row],
                joints.confidence[row],
                None if joints.visible is None else joints.visible[crop],
            )
        if self.body is not None:
            out.body = _body_at(self.body, row)
        if self.vertices is not None and _is_known(self.vertices_known, row):
            out.vertices = self.vertices[row]
        if self.vertex_visible is not None:
            out.vertex_visible = self.vertex_visible[crop]
        if self.visible is not None:
            out.visible = float(self.visible[crop])
        if self.annotation is not None:
            out.annotation = self.annotation.at(crop)
        return out

    def present(self, crop: int) -> dict[str, bool]:
        """Return {part: whether it is labelled in a crop}.

        Keypoints, joints, vertices, visible, and each parameter of the body model by its name.
        """
        return self.at(crop).present()


@dataclass
class CropLabels:
    """What is known of one crop: as Labels, without the first dimension."""

    keypoints: Keypoints | None = None
    joints: Joints | None = None
    body: BodyParameters | None = None
    vertices: np.ndarray | None = None
    vertex_visible: np.ndarray | None = None
    visible: float | None = None
    frame: str = "world"
    annotation: Annotation | None = None

    def present(self) -> dict[str, bool]:
        """{part: whether it is labelled}; see Labels.present."""
        out = {
            "keypoints": self.keypoints is not None,
            "joints": self.joints is not None,
            "vertices": self.vertices is not None,
            "visible": self.visible is not None,
        }
        if self.body is not None:
            for name in self.body.parameters:
                out[name] = _is_known(self.body.known.get(name), 0)
        return out


def _body_at(body: BodyParameters, row: int) -> BodyParameters:
    """The parameters of one instant; ``known`` has one entry for each, (1,) bool."""
    values, known = {}, {}
    for name, array in body.parameters.items():
        values[name] = array if array.ndim == 1 else array[row]
        known[name] = np.array([_is_known(body.known.get(name), row)])
    of_person = frozenset(name for name, array in body.parameters.items() if array.ndim == 1)
    variant = body.variants[row] if body.variants else body.variant
    return BodyParameters(body.model, variant, values, known, of_person)


def _is_known(known: np.ndarray | None, row: int) -> bool:
    return known is None or bool(known[row])


def pack_labels(labels: Labels) -> dict[str, np.ndarray]:
    """{name: array} of labels as the module describes them, for an npz.

    Raises:
        ValueError: arrays that do not fit each other; see ``read_arrays``.
    """
    out: dict[str, np.ndarray] = {"instant": np.asarray(labels.instant, np.uint32)}
    if labels.keypoints is not None:
        _pack_points(out, "keypoint", labels.keypoints)
    if labels.joints is not None:
        _pack_points(out, "joint", labels.joints)
    if labels.body is not None:
        _pack_body(out, labels.body)
    if labels.vertices is not None:
        out["vertices"] = np.asarray(labels.vertices, np.float32)
        if labels.vertices_known is not None:
            out["vertices_known"] = np.asarray(labels.vertices_known, np.uint8)
    if labels.vertex_visible is not None:
        out["vertex_visible"] = np.packbits(np.asarray(labels.vertex_visible, bool), axis=1)
    if labels.visible is not None:
        out["visible"] = np.asarray(labels.visible, np.float32)
    if labels.annotation is not None:
        out |= labels.annotation.pack()
    if labels.frame != "world":
        out["frame"] = np.array(labels.frame)
    read_arrays(out, len(labels.instant))
    return out


def _pack_points(out: dict[str, np.ndarray], name: str, points: Keypoints | Joints) -> None:
    out[f"{name}_set"] = np.array(points.joint_set)
    out[f"{name}s"] = np.asarray(points.points, np.float32)
    out[f"{name}_confidence"] = np.asarray(points.confidence, np.float32)
    if points.visible is not None:
        out[f"{name}_visible"] = np.asarray(points.visible, np.uint8)


def _pack_body(out: dict[str, np.ndarray], body: BodyParameters) -> None:
    out["body_model"] = np.array(body.model)
    if body.variants or body.variant:
        out["body_variant"] = np.array(body.variants or body.variant)
    names = sorted(body.parameters)
    taken = RESERVED.intersection(names)
    if taken:
        raise ValueError(f"a parameter of {body.model} is called {min(taken)}, which is taken")
    out["parameters"] = np.array(names, np.str_)
    for name in names:
        out[name] = np.asarray(body.parameters[name], np.float32)
    for name, known in body.known.items():
        out[f"{name}_known"] = np.asarray(known, np.uint8)


def read_labels(data: bytes, count: int) -> Labels:
    """The Labels in a ``KEY.labels.npz`` member of a clip of ``count`` crops, of format 1 or 2.

    Raises:
        ValueError: it is not such an archive, or its arrays do not fit each other.
    """
    return read_arrays(load_arrays(data), count)


def read_arrays(arrays: Mapping[str, np.ndarray], count: int) -> Labels:
    """The Labels in arrays named as the module describes, checked.

    Raises:
        ValueError: an array is of another shape or type, holds NaN or Inf, or names something that
            is not there.
    """
    check = _Checker(arrays, count)
    labels = Labels(check.instant, frame=check.text("frame", "world"))
    if labels.frame not in FRAMES:
        raise ValueError(f"frame is '{labels.frame}', none of {', '.join(FRAMES)}")
    model = check.text("body_model")
    if "keypoints" in arrays:
        labels.keypoints = Keypoints(*check.points("keypoint", count, 2, ""))
    if "joints" in arrays:
        labels.joints = Joints(*check.points("joint", check.times, 3, model))
    if model:
        labels.body = check.body(model)
    if "vertices" in arrays:
        labels.vertices = check.numbers("vertices", (check.times, None, 3))
        labels.vertices_known = check.known("vertices")
    if "vertex_visible" in arrays:
        bits = check.numbers("vertex_visible", (count, None), "u")
        length = 8 * bits.shape[1] if labels.vertices is None else labels.vertices.shape[1]
        labels.vertex_visible = np.unpackbits(bits, axis=1)[:, :length].astype(bool)
    if "visible" in arrays:
        labels.visible = check.numbers("visible", (count,))
    if "annotation" in arrays:
        labels.annotation = Annotation(
            check.numbers("annotation", (count,), "iu").astype(np.int64),
            check.optional("annotation_box", (count, 4)),
            check.optional("annotation_area", (count,)),
        )
    return labels


class _Checker:
    """Takes arrays out of a mapping and says which one does not fit.

    Attributes:
        instant: (N,) int64.  times: T.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        self.arrays, self.count = arrays, count
        self.times = self._count_instants()
        if "instant" in arrays:
            self.instant = self.numbers("instant", (count,), "iu").astype(np.int64)
        else:
            self.instant = np.arange(count)
        low, high = int(self.instant.min()), int(self.instant.max())
        if low < 0 or high >= self.times:
            raise ValueError(f"instants {low} to {high} of {self.times}")

    def _count_instants(self) -> int:
        """T: the rows of the first array that has a row an instant."""
        for name in ("joints", "vertices"):
            if name in self.arrays:
                return len(np.atleast_1d(self.arrays[name]))
        for name in self._parameter_names():
            if name in self.arrays and np.ndim(self.arrays[name]) > 1:
                return len(self.arrays[name])
        if "instant" in self.arrays and np.size(self.arrays["instant"]):
            return int(np.max(self.arrays["instant"])) + 1
        return self.count

    def _parameter_names(self) -> list[str]:
        if "parameters" in self.arrays:
            return [str(name) for name in np.atleast_1d(self.arrays["parameters"])]
        return list(PARAMETERS.get(self.text("body_model"), ()))

    def text(self, name: str, default: str = "") -> str:
        """A text of the arrays, ``default`` where it is absent."""
        if name not in self.arrays:
            return default
        array = self.arrays[name]
        if array.size != 1 or array.dtype.kind != "U":
            raise ValueError(f"{name} is {array.shape} of {array.dtype}, not one text")
        return str(array.ravel()[0])

    def texts(self, name: str) -> tuple[str, ...]:
        """(T,) texts of the arrays, one a row; empty where there is one text, or none."""
        array = self.arrays.get(name)
        if array is None or np.size(array) == 1:
            return ()
        if array.shape != (self.times,) or array.dtype.kind != "U":
            raise ValueError(
                f"{name} is {array.shape} of {array.dtype}, not a text, or {self.times}"
            )
        return tuple(map(str, array))

    def numbers(self, name: str, shape: tuple[int | None, ...], kinds: str = "fiu") -> np.ndarray:
        """Return an array of finite numbers of that shape (None: any length).

        It is float32 unless ``kinds`` has no "f".
        """
        array = self.arrays[name]
        fits = array.ndim == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.kind not in kinds:
            words = ", ".join("n" if length is None else str(length) for length in shape)
            raise ValueError(
                f"{name} is {array.shape} of {array.dtype}, not numbers of shape ({words})"
            )
        if "f" not in kinds:
            return array
        if not (np.abs(array) < np.finfo(np.float32).max).all():  # false for NaN too
            raise ValueError(f"{name} holds numbers that are not finite")
        return array.astype(np.float32, copy=False)

    def optional(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray | None:
        """``numbers``, or None where there is no such array."""
        return self.numbers(name, shape) if name in self.arrays else None

    def points(
        self, name: str, rows: int, width: int, default: str
    ) -> tuple[str, np.ndarray, np.ndarray, np.ndarray | None]:
        """(set, points, confidence, visible) of keypoints or joints."""
        which = self.text(f"{name}_set", default)
        if not which:
            raise ValueError(f"{name}s are there, but no {name}_set says which they are")
        points = self.numbers(f"{name}s", (rows, None, width))
        joints = points.shape[1]
        confidence = np.ones((rows, joints), np.float32)
        if f"{name}_confidence" in self.arrays:
            confidence = self.numbers(f"{name}_confidence", (rows, joints))
            if not (confidence.min(initial=0) >= 0 and confidence.max(initial=0) <= 1):
                raise ValueError(f"{name}_confidence is not in 0 to 1")
        visible = None
        if f"{name}_visible" in self.arrays:
            visible = self.numbers(f"{name}_visible", (self.count, joints), "iu")
            if visible.size and not (visible.min() >= OUTSIDE and visible.max() <= SEEN):
                raise ValueError(f"{name}_visible is none of {OUTSIDE}, {HIDDEN}, {SEEN}")
        return which, points, confidence, visible

    def body(self, model: str) -> BodyParameters:
        """The parameters of the body model."""
        body = BodyParameters(model)
        body.variants = self.texts("body_variant")
        if not body.variants:
            body.variant = self.text("body_variant")
        for name in self._parameter_names():
            if name not in self.arrays:
                raise ValueError(f"{name}, a parameter of {model}, is missing")
            array = self.arrays[name]
            if array.ndim == 0:
                raise ValueError(f"{name} is (), not numbers of one dimension or more")
            rows = array.shape if array.ndim == 1 else (self.times, *array.shape[1:])
            body.parameters[name] = self.numbers(name, rows)
            known = self.known(name)
            if known is not None:
                body.known[name] = known
        return body

    def known(self, name: str) -> np.ndarray | None:
        """(T,) bool of NAME_known, or None."""
        if f"{name}_known" not in self.arrays:
            return None
        return self.numbers(f"{name}_known", (self.times,), "iub").astype(bool)

"""Labels as rows of a batch: arrays of fixed shape, with a mask of what is present.

A reader says which joint sets and which body model it wants. What a clip has of it is put into the
row, by the joints' names where its sets are others; what it lacks is zero and not present, and a
loss leaves it out:

    layout = LabelLayout("coco17", "smpl24", "smpl", {"pose": (24, 3), "betas": (10,)})
    arrays = {name: np.zeros(*spec) for name, spec in layout.shapes(rows=8).items()}
    layout.fill(arrays, 0, read_labels(data, count).at(crop))
    arrays["present"][0, layout.column("keypoints")]      # 1 or 0
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from data.format.joint_sets import find_joint_set, match_joint_sets
from data.format.labels import CropLabels, Joints, Keypoints

Shapes = dict[str, tuple[tuple[int, ...], type]]


@dataclass
class LabelLayout:
    """Which labels a reader wants.

    Attributes:
        keypoint_set, joint_set: names of data.format.joint_sets, or None: not wanted.
        body_model: whose parameters are wanted, or None.  body_variant: only of this variant;
            None: of any.
        parameters: {name: shape at one instant} of those.
        vertices: how many the mesh has; 0: not wanted.
    """

    keypoint_set: str | None = None
    joint_set: str | None = None
    body_model: str | None = None
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    vertices: int = 0
    body_variant: str | None = None

    @cached_property
    def parts(self) -> list[str]:
        """The columns of "present"."""
        wanted = [
            ("keypoints", self.keypoint_set is not None),
            ("joints", self.joint_set is not None),
            ("vertices", self.vertices > 0),
        ]
        return [name for name, is_wanted in wanted if is_wanted] + list(self.parameters)

    def column(self, part: str) -> int:
        """Which column of "present" tells whether a part is labelled."""
        return self.parts.index(part)

    def shapes(self, rows: int) -> Shapes:
        """{name: (shape, dtype)} of the arrays of a batch.

        ``present`` (rows, parts) uint8; ``keypoints`` (rows, K, 3): x, y in pixels of the crop and
        confidence; ``joints`` (rows, J, 4): metres and confidence; ``vertices`` (rows, V, 3); each
        parameter by its name.
        """
        out: Shapes = {"present": ((rows, len(self.parts)), np.uint8)}
        if self.keypoint_set is not None:
            out["keypoints"] = (rows, len(find_joint_set(self.keypoint_set)), 3), np.float32
        if self.joint_set is not None:
            out["joints"] = (rows, len(find_joint_set(self.joint_set)), 4), np.float32
        if self.vertices:
            out["vertices"] = (rows, self.vertices, 3), np.float32
        for name, shape in self.parameters.items():
            out[name] = (rows, *shape), np.float32
        return out

    def fill(self, arrays: Mapping[str, np.ndarray], row: int, labels: CropLabels) -> None:
        """Put one crop's labels into a row.

        Raises:
            ValueError: a parameter or the mesh is of the wanted body model and has another shape.
            UserError: a joint set of the labels is not registered.
        """
        present = arrays["present"][row]
        for column, part in enumerate(self.parts):
            out = arrays[part][row]
            out[:] = 0
            if part == "keypoints":
                present[column] = _put_points(out, labels.keypoints, self.keypoint_set)
            elif part == "joints":
                present[column] = _put_points(out, labels.joints, self.joint_set)
            elif part == "vertices":
                present[column] = self._put_vertices(out, labels)
            else:
                present[column] = self._put_parameter(out, labels, part)

    def _put_vertices(self, out: np.ndarray, labels: CropLabels) -> bool:
        # Without a body model by name its number of vertices is all there is to tell a mesh by.
        mine = self.body_model is None or labels.body is None or self._is_mine(labels)
        if labels.vertices is None or not mine:
            return False
        if labels.vertices.shape != out.shape:
            if labels.body is None:
                return False
            raise ValueError(f"vertices are {labels.vertices.shape}, not {out.shape}")
        out[:] = labels.vertices
        return True

    def _put_parameter(self, out: np.ndarray, labels: CropLabels, name: str) -> bool:
        if labels.body is None or not self._is_mine(labels) or not labels.present().get(name):
            return False
        value = labels.body.parameters[name]
        if value.shape != out.shape:
            raise ValueError(f"{name} of {self.body_model} is {value.shape}, not {out.shape}")
        out[:] = value
        return True

    def _is_mine(self, labels: CropLabels) -> bool:
        body = labels.body
        if body is None or body.model != self.body_model:
            return False
        return self.body_variant in (None, body.variant)


def _put_points(out: np.ndarray, points: Keypoints | Joints | None, wanted: str | None) -> bool:
    """Put points and confidence into (K, D + 1); whether any of them is labelled."""
    if points is None or wanted is None:
        return False
    if points.joint_set == wanted:
        out[:, :-1], out[:, -1] = points.points, points.confidence
    else:
        places = match_joint_sets(points.joint_set, wanted)
        there = places >= 0
        out[there, :-1] = points.points[places[there]]
        out[there, -1] = points.confidence[places[there]]
    # What is not labelled may hold anything, and must not leak into a loss times zero.
    out[out[:, -1] == 0] = 0
    return bool(out[:, -1].any())

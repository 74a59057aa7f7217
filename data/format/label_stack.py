"""Labels of single crops put together into the labels of a clip."""

from collections.abc import Sequence

import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints, Labels


def stack_labels(crops: Sequence[CropLabels]) -> Labels:
    """The Labels of a clip whose crops, one after the other, have these labels.

    Each crop is an instant of its own, so crops may lack what others have.

    Raises:
        ValueError: two crops have different joint sets, body models or frames, or arrays of
            different shapes.
    """
    labels = Labels(np.arange(len(crops)), frame=_only("frame", [crop.frame for crop in crops]))
    keypoints = _stack_points("keypoints", [crop.keypoints for crop in crops])
    if keypoints is not None:
        labels.keypoints = Keypoints(*keypoints)
    joints = _stack_points("joints", [crop.joints for crop in crops])
    if joints is not None:
        labels.joints = Joints(*joints)
    labels.body = _stack_bodies([crop.body for crop in crops])
    vertices = [crop.vertices for crop in crops]
    if any(mesh is not None for mesh in vertices):
        labels.vertices, labels.vertices_known = _stack_known("vertices", vertices)
    seen = [crop.vertex_visible for crop in crops if crop.vertex_visible is not None]
    if len(seen) == len(crops):
        labels.vertex_visible = np.stack(seen).astype(bool)
    shares = [crop.visible for crop in crops]
    if all(share is not None for share in shares):
        labels.visible = np.array(shares, np.float32)
    return labels


def _only(what: str, values: Sequence[str]) -> str:
    """The one value that all have."""
    if len(set(values)) > 1:
        raise ValueError(
            f"crops of one clip have different {what}: {', '.join(sorted(set(values)))}"
        )
    return values[0]


def _stack_known(
    what: str, values: Sequence[np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray | None]:
    """((T, ...) float32, zeros where a value is None; (T,) bool where there is one, None: all)."""
    there = [np.asarray(value, np.float32) for value in values if value is not None]
    shape = there[0].shape
    if any(value.shape != shape for value in there):
        shapes = sorted({str(value.shape) for value in there})
        raise ValueError(f"crops of one clip have {what} of different shapes: {', '.join(shapes)}")
    out = np.zeros((len(values), *shape), np.float32)
    known = np.zeros(len(values), bool)
    for row, value in enumerate(values):
        if value is not None:
            out[row], known[row] = value, True
    return out, None if known.all() else known


def _stack_points(
    what: str, values: Sequence[Keypoints | Joints | None]
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray | None] | None:
    """(set, points, confidence, visible) of all crops, or None where none has such points."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    joint_set = _only(f"sets of {what}", [value.joint_set for value in there])
    points, _ = _stack_known(what, [None if v is None else v.points for v in values])
    confidence, _ = _stack_known(what, [None if v is None else v.confidence for v in values])
    visible = None
    if all(value is not None and value.visible is not None for value in values):
        visible = np.stack([np.asarray(v.visible, np.uint8) for v in there])
    return joint_set, points, confidence, visible


def _stack_bodies(values: Sequence[BodyParameters | None]) -> BodyParameters | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    model = _only("body models", [value.model for value in there])
    body = BodyParameters(model, _only("body variants", [value.variant for value in there]))
    for name in sorted({name for value in there for name in value.parameters}):
        rows = [_parameter_of(value, name) for value in values]
        if any(row is not None for row in rows):
            stacked, known = _stack_known(name, rows)
            if known is not None:
                body.known[name] = known
            elif all(name in value.of_person for value in there):
                if not (stacked == stacked[0]).all():
                    raise ValueError(f"crops of one clip have {name} of different people")
                stacked = stacked[0]
            body.parameters[name] = stacked
    return body


def _parameter_of(body: BodyParameters | None, name: str) -> np.ndarray | None:
    """A parameter of one crop; None where it is not labelled."""
    if body is None or name not in body.parameters:
        return None
    known = body.known.get(name)
    return body.parameters[name] if known is None or bool(known[0]) else None

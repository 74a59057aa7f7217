"""Labels of single crops put together into those of a clip, of people into those of a frame."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np

from data.format.annotation import stack_annotations
from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints, Labels

SAME = 2e-4  # metres, radians: what rounding makes of one label in several cameras' axes


def stack_labels(crops: Sequence[CropLabels], times: Sequence[float] | None = None) -> Labels:
    """The Labels of a clip whose crops, one after the other, have these labels.

    Each crop is an instant of its own, so crops may lack what others have. Where crops of one time
    agree in all that is labelled in space, as those of several cameras do, they share an instant.

    Args:
        times: of the crops, seconds.

    Raises:
        ValueError: two crops have different joint sets, body models or frames, or arrays of
            different shapes.
    """
    instant, firsts = _find_instants(crops, times)
    labels = Labels(instant, frame=_only("frame", [crop.frame for crop in crops]))
    keypoints = _stack_points("keypoints", [crop.keypoints for crop in crops])
    if keypoints is not None:
        labels.keypoints = Keypoints(*keypoints)
    instants = [crops[first] for first in firsts]
    joints = _stack_points("joints", [crop.joints for crop in instants])
    if joints is not None:
        labels.joints = Joints(*joints[:3], _stack_visible([crop.joints for crop in crops]))
    labels.body = _stack_bodies([crop.body for crop in instants])
    vertices = [crop.vertices for crop in instants]
    if any(mesh is not None for mesh in vertices):
        labels.vertices, labels.vertices_known = _stack_known("vertices", vertices)
    seen = [crop.vertex_visible for crop in crops if crop.vertex_visible is not None]
    if len(seen) == len(crops):
        labels.vertex_visible = np.stack(seen).astype(bool)
    shares = [crop.visible for crop in crops]
    if all(share is not None for share in shares):
        labels.visible = np.array(shares, np.float32)
    labels.annotation = stack_annotations([crop.annotation for crop in crops])
    return labels


def stack_people(people: Sequence[CropLabels]) -> Labels:
    """The Labels of a whole frame in which these people are, a row each.

    What is a person's own, such as a shape or which variant of a body model it is of, has a row
    each, too.

    Raises:
        ValueError: two people have different joint sets, body models or frames, or arrays of
            different shapes.
    """
    bodies = [person.body for person in people]
    plain = [
        None if body is None else replace(body, variant="", of_person=frozenset())
        for body in bodies
    ]
    labels = stack_labels(
        [replace(person, body=body) for person, body in zip(people, plain, strict=True)]
    )
    if labels.body is not None:
        variants = [None if body is None else body.variant for body in bodies]
        known = {variant for variant in variants if variant is not None}
        if len(known) == 1:
            labels.body.variant = known.pop()
        else:
            labels.body.variants = tuple(variant or "" for variant in variants)
    return labels


def _find_instants(
    crops: Sequence[CropLabels], times: Sequence[float] | None
) -> tuple[np.ndarray, list[int]]:
    """((N,) int64 instant of each crop, the first crop of each instant)."""
    apart = np.arange(len(crops)), list(range(len(crops)))
    if times is None:
        return apart
    first: dict[float, int] = {}
    for number, time in enumerate(times):
        same = first.setdefault(time, number)
        if not _agree(_in_space(crops[same]), _in_space(crops[number])):
            return apart
    places = list(first)
    return np.array([places.index(time) for time in times]), list(first.values())


def _in_space(crop: CropLabels) -> CropLabels:
    """What is labelled of an instant, without what each camera sees of it."""
    joints = None if crop.joints is None else replace(crop.joints, visible=None)
    return CropLabels(joints=joints, body=crop.body, vertices=crop.vertices)


def _agree(one: object, other: object) -> bool:
    """Whether two labels, or parts of them, are equal."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=SAME)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return False
    if is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in fields(one)]
        return all(_agree(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_agree(one[name], other[name]) for name in one)
    return one == other


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
    return joint_set, points, confidence, _stack_visible(values)


def _stack_visible(values: Sequence[Keypoints | Joints | None]) -> np.ndarray | None:
    """(N, K) uint8, or None where it is not known of each."""
    seen = [None if value is None else value.visible for value in values]
    if any(row is None for row in seen):
        return None
    return np.stack([np.asarray(row, np.uint8) for row in seen])


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

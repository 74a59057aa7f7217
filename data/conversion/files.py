"""Parameters of body models as files: what ``predict`` writes, AMASS, and what ``convert`` writes.

Predictions and conversions are one format: arrays "KIND/pose" and so on, where KIND is "body",
"left_hand" or "right_hand"; a conversion says besides which body model they are of, as text in
"KIND/body_model".
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.bodies.base import BodyModel
from data.conversion.config import SUFFIXES
from data.format.clip import KINDS
from data.sources.labelled.amass import read_motion
from data.sources.labelled.npz import read_npz
from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file

NEEDED = ("pose", "shape", "translation")
OPEN = {(104, 6): "anny", (21, 6): "anny_hand"}  # (joints, shape numbers) of those without files
DIGITS = 6  # of the JSON file: micrometres


@dataclass(eq=False)
class Bodies:
    """N bodies or hands of one kind in a file.

    Attributes:
        kind: of data.format.clip.KINDS.
        model, variant: of the body model; "" where the file does not say.
        pose: (N, J, 3, 3) rotations or (N, J, 3) rotation vectors; a left hand's are its own, not
            yet those of the right one in a mirror.
        shape: (N, S).  translation: (N, 3) metres.
        is_transl: whether ``translation`` is the SMPL family's own, which is added to a body whose
            joint 0 is not at the origin.
        person: (N,) numbers by which the file tells its people apart, or None.
        fit: arrays of a conversion, (N, ...) each, by name.
    """

    kind: str
    model: str
    variant: str
    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    is_transl: bool = False
    person: np.ndarray | None = None
    fit: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pose)

    def select(self, rows: slice) -> "Bodies":
        """Returns some of them."""
        return Bodies(
            self.kind,
            self.model,
            self.variant,
            self.pose[rows],
            self.shape[rows],
            self.translation[rows],
            self.is_transl,
            None if self.person is None else self.person[rows],
        )


def read_bodies(path: str) -> list[Bodies]:
    """Returns the bodies in a file, one entry a kind.

    Raises:
        UserError: it cannot be read, or holds no parameters of a body model.
    """
    if not path.endswith(SUFFIXES):
        raise UserError(f"{path}: parameters are read from {' or '.join(SUFFIXES)}")
    if path.endswith(".json"):
        return _read_json(path)
    arrays = read_npz(path)
    if "poses" in arrays:
        return [_read_amass(path)]
    found = [
        _take(path, kind, {name: arrays[f"{kind}/{name}"] for name in _list_names(arrays, kind)})
        for kind in KINDS
        if f"{kind}/pose" in arrays
    ]
    return _require(found, path)


def _list_names(arrays: Mapping[str, np.ndarray], kind: str) -> list[str]:
    prefix = f"{kind}/"
    return [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]


def _require(found: list[Bodies], path: str) -> list[Bodies]:
    if not found:
        raise UserError(
            f"{path} holds no parameters: neither poses as AMASS has them, nor pose, shape and "
            "translation of people as predict writes them"
        )
    return found


def _read_amass(path: str) -> Bodies:
    motion = read_motion(path)
    shape = np.broadcast_to(motion.betas, (len(motion.pose), len(motion.betas)))
    return Bodies(
        "body", motion.model, motion.variant, motion.pose, shape, motion.transl, is_transl=True
    )


def _read_json(path: str) -> list[Bodies]:
    try:
        with open(path, encoding="utf-8") as file:
            tree = json.load(file)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    people = tree.get("people") if isinstance(tree, dict) else None
    if not isinstance(people, list) or not all(isinstance(one, dict) for one in people):
        raise UserError(f"{path} has no list of people, as the JSON of predict has")
    found = []
    for kind in KINDS:
        chosen = [one for one in people if one.get("kind") == kind and "pose" in one]
        if not chosen:
            continue
        names = [name for name in (*NEEDED, "body_model", "body_variant") if name in chosen[0]]
        try:
            arrays = {name: np.array([one[name] for one in chosen]) for name in names}
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: people of kind {kind} differ: {error}") from None
        found.append(_take(path, kind, arrays))
    return _require(found, path)


def _take(path: str, kind: str, arrays: Mapping[str, np.ndarray]) -> Bodies:
    """The Bodies of a kind; UserError where its arrays do not fit each other."""
    lacking = [name for name in NEEDED if name not in arrays]
    if lacking:
        raise UserError(f"{path}: {kind} has no {' and no '.join(lacking)}")
    pose, shape, translation = (np.asarray(arrays[name]) for name in NEEDED)
    count = len(pose)
    fits = (
        pose.shape[2:] in ((3, 3), (3,))
        and shape.ndim == 2
        and len(shape) == count
        and translation.shape == (count, 3)
    )
    if not fits:
        raise UserError(
            f"{path}: {kind} has pose {pose.shape}, shape {shape.shape} and translation "
            f"{translation.shape}; (n, J, 3, 3), (n, S) and (n, 3) are wanted"
        )
    for name, array in (("pose", pose), ("shape", shape), ("translation", translation)):
        if array.dtype.kind not in "fiu" or not np.isfinite(array.astype(np.float64)).all():
            raise UserError(f"{path}: {kind}/{name} holds something else than finite numbers")
    model, variant = (_take_text(arrays, name) for name in ("body_model", "body_variant"))
    person = np.asarray(arrays["person"]) if "person" in arrays else None
    return Bodies(kind, model, variant, pose, shape, translation, person=person)


def _take_text(arrays: Mapping[str, np.ndarray], name: str) -> str:
    array = np.asarray(arrays.get(name, ""))
    return str(array.ravel()[0]) if array.size and array.dtype.kind == "U" else ""


def guess_model(bodies: Bodies, path: str) -> str:
    """Returns which body model the parameters are of, by their sizes where nothing says it.

    Raises:
        UserError: they may be of several, or of none.
    """
    if bodies.model:
        return bodies.model
    sizes = bodies.pose.shape[1], bodies.shape.shape[1]
    if sizes in OPEN:
        return OPEN[sizes]
    raise UserError(
        f"{path} does not say of which body model its {sizes[0]} joints and {sizes[1]} numbers of "
        "the shape are: name it by body=NAME"
    )


def save_bodies(path: str, found: Sequence[Bodies], models: Sequence[BodyModel]) -> None:
    """Write bodies as one file, .npz or .json.

    Args:
        models: of each entry, for the names of its joints.
    Raises:
        UserError: it cannot be written.
    """
    try:
        if path.endswith(".json"):
            write_file(path, json.dumps(_describe(found, models)).encode())
            return
        arrays: dict[str, np.ndarray] = {}
        for bodies, model in zip(found, models, strict=True):
            for name, array in _list_arrays(bodies).items():
                arrays[f"{bodies.kind}/{name}"] = array
            arrays[f"{bodies.kind}/body_model"] = np.array(bodies.model)
            arrays[f"{bodies.kind}/body_variant"] = np.array(bodies.variant)
            arrays[f"{bodies.kind}/joint_names"] = np.array(model.joint_names)
        file = io.BytesIO()
        # None of the arrays' names is that of an option.
        # pyrefly: ignore[bad-argument-type]
        np.savez_compressed(file, **arrays)
        write_file(path, file.getvalue())
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _list_arrays(bodies: Bodies) -> dict[str, np.ndarray]:
    out = {name: np.asarray(getattr(bodies, name), np.float32) for name in NEEDED}
    if bodies.person is not None:
        out["person"] = bodies.person
    return out | bodies.fit


def _describe(found: Sequence[Bodies], models: Sequence[BodyModel]) -> dict[str, object]:
    people = []
    for bodies in found:
        arrays = _list_arrays(bodies)
        for row in range(len(bodies)):
            one: dict[str, object] = {
                "kind": bodies.kind,
                "body_model": bodies.model,
                "body_variant": bodies.variant,
            }
            for name, array in arrays.items():
                if name == "vertices" or array.dtype.kind not in "fiub":
                    continue
                one[name] = np.round(array[row].astype(float), DIGITS).tolist()
            people.append(one)
    names = {
        bodies.kind: list(model.joint_names) for bodies, model in zip(found, models, strict=True)
    }
    return {
        "format": 1,
        "units": "metres, rotation matrices; errors in millimetres",
        "joint_names": names,
        "people": people,
    }


def is_parameters(path: str) -> bool:
    """Whether a path is that of a file of parameters rather than of shards of clips."""
    is_named_so = path.endswith(SUFFIXES) and not os.path.isdir(path)
    return is_named_so or (os.path.isfile(path) and not path.endswith(".tar"))

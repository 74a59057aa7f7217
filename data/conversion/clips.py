"""Labels of shards of one body model as those of another: images stay, labels are rewritten.

Clips of anny, as ``data make`` writes them, become clips of SMPL's family (format 2), which
``finetune train body=smplx`` learns from. Hands of anny become those of MANO, a left one by way of
the mirror.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters
from data.bodies.smpl_layout import FAMILY
from data.conversion.convert import CHUNK, Converted, Converter
from data.format.clip import Clip, decode_meta
from data.format.labels import BodyParameters as LabelledBody
from data.format.labels import Joints, Labels, load_arrays, pack_labels, save_arrays
from data.format.samples import read_samples
from data.format.shards import find_shards, write_samples
from engine.errors import UserError, explain, failure_of
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from engine.logging import progress
from engine.run.files import make_folder, write_file

RECIPE = "converted.json"
SOURCE, SOURCE_HAND = "anny", "anny_hand"  # whose labels are converted
LABELS = "labels.npz"


@dataclass
class Tally:
    """What became of clips.

    Attributes:
        clips: that were written.  instants: that were converted.  lost: instants that the target
            cannot take.
        error_mm: mean distance of each instant.
    """

    clips: int
    instants: int
    lost: int
    error_mm: list[float]


def convert_shards(paths: Sequence[str], out: str, converter: Converter) -> Tally:
    """Write shards with the labels of a converter's target; shards that are there are kept.

    Args:
        paths: shards or their folders.  out: folder of the new ones, of the same names.
    Raises:
        UserError: labels are of another body model, two shards have one name, ``out`` holds
            shards of another conversion.
    """
    if converter.target.name not in FAMILY:
        raise UserError(
            f"to={converter.target.name}: labels of shards are converted to {', '.join(FAMILY)}"
        )
    shards = find_shards(list(paths))
    names = [os.path.basename(path) for path in shards]
    if len(set(names)) < len(names):
        raise UserError(f"two of the {len(names)} shards have one name: convert them one by one")
    _claim(out, converter, names)
    tally = Tally(0, 0, 0, [])
    for path, name in progress.watched(list(zip(shards, names, strict=True)), "shard"):
        place = os.path.join(out, name)
        if not os.path.exists(place):
            tally.clips += write_samples(place, _convert_samples(path, converter, tally))
    return tally


def _claim(out: str, converter: Converter, names: Sequence[str]) -> None:
    """Say in the folder what is written there; UserError where it is of something else."""
    target = converter.target
    recipe = {"to": target.name, "variant": target.variant, "shards": sorted(names)}
    place = os.path.join(out, RECIPE)
    make_folder(out, f"out={out}")
    try:
        if os.path.exists(place):
            with open(place, encoding="utf-8") as file:
                found = json.load(file)
            if found != recipe:
                raise UserError(
                    f"out={out} holds a conversion of {len(found['shards'])} shards to "
                    f"{found['to']} {found['variant']}; this is one of {len(names)} to "
                    f"{target.name} {target.variant}: name another folder"
                )
        write_file(place, json.dumps(recipe))
    except OSError as error:
        raise failure_of(error, f"{place} cannot be used: {explain(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place} is no recipe of a conversion: name another folder") from None


def _convert_samples(
    path: str, converter: Converter, tally: Tally
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for key, members in read_samples(path):
        if LABELS in members:
            where = f"{path}: {key}"
            clip = decode_meta(members["json"], where)
            members[LABELS] = convert_labels(members[LABELS], clip, converter, where, tally)
        yield key, members


def convert_labels(
    data: bytes, clip: Clip, converter: Converter, where: str, tally: Tally
) -> bytes:
    """Returns labels.npz of a clip for the target of a converter.

    Raises:
        UserError: the labels are not anny's; a clip shows both hands.
    """
    try:
        arrays = load_arrays(data)
    except ValueError as error:
        raise UserError(f"{where}: labels.npz: {error}") from None
    model = str(arrays.get("body_model", np.array("")).ravel()[0])
    if model != SOURCE or "phenotype" not in arrays:
        raise UserError(f"{where}: labels are of body model '{model}'; those of {SOURCE} are read")
    kinds = {crop.kind for crop in clip.crops}
    if len(kinds) > 1:
        raise UserError(f"{where} shows {' and '.join(sorted(kinds))}: one of them is converted")
    side = kinds.pop().partition("_")[0]
    found = _convert_instants(arrays, converter, flipped=side == "left")
    tally.instants += len(found.reached)
    tally.lost += int((~found.reached).sum())
    tally.error_mm += found.error_mm[:, 0].tolist()
    return _pack_family(arrays, found, converter, len(clip.crops), side)


def _convert_instants(
    arrays: dict[str, np.ndarray], converter: Converter, flipped: bool
) -> Converted:
    """The target at all instants of a clip, left hands as left ones."""
    count = len(arrays["pose"])
    flip = torch.full((count,), flipped)
    labels = {
        "pose": axis_angle_to_matrix(torch.from_numpy(arrays["pose"]).float()),
        "root": torch.from_numpy(arrays["root"]).float(),
        "shape": torch.from_numpy(arrays["phenotype"]).float().expand(count, -1),
        "joints": torch.from_numpy(arrays["joints"]).float(),
    }
    source, target = converter.source, converter.target
    given = source.mirror_parameters(source.read_labels(labels, flip), flip)
    parts = []
    for first in range(0, count, CHUNK):
        parts.append(converter(given.select(slice(first, first + CHUNK))))
    whole = BodyParameters(
        target.name,
        torch.cat([part.parameters.pose for part in parts]),
        torch.cat([part.parameters.shape for part in parts]),
        torch.cat([part.parameters.translation for part in parts]),
    )
    return Converted(
        target.mirror_parameters(whole, flip),
        torch.cat([part.error_mm for part in parts]),
        torch.cat([part.joints_mm for part in parts]),
        torch.cat([part.reached for part in parts]),
    )


def _pack_family(
    arrays: dict[str, np.ndarray], found: Converted, converter: Converter, count: int, side: str
) -> bytes:
    """Labels of format 2, as readers of SMPL's family want them."""
    target, given = converter.target, found.parameters
    spec = FAMILY[target.name]
    joints = _pose_joints(target, given, side)
    variant = side if target.kind == "hand" else target.variant
    known = found.reached.numpy()
    parameters = {
        "pose": matrix_to_axis_angle(given.pose).numpy(),
        "betas": given.shape.numpy(),
        "translation": given.translation.numpy(),
    }
    body = LabelledBody(target.name, variant, parameters, dict.fromkeys(parameters, known))
    labels = Labels(
        np.asarray(arrays["instant"], np.int64),
        joints=Joints(
            spec.joint_set,
            joints,
            np.repeat(known[:, None].astype(np.float32), joints.shape[1], 1),
            _see_joints(arrays, converter, side),
        ),
        body=body,
        visible=np.asarray(arrays["visible"], np.float32),
    )
    if len(labels) != count:
        raise UserError(f"labels are of {len(labels)} crops, the clip has {count}")
    return save_arrays(pack_labels(labels))


def _pose_joints(target: BodyModel, given: BodyParameters, side: str) -> np.ndarray:
    """(T, J, 3) joints; those of a left hand by way of the mirror."""
    flip = torch.full((len(given.pose),), side == "left")
    mirrored = target.mirror_parameters(given, flip)
    _, joints = target(mirrored.pose, mirrored.translation, mirrored.shape)
    return joints.numpy() * np.array([-1.0 if side == "left" else 1.0, 1, 1], np.float32)


def _see_joints(arrays: dict[str, np.ndarray], converter: Converter, side: str) -> np.ndarray:
    """(N, J) uint8 of the target's joints: as the source's nearest joint at rest is seen."""
    rows = _list_rows(converter.source, side)[converter.nearest_joints.numpy()]
    return np.asarray(arrays["joint_visible"], np.uint8)[:, rows]


def _list_rows(source: BodyModel, side: str) -> np.ndarray:
    """Where a source's joints stand among the whole body's; a hand's root is at the wrist."""
    whole = source.whole.joint_names
    if source.whole is source:
        return np.arange(len(whole))
    letter = "L" if side == "left" else "R"
    names = [
        f"wrist.{letter}",
        *(name.replace(".R", f".{letter}") for name in source.joint_names[1:]),
    ]
    return np.array([whole.index(name) for name in names])

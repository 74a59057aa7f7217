"""``python -m data bodies list|show|convert``."""

from collections.abc import Sequence

import numpy as np
import torch

from data.bodies.base import BodyModel, BodyParameters
from data.bodies.body_files import has_file
from data.bodies.models import BODIES, open_model
from data.bodies.smpl_layout import FAMILY
from data.bodies.smpl_model import SmplModel
from data.conversion.clips import FITS, Sources, Tally, convert_shards
from data.conversion.config import (
    SUFFIXES,
    BodiesConvertConfig,
    BodiesListConfig,
    BodiesShowConfig,
)
from data.conversion.convert import CHUNK, Converted, Converter
from data.conversion.files import Bodies, guess_model, is_parameters, read_bodies, save_bodies
from data.format.shards import find_shards
from engine.config.parser import parse_keys
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from engine.logging import progress
from engine.logging.console import get_logger

SHOWN = 12  # frames whose errors are listed
WORST = 3  # clips that are named
LEFT = "left_hand"

log = get_logger(__name__)


def list_bodies(argv: Sequence[str]) -> int:
    """Run ``bodies list``: a line a model, with which of its files are there; the exit code."""
    parse_keys(BodiesListConfig, argv, "data bodies list", least=0)
    for name in BODIES.list_names():
        spec = FAMILY.get(name)
        if spec is None:
            print(f"{name:<10} open: no files are needed")
            continue
        found = [variant for variant in spec.variants if has_file(spec, variant)]
        there = f"found: {', '.join(found)}" if found else f"no file found; had at {spec.place}"
        print(f"{name:<10} {there}")
    return 0


def show_body(argv: Sequence[str]) -> int:
    """Run ``bodies show NAME``: counts, joints and parameters; the exit code."""
    config, _ = parse_keys(BodiesShowConfig, argv, "data bodies show")
    body = open_model(config.name, config.variant)
    faces = 0 if body.faces is None else len(body.faces)
    print(f"{body.name}{f' {body.variant}' if body.variant else ''}: a {body.kind}")
    print(
        f"{len(body.vertex_ids)} vertices, {faces} triangles, {len(body.joint_names)} joints, "
        f"{len(body.shape_space.names)} numbers of the shape, {len(body.expression_names)} of the "
        "expression"
    )
    space = body.shape_space
    bounds = f" from {space.low:g} to {space.high:g}" if space.bounded else ""
    print(f"shape{bounds}: {_shorten(space.names)}")
    if body.expression_names:
        print(f"expression: {_shorten(body.expression_names)}")
    print(f"keypoints: {', '.join(body.keypoint_names)}")
    print("joints, each below its parent:")
    depths: list[int] = []
    for name, parent in zip(body.joint_names, body.parents, strict=True):
        depths.append(0 if parent < 0 else depths[parent] + 1)
        print(f"{len(depths) - 1:>4} {'  ' * depths[-1]}{name}")
    return 0


def _shorten(names: Sequence[str]) -> str:
    shown = [*names[:10], f"... {names[-1]}"] if len(names) > 12 else list(names)
    return ", ".join(shown)


def convert_bodies(argv: Sequence[str]) -> int:
    """Run ``bodies convert IN out=OUT to=NAME``; the exit code.

    Raises:
        UserError: the input cannot be read, or is of a body of another kind than the target.
    """
    config, paths = parse_keys(BodiesConvertConfig, argv, "data bodies convert")
    if not is_parameters(paths[0]):
        return _convert_clips(config, paths)
    if len(paths) > 1:
        raise UserError(f"{paths[1]}: one file of parameters is converted at a time")
    if not config.out.endswith(SUFFIXES):
        raise UserError(f"out={config.out}: the file's name ends in none of {', '.join(SUFFIXES)}")
    bodies_there = read_bodies(paths[0])  # before seconds go into models
    target = open_model(config.to, config.variant)
    given = _choose_kind(bodies_there, target)
    converters: dict[str, Converter] = {}
    found, models = [], []
    for bodies in given:
        model = config.body or guess_model(bodies, paths[0])
        variant = config.body_variant or (bodies.variant if not config.body else "")
        key = f"{model} {variant}"
        if key not in converters:
            source = target if (model, variant) == (config.to, config.variant) else None
            converters[key] = Converter(source or open_model(model, variant), target)
            print(converters[key].describe())
        some = bodies.select(slice(None, None, config.stride)).select(slice(config.frames))
        converted = convert_all(converters[key], some, config.vertices)
        found.append(converted)
        models.append(converters[key].target)
        _report(converted)
    save_bodies(config.out, found, models)
    print(f"wrote {config.out}")
    return 0


def _choose_kind(given: Sequence[Bodies], target: BodyModel) -> list[Bodies]:
    """Those that the target can stand for, if there are any: predict's files hold hands too."""
    fitting = [bodies for bodies in given if ("hand" in bodies.kind) == (target.kind == "hand")]
    left_out = sum(len(bodies) for bodies in given) - sum(len(bodies) for bodies in fitting)
    if fitting and left_out:
        log.info(
            "note: %s is a %s: %d of other kinds are left out", target.name, target.kind, left_out
        )
    return fitting or list(given)


def _convert_clips(config: BodiesConvertConfig, paths: Sequence[str]) -> int:
    """Convert the labels of shards; the exit code."""
    unread = [name for name in ("body", "frames") if getattr(config, name)]
    if unread or config.vertices or config.stride > 1:
        names = [*unread, *(["stride"] if config.stride > 1 else [])]
        names += ["vertices"] if config.vertices else []
        raise UserError(f"{names[0]}= is of files of parameters; {paths[0]} is none")
    find_shards(list(paths))  # before seconds go into models
    tally = convert_shards(
        paths, config.out, Sources(open_model(config.to, config.variant), config.body_variant)
    )
    _report_clips(tally, config)
    return 0


def _report_clips(tally: Tally, config: BodiesConvertConfig) -> None:
    """Print what became of clips, and those that fit worst."""
    print(f"wrote {len(tally.error_mm)} clips with labels of {config.to} to {config.out}")
    if tally.kept:
        print(f"{tally.kept} clips without a body's parameters stay as they were")
    if tally.error_mm:
        worst = sorted(tally.error_mm, key=lambda key: -tally.error_mm[key][0])[:WORST]
        mean = sum(error[0] for error in tally.error_mm.values()) / len(tally.error_mm)
        words = ", ".join(f"{key} {tally.error_mm[key][0]:.2f}" for key in worst)
        print(
            f"{mean:.2f} mm from the labelled surface on average of clips; the farthest: {words}; "
            f"each one's is in {config.out}/*{FITS}"
        )
    if tally.lost:
        print(
            f"{tally.lost} of {tally.instants} instants are poses or shapes that {config.to} "
            "cannot take: they are marked as not labelled"
        )
    if tally.left_out:
        print(
            f"{len(tally.left_out)} clips are left out: none of their instants could be converted"
        )
    if tally.nowhere:
        print(
            f"{len(tally.nowhere)} clips are left out: their labels do not say where the person "
            "stands (frame is root)"
        )


def take_parameters(bodies: Bodies, source: BodyModel) -> BodyParameters:
    """Returns what a file says as parameters of a body model.

    Raises:
        UserError: it has other joints or more numbers of the shape than the model.
    """
    joints, most = len(source.joint_names), len(source.shape_space.names)
    if bodies.pose.shape[1] != joints:
        raise UserError(
            f"{bodies.kind}: the pose has {bodies.pose.shape[1]} joints, {source.name} has {joints}"
        )
    shape = torch.from_numpy(np.array(bodies.shape, np.float32))
    if isinstance(source, SmplModel):
        shape = shape[:, :most]
    elif shape.shape[1] != most:
        raise UserError(
            f"{bodies.kind}: the shape has {shape.shape[1]} numbers, {source.name} has {most}"
        )
    pose = torch.from_numpy(np.array(bodies.pose, np.float32))
    pose = axis_angle_to_matrix(pose) if pose.ndim == 3 else pose
    place = torch.from_numpy(np.array(bodies.translation, np.float32))
    if bodies.is_transl and isinstance(source, SmplModel):
        place = place + source.rest_root(shape)
    return BodyParameters(source.name, pose, shape, place)


def convert_all(converter: Converter, bodies: Bodies, vertices: bool = False) -> Bodies:
    """Returns the bodies of a file as those of a converter's target, with their errors.

    Left hands are converted as the right ones in a mirror, and mirrored back.
    """
    source, target = converter.source, converter.target
    given = take_parameters(bodies, source)
    flip = torch.full((len(bodies),), bodies.kind == LEFT)
    given = source.mirror_parameters(given, flip)
    parts, meshes = [], []
    with progress.bar(len(bodies), "frame") as shown:
        for first in range(0, len(bodies), CHUNK):
            part = converter(given.select(slice(first, first + CHUNK)))
            shown.update(len(part.joints_mm))
            own = target.mirror_parameters(part.parameters, flip[: len(part.joints_mm)])
            if vertices:
                found = part.parameters
                mesh, _ = target(found.pose, found.translation, found.shape)
                meshes.append(mesh * mesh.new_tensor([-1.0 if bodies.kind == LEFT else 1.0, 1, 1]))
            parts.append(Converted(own, part.error_mm, part.joints_mm, part.reached))
    return _join(bodies, target, parts, meshes)


def _join(
    bodies: Bodies,
    target: BodyModel,
    parts: Sequence[Converted],
    meshes: Sequence[torch.Tensor],
) -> Bodies:
    fit = {
        "error_mm": torch.cat([part.error_mm for part in parts]).numpy(),
        "joints_error_mm": torch.cat([part.joints_mm for part in parts]).numpy(),
        "reached": torch.cat([part.reached for part in parts]).numpy(),
    }
    if meshes:
        fit["vertices"] = torch.cat(list(meshes)).numpy()
    return Bodies(
        bodies.kind,
        target.name,
        target.variant,
        torch.cat([part.parameters.pose for part in parts]).numpy(),
        torch.cat([part.parameters.shape for part in parts]).numpy(),
        torch.cat([part.parameters.translation for part in parts]).numpy(),
        person=bodies.person,
        fit=fit,
    )


def _report(found: Bodies) -> None:
    """Print the error of each frame, of the first ones where there are many, and of all."""
    error, joints, reached = (
        found.fit[name] for name in ("error_mm", "joints_error_mm", "reached")
    )
    print(f"{found.kind}: mm from the surface: mean, 95th percentile, largest; joints, mean")
    for row in range(min(len(found), SHOWN)):
        mean, high, most = error[row]
        words = "" if reached[row] else f"  {found.model} cannot take this pose"
        print(f"{row:>5} {mean:8.2f} {high:8.2f} {most:8.2f} {joints[row]:8.2f}{words}")
    mean, high, most = error[:, 0].mean(), error[:, 1].mean(), error[:, 2].max()
    print(f"{'all':>5} {mean:8.2f} {high:8.2f} {most:8.2f} {joints.mean():8.2f}")
    lost = int((~reached).sum())
    if lost:
        print(
            f"{lost} of {len(found)} frames are poses or shapes that {found.model} cannot take: "
            "reached is false there"
        )

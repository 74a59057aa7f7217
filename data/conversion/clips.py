"""Labels of shards of one body model as those of another: images stay, labels are rewritten.

Clips of anny, as ``data make`` writes them, become clips of SMPL's family (format 2), which
``finetune train body=smplx`` learns from; clips of SMPL's family become clips of anny (format 1),
so that a network of anny learns from datasets that are labelled with SMPL.
"""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.bodies.models import open_model
from data.bodies.smpl_layout import FAMILY
from data.conversion.clip_labels import (
    ANNY,
    ANNY_HAND,
    TARGETS,
    Given,
    name_body,
    pack_clip,
    read_given,
)
from data.conversion.convert import CHUNK, Converted, Converter
from data.format.clip import Clip, decode_meta
from data.format.label_files import save_arrays
from data.format.samples import read_samples
from data.format.shards import find_shards, write_samples
from engine.errors import UserError, explain, failure_of
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import make_folder, write_file

RECIPE = "converted.json"
LABELS = "labels.npz"
FITS = ".fit.json"  # of a shard, instead of .tar: what became of its clips

log = get_logger(__name__)


@dataclass
class Tally:
    """What became of the clips of a shard, or of several.

    Attributes:
        error_mm: {key of a clip that was converted: mean, 95th percentile and largest distance of
            the new surface from the labelled one; over its instants the mean, mean and largest}.
        instants: that were converted.
        lost: instants that the target cannot take.
        left_out: keys of clips in which it can take none.
        nowhere: keys of clips that are left out because nobody knows where the person stands.
        kept: clips without a body's parameters, which are as they were.
    """

    error_mm: dict[str, list[float]] = field(default_factory=dict)
    instants: int = 0
    lost: int = 0
    left_out: list[str] = field(default_factory=list)
    nowhere: list[str] = field(default_factory=list)
    kept: int = 0

    def add(self, other: "Tally") -> None:
        """Count another shard's clips too."""
        self.error_mm |= other.error_mm
        self.instants += other.instants
        self.lost += other.lost
        self.left_out += other.left_out
        self.nowhere += other.nowhere
        self.kept += other.kept


class Sources:
    """Finds the Converter of the body model that labels are of; each is made once.

    Args:
        target: the full body model that labels become those of.
        variant: that betas of SMPL's family are read as, whatever labels say; "": what they say.
    """

    def __init__(self, target: BodyModel, variant: str = "") -> None:
        self.target = target
        self.variant = variant
        self._made: dict[tuple[str, str], Converter] = {}

    def find(self, model: str, variant: str) -> Converter:
        """Returns the Converter from a body model, as labels name it, to the target.

        Raises:
            UserError: the labels are the target's already; the models are of different kinds; the
                model's file is not there.
        """
        if model == ANNY:
            model, variant = ANNY_HAND if self.target.kind == "hand" else ANNY, ""
        elif model in FAMILY:
            spec = FAMILY[model]
            # A left hand is the right one in a mirror.
            variant = "" if spec.kind == "hand" else self.variant or variant
            variant = variant or spec.variants[0]
        else:
            names = ", ".join((ANNY, *FAMILY))
            raise UserError(f"labels of body model '{model}' are not read: {names} are")
        if (model, variant) == (self.target.name, self.target.variant):
            raise UserError(f"labels are of {' '.join((model, variant)).strip()} already")
        if (model, variant) not in self._made:
            self._made[model, variant] = Converter(open_model(model, variant), self.target)
            log.info("%s", self._made[model, variant].describe())
        return self._made[model, variant]


def convert_shards(paths: Sequence[str], out: str, sources: Sources) -> Tally:
    """Write shards with the labels of another body model; shards that are there are kept.

    Args:
        paths: shards or their folders.  out: folder of the new ones, of the same names.
    Returns:
        what became of all clips, those of kept shards too.
    Raises:
        UserError: labels cannot be converted, two shards have one name, ``out`` holds shards of
            another conversion.
    """
    if sources.target.name not in TARGETS:
        raise UserError(
            f"to={sources.target.name}: labels of shards are converted to {', '.join(TARGETS)}"
        )
    shards = find_shards(list(paths))
    names = [os.path.basename(path) for path in shards]
    if len(set(names)) < len(names):
        raise UserError(f"two of the {len(names)} shards have one name: convert them one by one")
    _claim(out, sources, names)
    whole = Tally()
    for path, name in progress.watched(list(zip(shards, names, strict=True)), "shard"):
        whole.add(_convert_shard(path, os.path.join(out, name), sources))
    return whole


def _convert_shard(path: str, place: str, sources: Sources) -> Tally:
    """One shard, unless it was converted before; what became of its clips."""
    beside = place.removesuffix(".tar") + FITS
    if os.path.exists(beside):
        return _read_tally(beside)
    tally = Tally()
    samples = _convert_samples(path, sources, tally)
    first = next(samples, None)
    if first is not None:
        write_samples(place, itertools.chain([first], samples))
    try:
        # Last: a shard without it is written again.
        write_file(beside, json.dumps(asdict(tally), indent=1))
    except OSError as error:
        raise failure_of(error, f"{beside} cannot be written: {explain(error)}") from None
    return tally


def _read_tally(path: str) -> Tally:
    try:
        with open(path, encoding="utf-8") as file:
            return Tally(**json.load(file))
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} does not say what became of its clips: remove it") from None


def _claim(out: str, sources: Sources, names: Sequence[str]) -> None:
    """Say in the folder what is written there; UserError where it is of something else."""
    target = sources.target
    recipe = {"to": target.name, "variant": target.variant, "shards": sorted(names)}
    if sources.variant:
        recipe["body_variant"] = sources.variant
    place = os.path.join(out, RECIPE)
    make_folder(out, f"out={out}")
    try:
        if os.path.exists(place):
            with open(place, encoding="utf-8") as file:
                found = json.load(file)
            if found != recipe:
                before, now = (_word_recipe(one) for one in (found, recipe))
                raise UserError(
                    f"out={out} holds a conversion of {before}; this is one of {now}: name another "
                    "folder"
                )
        write_file(place, json.dumps(recipe))
    except OSError as error:
        raise failure_of(error, f"{place} cannot be used: {explain(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place} is no recipe of a conversion: name another folder") from None


def _word_recipe(recipe: Mapping[str, object]) -> str:
    """Words such as "3 shards to smplx neutral"; KeyError of what is no recipe."""
    shards = recipe["shards"]
    count = len(shards) if isinstance(shards, list) else 0
    words = f"{count} shards to {recipe['to']} {recipe['variant']}".strip()
    read_as = recipe.get("body_variant")
    return f"{words} with body_variant={read_as}" if read_as else words


def _convert_samples(
    path: str, sources: Sources, tally: Tally
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for key, members in read_samples(path):
        data, where = members.get(LABELS), f"{path}: {key}"
        if data is None or not name_body(data, where)[0]:
            tally.kept += 1
            yield key, members
            continue
        new = _convert_labels(key, data, decode_meta(members["json"], where), where, sources, tally)
        if new is not None:
            yield key, members | {LABELS: new}


def _convert_labels(
    key: str, data: bytes, clip: Clip, where: str, sources: Sources, tally: Tally
) -> bytes | None:
    """The new labels of a clip; None of one that is left out."""
    try:
        converter = sources.find(*name_body(data, where))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    given = read_given(data, clip, converter.source, where)
    if given is None:
        tally.nowhere.append(key)
        return None
    found = convert_given(given, converter)
    count = int(found.reached.sum())
    tally.instants += int(given.known.sum())
    tally.lost += int(given.known.sum()) - count
    if not count:
        tally.left_out.append(key)
        return None
    error = found.error_mm[found.reached]
    tally.error_mm[key] = [
        round(float(number), 2) for number in (*error[:, :2].mean(0), error[:, 2].max())
    ]
    return save_arrays(pack_clip(given, found, converter))


def convert_given(given: Given, converter: Converter) -> Converted:
    """Returns the target at all instants of a clip; ``reached`` is false where none is labelled.

    The person has one shape: that of the mean of the shape numbers, where instants differ in them.
    """
    target, rows = converter.target, torch.where(given.known)[0]
    count, found = len(given.known), given.parameters
    pose = torch.eye(3).repeat(count, len(target.joint_names), 1, 1)
    place, error, joints = torch.zeros(count, 3), torch.zeros(count, 3), torch.zeros(count)
    reached = torch.zeros(count, dtype=torch.bool)
    person = _average(found.shape[rows])
    shape = person.new_zeros(1, 0)
    for some in rows.split(CHUNK) if len(rows) else ():
        part = converter(
            BodyParameters(
                found.body, found.pose[some], found.shape[some], found.translation[some]
            ),
            person,
        )
        pose[some], place[some] = part.parameters.pose, part.parameters.translation
        error[some], joints[some], reached[some] = part.error_mm, part.joints_mm, part.reached
        shape = part.parameters.shape[:1]
    whole = BodyParameters(target.name, pose, shape.expand(count, -1), place)
    return Converted(whole, error, joints, reached)


def _average(shape: torch.Tensor) -> torch.Tensor:
    """(1, S) the mean of shapes (n, S); to the bit where all are equal."""
    first = shape[:1]
    return first if bool((shape == first).all()) else shape.mean(0, keepdim=True)

"""AGORA: all people of an image, matched by 2D joints; errors divided by the F1 of the matching.

TRUTH/*.pkl                            data frames with gt_joints_2d, gt_joints_3d, gt_verts
PREDICTIONS/IMAGE_personId_N.pkl       joints (24, 2) pixels of 3840 x 2160, allSmplJoints3d,
                                       verts: metres in the camera's axes
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from data.bodies.smpl_layout import FAMILY
from data.format.joint_sets import find_joint_set
from data.sources.labelled.bodies import as_numbers, reading, take_text, take_tree
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import list_files
from engine.errors import UserError
from finetune.evaluation.protocols import (
    PROTOCOLS,
    Frames,
    RunJoints,
    RunProtocol,
    Scores,
    Value,
)
from finetune.evaluation.scoring.errors import distances
from finetune.evaluation.scoring.matching import match_people
from finetune.evaluation.scoring.part_vertices import read_body, read_face, read_hands
from finetune.verb_config import EvaluateConfig, ScoreConfig

SMPLX_VERTICES = 10475
SMPL_VERTICES = 6890
BODY_JOINTS = {SMPL_VERTICES: 24, SMPLX_VERTICES: 22}
HIPS, NECK, WRISTS = (1, 2), 12, (20, 21)
GIVEN = (
    "Crops are of people who are given, so that nobody is missed and nobody found too many: there "
    "is no F1, and none of NMJE and NMVE, which are divided by it. `finetune score` has them."
)
FINGERS = slice(25, 40), slice(40, 55)
FACE = slice(76, 127)
OCCLUSION_MAX = 90
PARTS = ("lhand", "rhand", "face")
NOTHING = float("nan")
Errors = dict[str, float]  # of one person, metres, by "body-MPJPE" and the like


@dataclass
class Person:
    """A predicted or true person: joints 2D (J, 2), joints (K, 3) and vertices (V, 3), metres."""

    pixels: np.ndarray
    joints: np.ndarray
    vertices: np.ndarray


@dataclass
class Tally:
    """What was counted over all images.

    Attributes:
        errors: of each person that counts, empty where missed; zeros where the script puts them.
        missed, kids: of each person that counts.
        false_positives: predictions without a person.
    """

    errors: list[Errors] = field(default_factory=list)
    zeros: list[bool] = field(default_factory=list)
    missed: list[bool] = field(default_factory=list)
    kids: list[bool] = field(default_factory=list)
    false_positives: int = 0


@PROTOCOLS.register("agora")
class Agora(RunProtocol):
    """AGORA, of SMPL or SMPL-X by the number of vertices of the truth."""

    title = "AGORA"
    script = "pixelite1201/agora_evaluation (matching, calculate_v2v_error, compute_average_error)"
    joint_set = "smpl24, or smplx22, hands of smplx55 and 51 points of the face"
    root = "middle of the hips (joints 1 and 2); hands: wrist; face: neck"
    alignment = "none"
    unit = "mm"
    counted = "isValid; matched by 24 joints in the image, boxes overlapping by 0.1"
    averaging = "people that were found; NMJE and NMVE: divided by F1 rounded to 0.01"
    kind = "body"
    submission = "folder IMAGE_personId_N.pkl: joints, allSmplJoints3d, verts"
    truth = "folder of data frames with gt_joints_2d, gt_joints_3d, gt_verts; indices="
    run: ClassVar[RunJoints] = RunJoints(find_joint_set("smpl24").joints)
    bodies = ("smpl", "smplx")

    def __init__(self) -> None:
        self.body_vertices: np.ndarray | None = None

    def open_run(self, config: EvaluateConfig, body: str) -> RunJoints:
        """Return the body's joints of SMPL or SMPL-X; reads which vertices are the body's."""
        count = len(FAMILY[body].joint_names)
        vertices = SMPLX_VERTICES if count > len(self.run.names) else SMPL_VERTICES
        if config.indices:
            self.body_vertices = read_body(config.indices, vertices)
        return replace(self.run, names=self.run.names[: BODY_JOINTS[vertices]])

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the errors of people who are all found, because they are given."""
        mine, theirs = (frames.joints[:, HIPS].mean(1, keepdims=True) for frames in (found, true))
        errors = distances(found.joints - mine, true.joints - theirs)
        values = {"body-MPJPE": errors.mean()}
        notes = [GIVEN]
        if found.vertices is None or true.vertices is None:
            notes.append("No mesh of the labels is the run's: there is no body-MVE.")
        elif self.body_vertices is None:
            notes.append("indices= is not set: there is no body-MVE.")
        else:
            rows = self.body_vertices
            mesh = found.vertices[:, rows] - mine, true.vertices[:, rows] - theirs
            values["body-MVE"] = distances(*mesh).mean()
        return Scores(len(true), [_value(k, _round(1000 * v)) for k, v in values.items()], notes)

    def score_files(self, config: ScoreConfig) -> Scores:
        """Return the script's numbers, in its order."""
        if not config.indices:
            raise UserError(
                "indices= is not set: a folder with body_verts_smpl.npy, or body_verts_smplx.npy, "
                "MANO_SMPLX_vertex_ids.pkl and SMPL-X__FLAME_vertex_ids.npy"
            )
        predictions = _list_predictions(config.predictions)
        tally, images, parts, whole = Tally(), 0, None, False
        for path in list_files(config.truth, ".pkl"):
            with reading(path, "AGORA data frame with joints and vertices"):
                table = take_tree(read_pickle(path))
                for row in range(len(table["imgPath"])):
                    name = os.path.basename(take_text(table["imgPath"][row]))
                    true = _read_people(table, row)
                    found = [_read_prediction(one) for one in predictions.pop(name, [])]
                    if parts is None and true:
                        count = len(true[0].vertices)
                        whole = count == SMPLX_VERTICES
                        parts = _Parts(config.indices, count)
                    _count_image(tally, table, row, true, found, parts)
                    images += 1
        if predictions:
            raise UserError(
                f"{config.predictions}: {len(predictions)} images such as {min(predictions)} are "
                f"none of the {images} of {config.truth}"
            )
        return _summarise(tally, whole, images)


class _Parts:
    """Which vertices and joints each part has."""

    def __init__(self, folder: str, vertices: int) -> None:
        self.vertices = vertices
        self.body = read_body(folder, vertices)
        self.hands = self.face = None
        if vertices == SMPLX_VERTICES:
            self.hands, self.face = read_hands(folder), read_face(folder)

    def measure(self, found: Person, true: Person) -> Errors:
        """Return the errors of a matched person, metres."""
        for part, mine, theirs in (
            ("verts", found.vertices, true.vertices),
            ("allSmplJoints3d", found.joints, true.joints),
        ):
            if len(mine) < len(theirs) and (part == "verts" or len(mine) < self.least_joints):
                raise UserError(f"a prediction's {part} are {len(mine)}, the truth's {len(theirs)}")
        count = BODY_JOINTS[self.vertices]
        out = self._measure_part("body", found, true, slice(0, count), self.body, HIPS)
        if self.hands is not None and self.face is not None:
            for name, wrist, fingers, vertices in zip(
                PARTS, WRISTS, FINGERS, self.hands, strict=False
            ):
                rows = np.r_[wrist, fingers]
                out |= self._measure_part(name, found, true, rows, vertices, (wrist,))
            rows = np.r_[NECK, FACE]
            out |= self._measure_part("face", found, true, rows, self.face, (NECK,))
        return out

    @property
    def least_joints(self) -> int:
        """How many joints a prediction has to have."""
        return FACE.stop if self.vertices == SMPLX_VERTICES else BODY_JOINTS[self.vertices]

    @staticmethod
    def _measure_part(
        name: str,
        found: Person,
        true: Person,
        joints: "slice | np.ndarray",
        vertices: np.ndarray,
        roots: tuple[int, ...],
    ) -> Errors:
        mine, theirs = (person.joints[list(roots)].mean(0) for person in (found, true))
        points = distances(found.joints[joints] - mine, true.joints[joints] - theirs)
        mesh = distances(found.vertices[vertices] - mine, true.vertices[vertices] - theirs)
        return {f"{name}-MPJPE": float(points.mean()), f"{name}-MVE": float(mesh.mean())}


def _count_image(
    tally: Tally,
    table: Mapping[str, Any],
    row: int,
    true: list[Person],
    found: list[Person],
    parts: "_Parts | None",
) -> None:
    valid = np.array([bool(one) for one in table["isValid"][row]], bool)
    hidden = np.array([float(one) for one in table["occlusion"][row]], float)
    counts = valid & (hidden >= 0) & (hidden <= OCCLUSION_MAX)
    matching = match_people(
        [person.pixels for person in found], [person.pixels for person in true], counts
    )
    if found:
        tally.false_positives += matching.false_positives
    for place in np.flatnonzero(valid):
        partner = int(matching.partner[place])
        missed = partner < 0
        errors: Errors = {}
        if parts is not None and not missed:
            errors = parts.measure(found[partner], true[place])
        tally.errors.append(errors)
        tally.zeros.append(missed and bool(found))
        tally.missed.append(missed)
        tally.kids.append(bool(table["kid"][row][place]))


def _summarise(tally: Tally, whole: bool, images: int) -> Scores:
    """The script's numbers, rounded where it rounds: each step goes on from rounded ones."""
    values: dict[str, float] = {}
    count, missed = len(tally.missed), sum(tally.missed)
    kids = np.array(tally.kids, bool)
    kid_missed = int((np.array(tally.missed, bool) & kids).sum())
    values["precision"], values["recall"], f1 = _rate(count, missed, tally.false_positives)
    values["f1"] = f1
    kid_count = int(kids.sum())
    rates = _rate(kid_count, kid_missed, tally.false_positives) if kid_count else (NOTHING,) * 3
    for key, value in zip(("kid_precision", "kid_recall", "kid_f1"), rates, strict=True):
        values[key] = value
    for prefix, rows, score in (("", np.ones(count, bool), f1), ("kid-", kids, rates[2])):
        for kind, divided in (("MPJPE", "NMJE"), ("MVE", "NMVE")):
            mean = _mean_found(tally, f"body-{kind}", rows)
            values[f"{prefix}body-{kind}"] = mean
            values[f"{prefix}body-{divided}"] = _divide(mean, score)
            if whole:
                each = [_mean_with_zeros(tally, f"{part}-{kind}", rows) for part in PARTS]
                for part, number in zip(PARTS, each, strict=True):
                    values[f"{prefix}{part}-{kind}"] = number
                left, right, face = (number * (1 / 3) for number in each)
                full = _round(mean + left + right + face)
                values[f"{prefix}fullbody-{kind}"] = full
                values[f"{prefix}fullbody-{divided}"] = _divide(full, f1)
    listed = [_value(key, value) for key, value in values.items()]
    notes = [f"{images} images; {count} people count, {missed} of them missed."]
    if any(np.isnan(value.value) for value in listed if not value.key.startswith("kid")):
        notes.append("NaN stands where the script divides by 0 or takes the mean of nothing.")
    return Scores(count, listed, notes)


def _value(key: str, value: float) -> Value:
    rate = key.removeprefix("kid_") in ("precision", "recall", "f1")
    if rate:
        return Value(key, key.replace("_", " "), value, "", 2, "higher")
    return Value(key, key.replace("-", " "), value, "mm", 1)


def _rate(count: int, missed: int, wrong: int) -> tuple[float, float, float]:
    """(precision, recall, F1), rounded to 0.01."""
    if not count:
        return 0.0, 0.0, 0.0
    right = count - missed
    precision = round(right / (right + wrong), 2) if right + wrong else NOTHING
    return precision, round(right / count, 2), round(right / (right + 0.5 * (wrong + missed)), 2)


def _round(value: float) -> float:
    """To a tenth, as numpy rounds."""
    return float(np.round(np.float64(value), 1))


def _divide(value: float, score: float) -> float:
    return _round(value / score) if score else NOTHING


def _mean_found(tally: Tally, key: str, rows: np.ndarray) -> float:
    """Millimetres of the people that were found."""
    numbers = [one[key] for one, row in zip(tally.errors, rows, strict=True) if row and one]
    return _round(1000 * float(np.mean(numbers))) if numbers else NOTHING


def _mean_with_zeros(tally: Tally, key: str, rows: np.ndarray) -> float:
    """Millimetres as the script has them of hands and face.

    People who were missed in an image with predictions count with an error of 0.
    """
    numbers = []
    for one, zero, row in zip(tally.errors, tally.zeros, rows, strict=True):
        if row and (one or zero):
            numbers.append(one.get(key, 0.0))
    return _round(1000 * float(np.mean(numbers))) if numbers else NOTHING


def _read_people(table: Mapping[str, Any], row: int) -> list[Person]:
    people = []
    for person in range(len(table["gt_joints_2d"][row])):
        people.append(
            Person(
                as_numbers(table["gt_joints_2d"][row][person], "gt_joints_2d", -1, 2),
                as_numbers(table["gt_joints_3d"][row][person], "gt_joints_3d", -1, 3),
                as_numbers(table["gt_verts"][row][person], "gt_verts", -1, 3),
            )
        )
    return people


def _list_predictions(folder: str) -> dict[str, list[str]]:
    """{image: paths of its people}."""
    out: dict[str, list[str]] = {}
    for path in list_files(folder, ".pkl"):
        stem, middle, number = os.path.basename(path)[: -len(".pkl")].rpartition("_personId_")
        if not middle or not number.isdigit():
            raise UserError(f"{path}: its name is not IMAGE_personId_N.pkl")
        out.setdefault(f"{stem}.png", []).append(path)
    return out


def _read_prediction(path: str) -> Person:
    with reading(path, "AGORA prediction"):
        tree = take_tree(read_pickle(path))
        if "allSmplJoints3d" not in tree and "params" in tree:
            raise UserError(
                f"{path} holds parameters alone; allSmplJoints3d and verts are wanted beside them"
            )
        pixels = np.asarray(tree["joints"], np.float64).squeeze()
        joints = np.asarray(tree["allSmplJoints3d"], np.float64).squeeze()
        vertices = np.asarray(tree["verts"], np.float64).squeeze()
        person = Person(
            as_numbers(pixels[:, :2], "joints", -1, 2),
            as_numbers(joints, "allSmplJoints3d", -1, 3),
            as_numbers(vertices, "verts", -1, 3),
        )
    for name in ("pixels", "joints", "vertices"):
        if not np.isfinite(getattr(person, name)).all():
            raise UserError(f"{path}: {name} hold NaN or infinity")
    return person

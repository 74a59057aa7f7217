"""3DPW's challenge (ECCV 2020): 24 SMPL joints about the pelvis, PCK, AUC, orientations.

    PREDICTIONS/SPLIT/SEQUENCE.pkl      jointPositions (P, F, 24, 3), orientations (P, F, 9, 3, 3)
    TRUTH/SPLIT/SEQUENCE.pkl            3DPW's sequenceFiles

The script poses SMPL for the true joints; here they are the files' own ``jointPositions``.
"""

import os
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data.bodies.smpl_layout import SMPL
from data.format.joint_sets import find_joint_set
from data.sources.labelled.bodies import reading, take_numbers, take_tree
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import list_files
from engine.errors import UserError, explain, failure_of
from engine.run.files import make_folder, write_file
from finetune.evaluation.protocols import PROTOCOLS, FrameProtocol, Frames, RunJoints, Scores, Value
from finetune.evaluation.scoring.align import fit_similarity
from finetune.evaluation.scoring.body_errors import (
    MM,
    ORIENTED,
    angle_errors,
    area_within,
    list_means,
    pck_within,
)
from finetune.evaluation.scoring.errors import distances
from finetune.verb_config import ScoreConfig

SPLITS = ("train", "validation", "test")
MAJOR = (1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21)  # joints of PCK and AUC
LIMIT_MM = 50.0
LIMITS_MM = np.arange(0.0, 200.0)
JOINTS = 24


@PROTOCOLS.register("3dpw_challenge")
class ThreeDPWChallenge(FrameProtocol):
    """The challenge's numbers over all splits that the truth holds."""

    title = "3DPW challenge"
    script = "aymenmir1/3dpw-eval evaluate.py"
    joint_set = "smpl24, PCK and AUC: 12 of them; angles: 9"
    root = "pelvis (joint 0)"
    alignment = "shift, rotation and scale by the 24 joints; its rotation turns orientations"
    unit = "mm, degrees; PCK in %"
    counted = "a valid camera and some 2D joint"
    averaging = "joints of a frame, then frames of all sequences"
    kind = "body"
    submission = "folder SPLIT/SEQUENCE.pkl: jointPositions P x F x 24 x 3 metres, orientations"
    truth = "sequenceFiles of 3DPW, all splits of it or with split= one"
    run = RunJoints(find_joint_set("smpl24").joints, rotations=ORIENTED)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames of all people of all sequences."""
        found: list[Frames] = []
        true: list[Frames] = []
        for predicted, truth in _pair_files(config):
            for mine, theirs in _read_sequence(predicted, truth):
                found.append(mine)
                true.append(theirs)
        return _join(found, config.predictions), _join(true, config.truth)

    def write(self, path: str, found: Frames) -> None:
        """Write a folder of pickles; frames that shards do not hold, which do not count, are 0."""
        if found.index is None or found.sequence is None or found.split is None:
            raise UserError(f"submission={path}: {found.name} does not say which frames it is of")
        names = [str(one).rsplit("/", 2) for one in found.sequence]
        keys = [(str(found.split[row]), names[row][-2]) for row in range(len(found))]
        for split, sequence in dict.fromkeys(keys):
            rows = [row for row, key in enumerate(keys) if key == (split, sequence)]
            people = [_spread(found, rows, names, person) for person in _list_people(rows, names)]
            write_sequence(path, split, sequence, people)

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the script's numbers, in its order."""
        mine = found.joints - found.joints[:, :1]
        theirs = true.joints - true.joints[:, :1]
        plain = distances(mine, theirs) * MM
        # A body in one point, which the script moves to the mean of the true joints.
        point = np.abs(mine).sum((1, 2)) == 0
        fit = fit_similarity(mine, theirs)
        moved = np.where(point[:, None, None], theirs.mean(1, keepdims=True), fit(mine))
        fit.rotation[point] = np.eye(3)
        major = plain[:, MAJOR]
        values = list_means(
            [
                ("MPJPE", "MPJPE", plain, "mm", 4),
                ("MPJPE_PA", "PA-MPJPE", distances(moved, theirs) * MM, "mm", 4),
            ]
        )
        values += [
            Value("PCK", "PCK within 50 mm", pck_within(major, LIMIT_MM), "%", 4, "higher"),
            Value("AUC", "AUC, 0 to 199 mm", area_within(major, LIMITS_MM), "", 4, "higher"),
        ]
        if found.rotations is not None and true.rotations is not None:
            turned = fit.rotation[:, None] @ found.rotations
            values += list_means(
                [
                    ("MPJAE", "angles", angle_errors(found.rotations, true.rotations), "deg", 4),
                    ("MPJAE_PA", "angles, aligned", angle_errors(turned, true.rotations), "deg", 4),
                ]
            )
        notes = []
        if point.any():
            notes.append(
                f"In {int(point.sum())} of {len(found)} frames all predicted joints lie in one "
                f"point: the alignment puts them at the mean of the truth."
            )
        return Scores(len(true), values, notes)


def _list_people(rows: list[int], names: list[list[str]]) -> range:
    return range(max(int(names[row][-1]) for row in rows) + 1)


def _spread(found: Frames, rows: list[int], names: list[list[str]], person: int) -> Frames:
    """One person's frames from the first of the sequence to the last that anybody has."""
    assert found.index is not None
    count = int(found.index[rows].max()) + 1
    mine = np.array([row for row in rows if int(names[row][-1]) == person], np.int64)
    joints = np.zeros((count, JOINTS, 3))
    joints[found.index[mine]] = found.joints[mine]
    turns = None
    if found.rotations is not None:
        turns = np.zeros((count, len(ORIENTED), 3, 3))
        turns[found.index[mine]] = found.rotations[mine]
    return Frames(joints, rotations=turns)


def write_sequence(folder: str, split: str, sequence: str, people: list[Frames]) -> None:
    """Write the predictions of one sequence as its pickle: lists of numbers, for any numpy.

    Args:
        people: of one length, a person each; all with rotations of ORIENTED, or none.
    Raises:
        UserError: it cannot be written.
    """
    value: dict[str, Any] = {"jointPositions": [one.joints.tolist() for one in people]}
    if all(one.rotations is not None for one in people):
        value["orientations"] = [
            one.rotations.tolist() for one in people if one.rotations is not None
        ]
    make_folder(os.path.join(folder, split), f"submission={folder}")
    path = os.path.join(folder, split, f"{sequence}.pkl")
    try:
        write_file(path, pickle.dumps(value, protocol=2))
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _pair_files(config: ScoreConfig) -> Iterator[tuple[str, str]]:
    """Yield (predictions, truth) of each sequence."""
    splits = [config.split] if config.split else list(SPLITS)
    there = [name for name in splits if os.path.isdir(os.path.join(config.truth, name))]
    if not there:
        raise UserError(f"truth={config.truth} has no folder {', '.join(splits)}")
    for split in there:
        true = list_files(os.path.join(config.truth, split), ".pkl")
        found = list_files(os.path.join(config.predictions, split), ".pkl")
        names = [os.path.basename(path) for path in true]
        theirs = [os.path.basename(path) for path in found]
        if names != theirs:
            odd = sorted(set(names) ^ set(theirs))
            raise UserError(
                f"{config.predictions}/{split} has {len(theirs)} sequences, {config.truth}/{split} "
                f"{len(names)}: {odd[0]} is in one of them alone"
            )
        yield from zip(found, true, strict=True)


def _read_sequence(predicted: str, truth: str) -> Iterator[tuple[Frames, Frames]]:
    """Yield the frames of each person that count."""
    with reading(truth, "3DPW sequence"):
        tree = take_tree(read_pickle(truth))
        people = [_read_truth(tree, person) for person in range(len(tree["poses"]))]
    with reading(predicted, "3DPW submission"):
        answers = take_tree(read_pickle(predicted))
    for person, (true, rows, count) in enumerate(people):
        shape = (len(people), count)
        needed = int(rows.max()) + 1 if len(rows) else 0
        joints = _take(answers, predicted, "jointPositions", (*shape, JOINTS, 3), needed)
        if joints is None:
            raise UserError(f"{predicted} has no jointPositions")
        turns = _take(answers, predicted, "orientations", (*shape, len(ORIENTED), 3, 3), needed)
        mine = Frames(
            joints[person, rows],
            rotations=None if turns is None else turns[person, rows],
            name=predicted,
        )
        true.name = truth
        yield mine, true


def _take(
    tree: Mapping[str, Any], path: str, name: str, shape: tuple[int, ...], needed: int
) -> np.ndarray | None:
    """An array of a submission; frames behind the last that counts (``needed``) may be missing."""
    if name not in tree:
        return None
    try:
        values = np.asarray(tree[name], np.float64)
    except (ValueError, TypeError):
        raise UserError(f"{path}: {name} is no array of numbers") from None
    fits = values.ndim == len(shape) and values.shape[:1] + values.shape[2:] == (
        shape[:1] + shape[2:]
    )
    if not fits or not needed <= values.shape[1] <= shape[1]:
        raise UserError(f"{path}: {name} has shape {values.shape}, the truth asks for {shape}")
    return values


def _read_truth(tree: Mapping[str, Any], person: int) -> tuple[Frames, np.ndarray, int]:
    """(Frames in the camera's axes, rows that count, number of all frames)."""
    from finetune.evaluation.scoring.posed import chain_rotations

    poses = np.asarray(tree["poses"][person], np.float64)
    count = len(poses)
    pixels = np.asarray(tree["poses2d"][person], np.float64)
    valid = np.asarray(tree["campose_valid"][person]).astype(bool)
    rows = np.flatnonzero(valid & (np.abs(pixels).reshape(count, -1).sum(1) != 0))
    cameras = take_numbers(tree, "cam_poses", count, 4, 4)[rows]
    places = np.asarray(tree["jointPositions"][person], np.float64).reshape(count, JOINTS, 3)
    turn = cameras[:, :3, :3]
    joints = places[rows] @ turn.transpose(0, 2, 1) + cameras[:, None, :3, 3]
    chained = chain_rotations(poses[rows], list(SMPL.parents))[:, ORIENTED]
    return Frames(joints, rotations=turn[:, None] @ chained), rows, count


def _join(parts: list[Frames], name: str) -> Frames:
    turns = [part.rotations for part in parts if part.rotations is not None]
    if turns and len(turns) < len(parts):
        raise UserError(
            f"{name}: {len(turns)} of {len(parts)} people have orientations; all or none must"
        )
    return Frames(
        np.concatenate([part.joints for part in parts]),
        rotations=np.concatenate(turns) if turns else None,
        name=name,
    )

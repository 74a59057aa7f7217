"""EMDB 1: SMPL joints, mesh and orientations on the good frames, and jitter.

TRUTH/PERSON/SEQUENCE/PERSON_SEQUENCE_data.pkl
PREDICTIONS/PERSON_SEQUENCE.npz     pose (F, 72), betas (F, 10) or (10,), for all frames up to the
                                    last good one at least, in the camera's axes; gender, "neutral"
                                    where it is not there
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.format.joint_sets import find_joint_set
from data.sources.labelled.bodies import as_numbers, gender_name, reading, take_numbers, take_tree
from data.sources.labelled.npz import read_npz
from data.sources.labelled.pickles import read_pickle
from data.sources.labelled.places import list_files
from engine.errors import UserError, explain, failure_of
from engine.run.files import make_folder, replace_file
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    Value,
    check_frames,
    describe_points,
)
from finetune.evaluation.scoring.align import centre, fit_similarity
from finetune.evaluation.scoring.body_errors import MM, NAN_NOTE, ORIENTED, angle_errors
from finetune.evaluation.scoring.errors import distances
from finetune.verb_config import ScoreConfig

LEFT_HIP, RIGHT_HIP = 1, 2
RATE_HZ = 30.0
STILL = (0, 7, 8, 10, 11, 20, 21, 22, 23)  # joints that jitter is not taken of
SUFFIX = "_data.pkl"
KEYS = ("pose", "betas", "gender")


@PROTOCOLS.register("emdb")
class Emdb(FrameProtocol):
    """EMDB 1 (``split=emdb2``: those sequences)."""

    title = "EMDB 1"
    script = "eth-ait/emdb evaluation_metrics.py, evaluation_engine.py"
    joint_set = "smpl24, angles: 9 of them"
    root = "middle of the hips (joints 1 and 2)"
    alignment = "shift, rotation and scale by the 24 joints, of joints, mesh and orientations"
    unit = "mm, degrees; jitter in 10 m/s^3"
    counted = "good_frames_mask; frames beside a gap follow each other in the jitter"
    averaging = "joints of a frame, then frames of all sequences; jitter: sequences"
    kind = "body"
    submission = "folder PERSON_SEQUENCE.npz: pose, betas (gender), in the camera's axes"
    truth = "folder of EMDB"
    run = RunJoints(find_joint_set("smpl24").joints, rotations=ORIENTED, untranslated=True)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames of all sequences."""
        pairs = [_read_pair(path, config) for path in _list_truth(config)]
        found = _join([pair[0] for pair in pairs], config.predictions)
        return found, _join([pair[1] for pair in pairs], config.truth)

    def write(self, path: str, found: Frames) -> None:
        """Write the poses of each sequence up to its last frame; those that shards lack are 0."""
        if found.pose is None or found.shape is None:
            raise UserError(f"submission={path} holds SMPL's parameters, and {found.name} has none")
        assert found.sequence is not None and found.index is not None
        if (found.index < 0).any():
            raise UserError(f"submission={path}: {found.name} does not say which frames it is of")
        make_folder(path, f"submission={path}")
        for sequence in dict.fromkeys(found.sequence.tolist()):
            rows = np.flatnonzero(found.sequence == sequence)
            count = int(found.index[rows].max()) + 1
            pose, betas = np.zeros((count, 72)), np.zeros((count, found.shape.shape[1]))
            pose[found.index[rows]] = _to_vectors(found.pose[rows])
            betas[found.index[rows]] = found.shape[rows]
            _save(
                os.path.join(path, f"{sequence.rpartition('/')[2]}.npz"), pose, betas, found.variant
            )

    def score_files(self, config: ScoreConfig) -> Scores:
        """Return the numbers of files, a sequence's meshes at a time."""
        parts, found, true = [], [], []
        for path in _list_truth(config):
            mine, theirs = _read_pair(path, config)
            check_frames(mine, theirs)
            parts.append(_measure(mine, theirs))
            mine.vertices = theirs.vertices = None  # 0.3 MB a frame
            found.append(mine)
            true.append(theirs)
        return _summarise(parts, _join(found, config.predictions), len(parts))

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the numbers of frames, of one or several sequences."""
        if true.sequence is None:
            return _summarise([_measure(found, true)], found, 1)
        names = list(dict.fromkeys(true.sequence.tolist()))
        parts = []
        for name in names:
            rows = np.flatnonzero(true.sequence == name)
            parts.append(_measure(_select(found, rows), _select(true, rows)))
        return _summarise(parts, found, len(names))


def _to_vectors(rotations: np.ndarray) -> np.ndarray:
    """(N, 72) rotation vectors of (N, 24, 3, 3)."""
    import cv2

    vectors = [cv2.Rodrigues(matrix)[0] for matrix in rotations.reshape(-1, 3, 3)]
    return np.reshape(vectors, (len(rotations), -1))


def _save(path: str, pose: np.ndarray, betas: np.ndarray, gender: str) -> None:
    try:
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, pose=pose, betas=betas, gender=gender)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _measure(found: Frames, true: Frames) -> dict[str, np.ndarray]:
    """{key: (F,) errors of frames} of one sequence, and its jitter."""
    mine, theirs = _about_hips(found), _about_hips(true)
    fit = fit_similarity(mine.joints, theirs.joints)
    out = {
        "MPJPE": (distances(mine.joints, theirs.joints) * MM).mean(1),
        "MPJPE_PA": (distances(fit(mine.joints), theirs.joints) * MM).mean(1),
    }
    if found.rotations is not None and true.rotations is not None:
        turned = fit.rotation[:, None] @ found.rotations
        out["MPJAE"] = angle_errors(found.rotations, true.rotations).mean(1)
        out["MPJAE_PA"] = angle_errors(turned, true.rotations).mean(1)
    if mine.vertices is not None and theirs.vertices is not None:
        out["MVE"] = (distances(mine.vertices, theirs.vertices) * MM).mean(1)
        out["MVE_PA"] = (distances(fit(mine.vertices), theirs.vertices) * MM).mean(1)
    out["Jitter"] = np.array([_measure_jitter(found.joints)])
    return out


def _about_hips(frames: Frames) -> Frames:
    hips = (frames.joints[:, LEFT_HIP] + frames.joints[:, RIGHT_HIP]) / 2
    mesh = None if frames.vertices is None else centre(frames.vertices, hips)
    return Frames(centre(frames.joints, hips), mesh)


def _measure_jitter(joints: np.ndarray) -> float:
    """Mean third difference of a sequence's joints in 10 m/s^3; NaN of fewer than four frames.

    Joints of STILL count as joints that do not move.
    """
    moving = joints.copy()
    moving[:, STILL] = 0
    jerk = np.linalg.norm(np.diff(moving, n=3, axis=0), axis=2) * RATE_HZ**3
    return float(jerk.mean()) / 10 if jerk.size else float("nan")


NAMES = {
    "MPJPE": ("MPJPE", "mm"),
    "MPJPE_PA": ("PA-MPJPE", "mm"),
    "MPJAE": ("angles", "deg"),
    "MPJAE_PA": ("angles, aligned", "deg"),
    "Jitter": ("jitter", "10 m/s^3"),
    "MVE": ("PVE", "mm"),
    "MVE_PA": ("PVE by the joints' alignment", "mm"),
}


def _summarise(parts: list[dict[str, np.ndarray]], found: Frames, sequences: int) -> Scores:
    """Means and standard deviations over all frames (of jitter over sequences)."""
    values = []
    for key, (name, unit) in NAMES.items():
        if key not in parts[0]:
            continue
        numbers = np.concatenate([part[key] for part in parts])
        values.append(Value(key, name, float(numbers.mean()), unit, 4))
        spread = float(numbers.std())
        values.append(Value(f"{key} std", f"{name}, standard deviation", spread, unit, 4))
    notes = [f"{sequences} sequences.", *describe_points(found, NAN_NOTE)]
    return Scores(len(found), values, notes)


def _select(frames: Frames, rows: np.ndarray) -> Frames:
    def take(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows]

    return Frames(
        frames.joints[rows],
        take(frames.vertices),
        rotations=take(frames.rotations),
        name=frames.name,
    )


def _list_truth(config: ScoreConfig) -> list[str]:
    """Paths of the sequences' pickles."""
    paths = []
    for folder, names, files in os.walk(config.truth):
        names.sort()
        paths += [os.path.join(folder, name) for name in sorted(files) if name.endswith(SUFFIX)]
    wanted = config.split or "emdb1"
    if wanted not in ("emdb1", "emdb2"):
        raise UserError(f"split={wanted} is neither emdb1 nor emdb2")
    chosen = []
    for path in paths:
        with reading(path, "EMDB sequence"):
            if bool(take_tree(read_pickle(path))[wanted]):
                chosen.append(path)
    if not chosen:
        raise UserError(f"truth={config.truth}: {len(paths)} sequences, none of {wanted}")
    return chosen


def _read_pair(path: str, config: ScoreConfig) -> tuple[Frames, Frames]:
    """(predicted, true) good frames of a sequence."""
    from finetune.evaluation.scoring.posed import SmplPoser

    with reading(path, "EMDB sequence"):
        tree = take_tree(read_pickle(path))
        count = int(tree["n_frames"])
        rows = np.flatnonzero(take_numbers(tree, "good_frames_mask", count) > 0)
        true = _read_truth(tree, count, rows)
    true.name = path
    name = os.path.basename(path)[: -len(SUFFIX)]
    predicted = os.path.join(config.predictions, f"{name}.npz")
    if not os.path.isfile(predicted):
        there = list_files(config.predictions, ".npz")
        raise UserError(f"{predicted} is not there, and {len(there)} other npz are")
    with reading(predicted, "npz of predictions"):
        arrays = read_npz(predicted, KEYS)
        pose = as_numbers(arrays["pose"], "pose", len(arrays["pose"]), 72)
        needed = int(rows.max(initial=-1)) + 1
        if not needed <= len(pose) <= count:
            raise UserError(
                f"{predicted} holds {len(pose)} frames, {path} {count}, the last good one of which "
                f"is number {needed}"
            )
        betas = np.atleast_2d(np.asarray(arrays["betas"], np.float64))
        betas = np.broadcast_to(betas, (len(pose), betas.shape[1]))
        variant = gender_name(arrays["gender"].item()) if "gender" in arrays else "neutral"
    # The script puts predictions at no translation, as this does.
    posed = SmplPoser(variant)(pose[rows], betas[rows])
    turns = posed.rotations[:, ORIENTED]
    return Frames(posed.joints, posed.vertices, rotations=turns, name=predicted), true


def _read_truth(tree: Mapping[str, Any], count: int, rows: np.ndarray) -> Frames:
    from finetune.evaluation.scoring.posed import SmplPoser

    smpl = tree["smpl"]
    root = take_numbers(smpl, "poses_root", count, 3)[rows]
    pose = np.concatenate([root, take_numbers(smpl, "poses_body", count, 69)[rows]], 1)
    betas = np.broadcast_to(take_numbers(smpl, "betas", -1), (len(rows), len(smpl["betas"])))
    transl = take_numbers(smpl, "trans", count, 3)[rows]
    posed = SmplPoser(gender_name(tree["gender"]))(pose, betas, transl)
    cameras = take_numbers(tree["camera"], "extrinsics", count, 4, 4)[rows]
    turn, shift = cameras[:, :3, :3], cameras[:, None, :3, 3]
    return Frames(
        posed.joints @ turn.transpose(0, 2, 1) + shift,
        posed.vertices @ turn.transpose(0, 2, 1) + shift,
        rotations=turn[:, None] @ posed.rotations[:, ORIENTED],
    )


def _join(parts: list[Frames], name: str) -> Frames:
    meshes = [part.vertices for part in parts if part.vertices is not None]
    turns = [part.rotations for part in parts if part.rotations is not None]
    sequence = np.concatenate([np.full(len(part), number) for number, part in enumerate(parts)])
    return Frames(
        np.concatenate([part.joints for part in parts]),
        np.concatenate(meshes) if meshes else None,
        rotations=np.concatenate(turns) if turns else None,
        sequence=sequence,
        name=name,
    )

"""Files of the protocols of SPIN's script: predictions, data sets as npz, and a joint regressor.

predictions.npz     pred_joints (N, 17, 3), what SPIN's own --result_file holds; or vertices
                    (N, V, 3), from which regressor= makes them. Metres
truth.npz           S (N, 24, 4) of SPIN's preprocessing; or pose, shape and gender of SMPL; or
                    pred_joints or vertices as above
"""

import numpy as np

from data.sources.labelled.bodies import as_numbers, gender_name, reading
from data.sources.labelled.npz import read_npz
from engine.errors import UserError, explain, failure_of
from engine.run.files import replace_file
from finetune.evaluation.protocols import Frames
from finetune.verb_config import ScoreConfig

ROWS = 17  # of J_regressor_h36m
# Rows of the regressor, and places among SPIN's 24, of 17 joints: LSP's 14, then pelvis, torso and
# head of Human3.6M.
REGRESSED = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9)
LABELLED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 14, 16, 17)
POINTS = ("pred_joints", "vertices", "sequence")
CHUNK = 64


def read_predictions(config: ScoreConfig, joints: int) -> Frames:
    """Return predicted frames of an npz.

    Args:
        joints: 14 or 17.
    Raises:
        UserError: the file cannot be read or has neither joints nor vertices.
    """
    path = config.predictions
    with reading(path, "npz of predictions"):
        arrays = read_npz(path, POINTS)
    rows = _regress(arrays, path, config)
    if rows is None:
        raise UserError(f"{path} has neither pred_joints nor vertices")
    return make_frames(rows, arrays.get("vertices"), joints, path)


def read_labelled(path: str, joints: int, camera: str = "") -> tuple[Frames, np.ndarray]:
    """Return true frames of an npz of SPIN's preprocessing, and which of its rows they are.

    Args:
        joints: 14 or 17.
        camera: only images whose names hold it count; "": all.
    Raises:
        UserError: there is no S, or a joint that counts is not labelled.
    """
    with reading(path, "npz file of SPIN"):
        arrays = read_npz(path, ("S", "imgname"))
        if "S" not in arrays:
            raise UserError(f"{path} has no S, the joints of SPIN's preprocessing")
        labelled = as_numbers(arrays["S"], "S", len(arrays["S"]), 24, 4)
        rows = np.arange(len(labelled))
        if camera and "imgname" in arrays:
            names = [str(name) for name in arrays["imgname"]]
            rows = np.array([i for i, name in enumerate(names) if camera in name], np.int64)
            if not len(rows):
                raise UserError(f"{path}: no image of camera {camera} among {len(names)}")
    chosen = labelled[rows][:, LABELLED[:joints]]
    missing = (chosen[..., 3] <= 0).any(1)
    if missing.any():
        raise UserError(
            f"{path}: {int(missing.sum())} of {len(rows)} rows lack some of the {joints} joints, "
            f"the first is row {int(rows[missing.argmax()])}"
        )
    sequence = None
    if "imgname" in arrays:
        sequence = np.array([str(name).rpartition("_")[0] for name in arrays["imgname"][rows]])
    # S is about the pelvis already, and the script takes it as it is.
    pelvis = np.zeros((len(rows), 3))
    return Frames(chosen[..., :3], None, pelvis, sequence=sequence, name=path), rows


def read_posed(config: ScoreConfig, with_vertices: bool) -> Frames:
    """Return true frames of 14 joints: of points in the file, or of its SMPL parameters posed.

    Raises:
        UserError: the file has neither, or there is no regressor for meshes.
    """
    path = config.truth
    with reading(path, "npz of the truth"):
        arrays = read_npz(path, (*POINTS, "pose", "shape", "gender", "imgname"))
        rows = _regress(arrays, path, config)
        if rows is None and not {"pose", "shape"} <= arrays.keys():
            raise UserError(f"{path} has neither pred_joints, nor vertices, nor pose and shape")
        vertices = arrays.get("vertices")
        if rows is None:
            rows, vertices = _pose_and_regress(arrays, config, with_vertices)
    frames = make_frames(rows, vertices if with_vertices else None, 14, path)
    names = arrays.get("sequence")
    if names is None and "imgname" in arrays:
        names = np.array([str(name).rpartition("/")[0] for name in arrays["imgname"]])
    frames.sequence = names
    return frames


def make_frames(rows: np.ndarray, vertices: np.ndarray | None, joints: int, name: str) -> Frames:
    """Return the Frames of (N, 17, 3) rows of the regressor."""
    meshes = None if vertices is None else np.asarray(vertices, np.float64)
    points = np.asarray(rows, np.float64)
    return Frames(points[:, REGRESSED[:joints]], meshes, points[:, 0], name=name)


def write_predictions(path: str, found: Frames) -> None:
    """Write predictions as an npz of pred_joints: rows of the regressor, those unused 0.

    Raises:
        UserError: it cannot be written.
    """
    rows = np.zeros((len(found), ROWS, 3))
    rows[:, REGRESSED[: found.joints.shape[1]]] = found.joints
    if found.pelvis is not None:
        rows[:, 0] = found.pelvis
    try:
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, pred_joints=rows)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def read_regressor(path: str) -> np.ndarray:
    """Return (17, V) float64 of a .npy file.

    Raises:
        UserError: it is not named, cannot be read or is of another shape.
    """
    if not path:
        raise UserError("regressor= is not set: J_regressor_h36m.npy makes joints of meshes")
    with reading(path, "joint regressor"):
        matrix = np.load(path, allow_pickle=False)
    if matrix.ndim != 2 or matrix.shape[0] != ROWS:
        raise UserError(f"regressor={path} has shape {matrix.shape}, not ({ROWS}, vertices)")
    return matrix.astype(np.float64)


def _regress(arrays: dict[str, np.ndarray], path: str, config: ScoreConfig) -> np.ndarray | None:
    """(N, 17, 3) of an npz that has them, or vertices."""
    if "pred_joints" in arrays:
        return as_numbers(arrays["pred_joints"], "pred_joints", len(arrays["pred_joints"]), 17, 3)
    if "vertices" not in arrays:
        return None
    vertices = as_numbers(arrays["vertices"], "vertices", len(arrays["vertices"]), -1, 3)
    matrix = read_regressor(config.regressor)
    if matrix.shape[1] != vertices.shape[1]:
        raise UserError(
            f"regressor={config.regressor} is of {matrix.shape[1]} vertices, {path} has "
            f"{vertices.shape[1]}"
        )
    return matrix @ vertices


def _pose_and_regress(
    arrays: dict[str, np.ndarray], config: ScoreConfig, with_vertices: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Joints, and meshes if wanted, of SMPL's parameters, by the actors' genders."""
    from finetune.evaluation.scoring.posed import SmplPoser

    count = len(arrays["pose"])
    pose = as_numbers(arrays["pose"], "pose", count, 72)
    shape = as_numbers(arrays["shape"], "shape", count, 10)
    genders = arrays.get("gender", np.full(count, "neutral"))
    variants = np.array([gender_name(gender) for gender in genders])
    matrix = read_regressor(config.regressor)
    rows = np.zeros((count, ROWS, 3))
    meshes: np.ndarray | None = None
    for variant in sorted(set(variants)):
        mine, poser = np.flatnonzero(variants == variant), SmplPoser(str(variant))
        for start in range(0, len(mine), CHUNK):
            part = mine[start : start + CHUNK]
            posed = poser(pose[part], shape[part])
            rows[part] = matrix @ posed.vertices
            if with_vertices:
                if meshes is None:
                    meshes = np.zeros((count, *posed.vertices.shape[1:]))
                meshes[part] = posed.vertices
    return rows, meshes

"""The numbers of FreiHAND's and HO-3D's scripts, which differ in one alignment."""

import numpy as np

from finetune.evaluation.protocols import Frames, Value
from finetune.evaluation.scoring.align import align_orthogonal, apply_orthogonal, fit_orthogonal
from finetune.evaluation.scoring.errors import area_under, distances, f_scores, share_within

CENTIMETRES = 100.0
THRESHOLDS_M = np.linspace(0.0, 0.05, 100)  # of the area under the curve
F_THRESHOLDS_M = (0.005, 0.015)
DIGITS = 6  # scores.txt is written with %f
NO_MESH = -1.0  # what the scripts write where meshes are of another number of vertices


def list_errors(key: str, name: str, errors: np.ndarray) -> list[Value]:
    """Return mean (cm) and area under the curve from 0 to 5 cm of (N, K) distances in metres.

    All points of all frames count alike.
    """
    area = area_under(THRESHOLDS_M, share_within(errors, THRESHOLDS_M))
    return _list_pair(key, name, float(errors.mean()) * CENTIMETRES, area)


def list_mesh_errors(found: Frames, true: Frames) -> list[Value]:
    """Return the numbers of meshes: raw, aligned, F-scores of both.

    A mesh with another number of vertices than the truth's is aligned by its joints and has
    F-scores alone; the scripts write -1 for the rest. Without meshes there are no numbers of them.
    """
    mine, theirs = found.vertices, true.vertices
    if mine is None or theirs is None:
        return []
    if mine.shape == theirs.shape:
        aligned = align_orthogonal(mine, theirs)
        values = list_errors("mesh", "PVE", distances(mine, theirs))
        values += list_errors("mesh_al", "PA-PVE", distances(aligned, theirs))
    else:
        aligned = apply_orthogonal(fit_orthogonal(found.joints, true.joints), mine)
        values = _list_pair("mesh", "PVE", NO_MESH * CENTIMETRES, NO_MESH)
        values += _list_pair("mesh_al", "PA-PVE", NO_MESH * CENTIMETRES, NO_MESH)
    raw_scores = f_scores(mine, theirs, F_THRESHOLDS_M).mean(0)
    aligned_scores = f_scores(aligned, theirs, F_THRESHOLDS_M).mean(0)
    for threshold, raw, moved in zip(F_THRESHOLDS_M, raw_scores, aligned_scores, strict=True):
        mm = round(threshold * 1000)
        values.append(Value(f"f_score_{mm}", f"F@{mm} mm", float(raw), "", DIGITS, "higher"))
        values.append(
            Value(f"f_al_score_{mm}", f"PA-F@{mm} mm", float(moved), "", DIGITS, "higher")
        )
    return values


def _list_pair(key: str, name: str, mean_cm: float, area: float) -> list[Value]:
    return [
        Value(f"{key}_mean3d", name, mean_cm, "cm", DIGITS),
        Value(f"{key}_auc3d", f"AUC of {name}, 0 to 5 cm", area, "", DIGITS, "higher"),
    ]

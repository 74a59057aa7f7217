"""Which vertices are hands, face and body, by the files that SMPL-X's users have.

indices=/MANO_SMPLX_vertex_ids.pkl      {"left_hand", "right_hand"}
indices=/SMPL-X__FLAME_vertex_ids.npy   head and face
indices=/body_verts_smplx.npy           of agora_evaluation; body_verts_smpl.npy
"""

import os

import numpy as np

from data.sources.labelled.bodies import reading, take_tree
from data.sources.labelled.pickles import read_pickle
from engine.errors import UserError

HANDS, FACE = "MANO_SMPLX_vertex_ids.pkl", "SMPL-X__FLAME_vertex_ids.npy"
BODY = {6890: "body_verts_smpl.npy", 10475: "body_verts_smplx.npy"}


def read_hands(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (left, right) hands' vertices.

    Raises:
        UserError: the file cannot be read or is of another format.
    """
    path = os.path.join(folder, HANDS)
    with reading(path, "file of hands' vertices"):
        tree = take_tree(read_pickle(path))
        return _as_indices(tree["left_hand"]), _as_indices(tree["right_hand"])


def read_face(folder: str) -> np.ndarray:
    """Return the vertices of head and face."""
    return _read_array(os.path.join(folder, FACE))


def read_body(folder: str, vertices: int) -> np.ndarray:
    """Return the body's vertices of SMPL or SMPL-X, by their number.

    Raises:
        UserError: there is no such model, or the file cannot be read.
    """
    if vertices not in BODY:
        raise UserError(f"meshes of {vertices} vertices are neither SMPL's nor SMPL-X's")
    return _read_array(os.path.join(folder, BODY[vertices]))


def _read_array(path: str) -> np.ndarray:
    try:
        with reading(path, "file of vertices' numbers"):
            return _as_indices(np.load(path, allow_pickle=False))
    except OSError:
        raise UserError(f"{path} is not there or cannot be read") from None


def _as_indices(values: object) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"numbers of vertices are of shape {array.shape}, {array.dtype}")
    return array.astype(np.int64)

"""Meshes as text for the page's viewer.

16 bit a coordinate over each mesh's own box, triangles once.
"""

import base64
import zipfile

import numpy as np

from engine.errors import UserError
from finetune.page.folder import Evaluation

MOST = 65535  # the largest 16-bit number


def pack_vertices(vertices: np.ndarray) -> dict[str, object]:
    """Return (V, 3) float metres as {"origin": [3], "step": [3], "data": text}.

    The text is base64 of V * 3 little-endian uint16.

    A coordinate is origin + step * number, off by half a step at most: 0.02 mm for a body 2 m tall.
    """
    low, high = vertices.min(0).astype(np.float64), vertices.max(0).astype(np.float64)
    step = (high - low) / MOST
    numbers = np.rint((vertices - low) / np.where(step > 0, step, 1.0))
    return {"origin": low.tolist(), "step": step.tolist(), "data": _text(numbers.astype("<u2"))}


def pack_faces(faces: np.ndarray, count: int) -> dict[str, object]:
    """Return (F, 3) indices of ``count`` vertices as {"bits": 16 or 32, "data": text}.

    The text is base64 of little-endian numbers.
    """
    bits = 16 if count <= MOST + 1 else 32
    return {"bits": bits, "data": _text(faces.astype(f"<u{bits // 8}"))}


def read_meshes(evaluation: Evaluation) -> dict[str, object] | None:
    """What the viewer rotates, ready for JSON.

    None where meshes.npz is missing or there is no example.

    Returns:
        {"faces": pack_faces(...), "examples": [{"predicted": pack(...), "true": pack(...)}, ...]}
        in the examples' order.
    Raises:
        UserError: meshes.npz is broken, or an example's number is not in it.
    """
    path, examples = evaluation.path / "meshes.npz", evaluation.content["examples"]
    if not path.exists() or not examples:
        return None
    try:
        with np.load(path) as arrays:
            predicted, true, faces = (arrays[name] for name in ("predicted", "true", "faces"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not the archive that `python -m finetune evaluate` writes: {error}"
        ) from None
    if (
        predicted.shape != true.shape
        or predicted.ndim != 3
        or predicted.shape[2:] != (3,)
        or not predicted.shape[1]
    ):
        raise UserError(
            f"{path}: 'predicted' is {predicted.shape} and 'true' {true.shape}; both must be (n, "
            f"V, 3)"
        )
    if (
        faces.ndim != 2
        or faces.shape[1] != 3
        or not faces.size
        or not 0 <= faces.min() <= faces.max() < predicted.shape[1]
    ):
        raise UserError(
            f"{path}: 'faces' {faces.shape} must be (F, 3) numbers of {predicted.shape[1]} vertices"
        )
    packed = []
    for example in examples:
        row = example["mesh"]
        if not 0 <= row < len(predicted):
            raise UserError(
                f"{path} holds {len(predicted)} meshes, but evaluation.json's {example['name']} "
                f"names row {row}"
            )
        if not (np.isfinite(predicted[row]).all() and np.isfinite(true[row]).all()):
            raise UserError(
                f"{path}: row {row} ({example['name']}) has a vertex that is not finite"
            )
        packed.append(
            {"predicted": pack_vertices(predicted[row]), "true": pack_vertices(true[row])}
        )
    return {"faces": pack_faces(faces, predicted.shape[1]), "examples": packed}


def _text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")

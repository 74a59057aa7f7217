"""OpenCV's FileStorage (YAML, XML or JSON): whatever matrices people write with it.

Read are, under their usual names: one camera a file (a folder of them is a rig; the file's name is
the camera's); two cameras by number with R and T from the first to the second (OpenCV's
stereo_calib, whose intrinsics.yml and extrinsics.yml may lie in one folder); a map a camera; and
EasyMocap's K_NAME, dist_NAME, R_NAME or Rot_NAME, T_NAME (intri.yml and extri.yml in one folder).
The unit is that of the calibration board.
"""

import re
from typing import Any

from data.sources.cameras.documents import Document, read_matrix
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera
from engine.errors import UserError

# What one number may be called, without underscores and in lower case.
_NAMES = {
    "matrix": ("cameramatrix", "intrinsicmatrix", "intrinsics", "intrinsic", "k", "m", "mtx"),
    "distortion": (
        "distortioncoefficients",
        "distortioncoeffs",
        "distcoeffs",
        "distcoeff",
        "distcoef",
        "distortion",
        "dist",
        "d",
    ),
    "rotation": ("rotationmatrix", "rotation", "rot", "r", "rvec"),
    "translation": ("translationvector", "translation", "trans", "t", "tvec"),
    "pose": ("extrinsicmatrix", "extrinsics", "extrinsic", "rt"),
    "size": ("imagesize", "resolution", "size"),
    "width": ("imagewidth", "width", "w"),
    "height": ("imageheight", "height", "h"),
    "model": ("distortionmodel", "cameramodel", "model"),
    "fisheye": ("fisheye",),
}
_FISHEYE = ("equidistant", "fisheye", "kannala_brandt")


@CALIBRATIONS.register("filestorage")
class FileStorage(CalibrationFormat):
    """Reads what OpenCV's FileStorage wrote, in a file or in a folder of files."""

    title = "OpenCV's FileStorage"
    unit_m = None

    def recognises(self, document: Document) -> bool:
        """Whether it holds an intrinsic matrix and is no format of its own."""
        if document.syntax == "folder":
            return any(self.recognises(part) for part in document.tree.values())
        if document.syntax == "json":
            return _has_matrix(document.tree)
        if document.syntax == "xml":
            return document.tree.tag == "opencv_storage"
        return document.syntax == "yaml" and isinstance(document.tree, dict)

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The cameras that the file or the folder's files hold together."""
        path = document.path
        if document.syntax != "folder":
            return _read_tree(_plain(document, path), document.name, path)
        trees = {name: _plain(each, each.path) for name, each in document.tree.items()}
        merged: dict[str, Any] = {}
        for tree in trees.values():
            merged |= tree
        if len(_numbered(merged)) > 1 or "names" in merged:
            return _read_tree(merged, document.name, path)
        rows = []
        for name, tree in trees.items():
            rows += _read_tree(tree, name, path)
        return rows


def _has_matrix(tree):
    """Whether a tree of JSON holds a matrix of FileStorage."""
    if not isinstance(tree, dict):
        return False
    nodes = [tree, *(node for node in tree.values() if isinstance(node, dict))]
    values = [value for node in nodes for value in node.values()]
    return any(isinstance(v, dict) and v.get("type_id") == "opencv-matrix" for v in values)


def _plain(document, path) -> dict[str, Any]:
    """{name: number, text, list or dict}: matrices as lists of rows."""
    tree = document.tree
    if document.syntax == "xml":
        tree = {child.tag: _of_xml(child) for child in tree}
    if not isinstance(tree, dict):
        raise UserError(f"calibration {path} holds a {type(tree).__name__}, not named values")
    try:
        return {str(name): _unpack(value) for name, value in tree.items()}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"calibration {path}: a matrix that is not whole: {error}") from None


def _unpack(value):
    if isinstance(value, dict) and {"rows", "cols", "data"} <= value.keys():
        return read_matrix(value)
    if isinstance(value, dict):
        return {str(name): _unpack(each) for name, each in value.items()}
    return value


def _of_xml(node):
    """A number, a text, a list of numbers or a dict of an element."""
    if len(node):
        found = {child.tag: _of_xml(child) for child in node}
        if isinstance(found.get("data"), (int, float)):
            found["data"] = [found["data"]]
        return found
    words = (node.text or "").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return (node.text or "").strip()
    return numbers[0] if len(numbers) == 1 else numbers


def _known(node):
    """{our name: value} of the fields of one camera, whatever they are called."""
    found = {}
    for name, value in node.items():
        plain = name.lower().replace("_", "").replace("-", "")
        for ours, names in _NAMES.items():
            if plain in names:
                found.setdefault(ours, value)
    return found


def _numbered(tree):
    """{1: {our name: value}, 2: ...} of fields such as M1, D1, cameraMatrix2."""
    cameras: dict[str, dict[str, Any]] = {}
    for name, value in tree.items():
        match = re.fullmatch(r"(\D+?)_?([12])", name)
        if match:
            cameras.setdefault(match[2], {})[match[1]] = value
    known = {number: _known(node) for number, node in sorted(cameras.items())}
    return {number: node for number, node in known.items() if "matrix" in node}


def _read_tree(tree, name, path):
    if "names" in tree:
        return [_read_named(tree, str(each), path) for each in _listed(tree["names"], path)]
    if len(_numbered(tree)) == 2:
        return _read_stereo(tree, path)
    known = _known(tree)
    if "matrix" in known:
        return [_row(str(tree.get("camera_name", name)), known, path)]
    inner = {each: _known(node) for each, node in tree.items() if isinstance(node, dict)}
    inner = {each: node for each, node in inner.items() if "matrix" in node}
    if not inner:
        raise UserError(
            f"calibration {path} has the fields {', '.join(map(str, tree))[:160]}, and no "
            "intrinsic matrix under a usual name (camera_matrix, K, M1, K_NAME)"
        )
    return [_row(each, node, path) for each, node in inner.items()]


def _listed(names, path):
    if not isinstance(names, list):
        raise UserError(f"calibration {path}: names is {names}, not a list of cameras")
    return names


def _read_named(tree, name, path):
    """A camera of EasyMocap: R_NAME is axis and angle, Rot_NAME the matrix of it."""
    node = {}
    for field in ("Rot", "R", "T", "K", "dist", "H", "W"):
        if f"{field}_{name}" in tree:
            node[field] = tree[f"{field}_{name}"]
    return _row(name, _known(node), path)


def _read_stereo(tree, path):
    """Two cameras, the world being the first: x2 = R x1 + T (cv2.stereoCalibrate)."""
    cameras, common = _numbered(tree), _known(tree)
    rows = []
    for number, node in cameras.items():
        pose = {"rotation": common.get("rotation"), "translation": common.get("translation")}
        if number == "1":
            pose = {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "translation": [0, 0, 0]}
        for field, theirs in (("rotation", "R"), ("translation", "T")):
            if pose[field] is None:
                words = f"it lacks {theirs}, the pose of camera 2 against camera 1"
                raise refuse_camera(path, number, words)
        shared = {f: common[f] for f in ("size", "width", "height", "model") if f in common}
        mine = {f: node[f] for f in ("matrix", "distortion", "size") if f in node}
        rows.append(_row(number, shared | mine | pose, path))
    return rows


def _row(name, known, path):
    if "pose" in known and "rotation" not in known:
        pose = known["pose"]
        if not isinstance(pose, list) or len(pose) not in (3, 4):
            raise refuse_camera(path, name, f"its extrinsics are {pose}, not 3 or 4 rows of 4")
        known = known | {
            "rotation": [row[:3] for row in pose[:3]],
            "translation": [row[3] for row in pose[:3]],
        }
    for field in ("matrix", "distortion", "rotation", "translation"):
        if field not in known:
            words = f"it lacks {field} (as {', '.join(_NAMES[field][:4])}, with or without _)"
            raise refuse_camera(path, name, words)
    size = known.get("size")
    if size is None and "width" in known and "height" in known:
        size = [known["width"], known["height"]]
    fisheye = bool(known.get("fisheye")) or str(known.get("model", "")).lower() in _FISHEYE
    return CameraRow(
        name,
        known["matrix"],
        known["distortion"],
        known["rotation"],
        known["translation"],
        size=size,
        fisheye=fisheye,
    )

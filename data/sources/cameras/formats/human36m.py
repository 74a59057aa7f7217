"""Human3.6M's cameras as JSON: millimetres, x_cam = R X + t, in the two layouts that go round.

A file a subject, {"1": {"R", "t", "f", "c"}} (Human36M_subjectN_camera.json, which leaves the
distortion out); or one of all, {"intrinsics": {id: {"calibration_matrix", "distortion"}},
"extrinsics": {subject: {id: {"R", "t"}}}} (camera-parameters.json).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.parts import choose_part
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera, take

_ONE = {"R", "t", "f", "c"}
_FIELDS = (("rotation", "R"), ("translation", "t"))
_SMALL = (("matrix", "f, c"), *_FIELDS)
_LARGE = (("matrix", "calibration_matrix"), *_FIELDS)


@CALIBRATIONS.register("human36m")
class Human36m(CalibrationFormat):
    """Reads the cameras of one subject of Human3.6M."""

    title = "Human3.6M's camera JSON"
    unit_m = 0.001

    def recognises(self, document: Document) -> bool:
        """Whether it is JSON in one of the two layouts."""
        tree = document.tree
        if document.syntax != "json" or not isinstance(tree, dict) or not tree:
            return False
        if {"intrinsics", "extrinsics"} <= tree.keys():
            return True
        return any(isinstance(node, dict) and len(_ONE & node.keys()) > 2 for node in tree.values())

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The cameras of the subject ``part``; of a file of one subject all."""
        path, tree = document.path, document.tree
        if "extrinsics" not in tree:
            return [_read_small(node, str(name), path) for name, node in tree.items()]
        places = choose_part(tree["extrinsics"], part, path, "subject")
        return [_read_large(tree, place, str(name), path) for name, place in places.items()]


def _read_small(node, name, path):
    focal, point = take(node, "f", path, name), take(node, "c", path, name)
    for field, pair in (("f", focal), ("c", point)):
        if not isinstance(pair, list) or len(pair) != 2:
            raise refuse_camera(path, name, f"{field} is {pair}, not two numbers")
    matrix = [[focal[0], 0, point[0]], [0, focal[1], point[1]], [0, 0, 1]]
    R, t = take(node, "R", path, name), take(node, "t", path, name)
    return CameraRow(name, matrix, [], R, t, fields=_SMALL)


def _read_large(tree, place, name, path):
    lens = take(take(tree, "intrinsics", path, name), name, path, name)
    return CameraRow(
        name,
        take(lens, "calibration_matrix", path, name),
        lens.get("distortion", []),
        take(place, "R", path, name),
        take(place, "t", path, name),
        fields=_LARGE,
    )

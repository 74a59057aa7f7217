"""InterHand2.6M's camera.json: {capture: {campos, camrot, focal, princpt}}, each by camera.

x_cam = camrot (X - campos), campos in millimetres; no distortion and no image size (source:
facebookresearch/InterHand2.6M, data/InterHand2.6M/dataset.py).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.parts import choose_part
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera, take

_NEEDED = ("campos", "camrot", "focal", "princpt")
_FIELDS = (("centre", "campos"), ("rotation", "camrot"), ("matrix", "focal, princpt"))


@CALIBRATIONS.register("interhand")
class InterHand(CalibrationFormat):
    """Reads the cameras of one capture of InterHand2.6M."""

    title = "InterHand2.6M's camera JSON"
    unit_m = 0.001

    def recognises(self, document: Document) -> bool:
        """Whether it is JSON of captures, or one capture, with campos and camrot."""
        if document.syntax != "json" or not isinstance(document.tree, dict):
            return False
        return _is_capture(document.tree) or any(map(_is_capture, document.tree.values()))

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The cameras of the capture ``part``."""
        path, tree = document.path, document.tree
        if _is_capture(tree):
            tree = {document.name: tree}
        capture = choose_part(tree, part, path, "capture")
        rows = []
        for name in take(capture, "campos", path, "of all"):
            values = {}
            for field in _NEEDED:
                values[field] = take(take(capture, field, path, name), name, path, name)
            matrix = _matrix(values, path, name)
            lens, turn, at = [], values["camrot"], values["campos"]
            rows.append(CameraRow(str(name), matrix, lens, turn, centre=at, fields=_FIELDS))
        return rows


def _is_capture(node):
    return isinstance(node, dict) and {"campos", "camrot"} <= node.keys()


def _matrix(values, path, name):
    focal, point = values["focal"], values["princpt"]
    for field, pair in (("focal", focal), ("princpt", point)):
        if not isinstance(pair, list) or len(pair) != 2:
            raise refuse_camera(path, name, f"{field} is {pair}, not two numbers")
    return [[focal[0], 0, point[0]], [0, focal[1], point[1]], [0, 0, 1]]

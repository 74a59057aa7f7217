"""AIST++'s cameras/SETTING.json: a list of cameras as aniposelib writes them, centimetres.

{name, size, matrix, rotation (Rodrigues), translation, distortions} (source:
google/aistplusplus_api, aist_plusplus/loader.py; that lengths are centimetres is inferred from the
starting pose in processing/run_estimate_camera.py).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, take
from engine.errors import UserError

_FIELDS = (("distortion", "distortions"),)


@CALIBRATIONS.register("aist")
class Aist(CalibrationFormat):
    """Reads the cameras of one setting of AIST++."""

    title = "AIST++'s cameras JSON"
    unit_m = 0.01

    def recognises(self, document: Document) -> bool:
        """Whether it is a list in JSON of objects with matrix and rotation."""
        if document.syntax != "json" or not isinstance(document.tree, list) or not document.tree:
            return False
        return all(isinstance(n, dict) and {"matrix", "rotation"} & n.keys() for n in document.tree)

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """All cameras of the list."""
        path, rows = document.path, []
        for number, node in enumerate(document.tree):
            if "name" not in node:
                raise UserError(f"calibration {path}: entry {number} lacks name")
            name = str(node["name"])
            rows.append(
                CameraRow(
                    name,
                    take(node, "matrix", path, name),
                    take(node, "distortions", path, name),
                    take(node, "rotation", path, name),
                    take(node, "translation", path, name),
                    size=take(node, "size", path, name),
                    fisheye=bool(node.get("fisheye", False)),
                    fields=_FIELDS,
                )
            )
        return rows

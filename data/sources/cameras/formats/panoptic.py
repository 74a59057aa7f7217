"""CMU Panoptic's calibration_SEQ.json: centimetres, x_cam = R X + t.

Cameras have a type (vga, hd, kinect-color, kinect-depth) and OpenCV's k1, k2, p1, p2, k3 (source:
CMU-Perceptual-Computing-Lab/panoptic-toolbox, python/panutils.py).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, take
from engine.errors import UserError
from engine.logging.console import get_logger

_FIELDS = (("matrix", "K"), ("distortion", "distCoef"), ("rotation", "R"), ("translation", "t"))
_FIELDS += (("size", "resolution"),)
log = get_logger(__name__)


@CALIBRATIONS.register("panoptic")
class Panoptic(CalibrationFormat):
    """Reads the cameras of a sequence of the CMU Panoptic studio."""

    title = "CMU Panoptic's calibration JSON"
    unit_m = 0.01

    def recognises(self, document: Document) -> bool:
        """Whether it is JSON with a list of cameras that have distCoef."""
        if document.syntax != "json" or not isinstance(document.tree, dict):
            return False
        cameras = document.tree.get("cameras")
        if not isinstance(cameras, list):
            return False
        return any(isinstance(node, dict) and "distCoef" in node for node in cameras)

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """All cameras, or those of the type ``part``."""
        path, rows, types = document.path, [], set()
        for number, node in enumerate(document.tree["cameras"]):
            if not isinstance(node, dict) or "name" not in node:
                raise UserError(f"calibration {path}: entry {number} of cameras lacks name")
            name = str(node["name"])
            types.add(str(node.get("type")))
            if part is not None and node.get("type") != part:
                continue
            rows.append(
                CameraRow(
                    name,
                    take(node, "K", path, name),
                    take(node, "distCoef", path, name),
                    take(node, "R", path, name),
                    take(node, "t", path, name),
                    size=take(node, "resolution", path, name),
                    fields=_FIELDS,
                )
            )
        if part is not None and not rows:
            raise UserError(
                f"calibration_part={part}: {path} has cameras of the types "
                f"{', '.join(sorted(types))}"
            )
        return rows

"""caliscope's camera_array.toml: world to camera, OpenCV's numbers, metres.

Cameras are named cam_N like its videos. ``rotation_count`` counts the turns, clockwise, by which
caliscope shows a camera's image; the intrinsics are those of the image as recorded (source:
apply_rotation in mprib/caliscope).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera, take
from engine.errors import UserError
from engine.logging.console import get_logger

_FIELDS = (("distortion", "distortions"),)
log = get_logger(__name__)


@CALIBRATIONS.register("caliscope")
class Caliscope(CalibrationFormat):
    """Reads the camera array of caliscope."""

    title = "caliscope's camera_array.toml"

    def recognises(self, document: Document) -> bool:
        """Whether it is TOML with a table of cameras."""
        return document.syntax == "toml" and isinstance(document.tree.get("cameras"), dict)

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The calibrated cameras that are not marked to be ignored."""
        path, rows = document.path, []
        for entry, node in document.tree["cameras"].items():
            if not isinstance(node, dict):
                raise UserError(f"calibration {path}: cameras.{entry} is {node}, not a camera")
            name = f"cam_{node.get('cam_id', node.get('port', entry))}"
            missing = [f for f in ("matrix", "rotation", "translation") if f not in node]
            if node.get("ignore") or missing:
                why = "is marked to be ignored" if node.get("ignore") else f"has no {missing[0]}"
                log.info(f"calibration {path}: camera {name} {why}; left out")
                continue
            turns = node.get("rotation_count", 0)
            if not isinstance(turns, int):
                raise refuse_camera(path, name, f"rotation_count is {turns}, no whole number")
            rows.append(
                CameraRow(
                    name,
                    node["matrix"],
                    take(node, "distortions", path, name),
                    node["rotation"],
                    node["translation"],
                    size=take(node, "size", path, name),
                    fisheye=bool(node.get("fisheye", False)),
                    quarter_turns=turns,
                    fields=_FIELDS,
                )
            )
        return rows

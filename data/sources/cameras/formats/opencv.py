"""Our own JSON: {"cameras": [{"name", "size": [w, h], "K", "distortion", "R", "t"}]}.

With OpenCV's numbers, t in metres; optional "fisheye": true and "turn": degrees clockwise.
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera, take
from engine.errors import UserError

_FIELDS = (("matrix", "K"), ("rotation", "R"), ("translation", "t"))


@CALIBRATIONS.register("opencv")
class OpenCvJson(CalibrationFormat):
    """Reads a list of cameras with the numbers of cv2.calibrateCamera and cv2.solvePnP."""

    title = "our own JSON of OpenCV's numbers"

    def recognises(self, document: Document) -> bool:
        """Whether it is JSON with a list of cameras that is not Panoptic's."""
        if document.syntax != "json" or not isinstance(document.tree, dict):
            return False
        cameras = document.tree.get("cameras")
        if not isinstance(cameras, list) or not cameras:
            return False
        return not any(isinstance(node, dict) and "distCoef" in node for node in cameras)

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """All cameras of the list."""
        path, rows = document.path, []
        for number, node in enumerate(document.tree["cameras"]):
            if not isinstance(node, dict) or "name" not in node:
                raise UserError(f"calibration {path}: entry {number} of cameras lacks name")
            name = str(node["name"])
            turn = node.get("turn", 0)
            if turn not in (0, 90, 180, 270):
                raise refuse_camera(path, name, f"turn is {turn}, none of 0, 90, 180, 270")
            rows.append(
                CameraRow(
                    name,
                    take(node, "K", path, name),
                    node.get("distortion", []),
                    take(node, "R", path, name),
                    take(node, "t", path, name),
                    size=node.get("size"),
                    fisheye=bool(node.get("fisheye", False)),
                    quarter_turns=turn // 90,
                    fields=_FIELDS,
                )
            )
        return rows

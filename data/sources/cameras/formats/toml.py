"""The TOML that Pose2Sim, anipose (aniposelib) and FreeMoCap share: a table a camera.

[NAME]{name, size, matrix, distortions, rotation (Rodrigues), translation, fisheye}, world to
camera. Pose2Sim writes metres; aniposelib the unit of its board, FreeMoCap millimetres: the file
does not tell (source: toml_write in Pose2Sim/calibration.py; aniposelib/cameras.py).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, take
from engine.logging.console import get_logger

_FIELDS = (("distortion", "distortions"),)
log = get_logger(__name__)


@CALIBRATIONS.register("toml")
class PoseToml(CalibrationFormat):
    """Reads the calibration of Pose2Sim, anipose and FreeMoCap."""

    title = "the TOML of Pose2Sim, anipose and FreeMoCap"
    unit_m = None

    def recognises(self, document: Document) -> bool:
        """Whether it is TOML with a table that has a matrix or a rotation."""
        if document.syntax != "toml" or isinstance(document.tree.get("cameras"), dict):
            return False
        return any(_is_camera(node) for node in document.tree.values())

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The tables that are cameras; metadata and cameras without a pose are left out."""
        path, rows = document.path, []
        for entry, node in document.tree.items():
            if not _is_camera(node):
                continue
            name = str(node.get("name", entry))
            missing = [f for f in ("matrix", "rotation", "translation") if f not in node]
            if missing:
                log.info(f"calibration {path}: camera {name} has no {missing[0]}; left out")
                continue
            rows.append(
                CameraRow(
                    name,
                    node["matrix"],
                    take(node, "distortions", path, name),
                    node["rotation"],
                    node["translation"],
                    size=node.get("size"),
                    fisheye=bool(node.get("fisheye", False)),
                    fields=_FIELDS,
                )
            )
        return rows


def _is_camera(node):
    return isinstance(node, dict) and bool({"matrix", "rotation", "distortions"} & node.keys())

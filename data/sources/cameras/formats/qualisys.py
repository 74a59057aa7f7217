"""Qualisys Track Manager's XML (.qca.txt).

Lengths of the image are in 1/64 px. The axes are rotated by pi about x against OpenCV's (y up, z
backward); the position is in millimetres; the stored rotation has the camera's axes as rows. The
distortion is divided by 64 as well, as Pose2Sim reads it.
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera, take
from engine.logging.console import get_logger

_LENS = (
    "radialDistortion1",
    "radialDistortion2",
    "tangentalDistortion1",
    "tangentalDistortion2",
    "radialDistortion3",
)
_PLACE = ("r11", "r12", "r13", "r21", "r22", "r23", "r31", "r32", "r33", "x", "y", "z")
_FIELDS = (("matrix", "intrinsic"), ("distortion", "intrinsic"), ("rotation", "transform r11..r33"))
_FIELDS += (("centre", "transform x, y, z"), ("size", "fov_video"))

log = get_logger(__name__)


@CALIBRATIONS.register("qualisys")
class Qualisys(CalibrationFormat):
    """Reads the calibration that Qualisys Track Manager exports."""

    title = "Qualisys Track Manager's XML"
    unit_m = 0.001

    def recognises(self, document: Document) -> bool:
        """Whether it is XML with cameras that have a serial number."""
        if document.syntax != "xml":
            return False
        return any("serial" in node.attrib for node in document.tree.iter("camera"))

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The active, calibrated cameras."""
        rows = []
        for node in document.tree.iter("camera"):
            name = node.attrib.get("serial", "")
            missing = [n for n in ("transform", "intrinsic") if node.find(n) is None]
            if node.attrib.get("active", "1") == "0" or missing:
                why = f"has no {missing[0]}" if missing else "is not active"
                log.info(
                    f"calibration {document.path}: camera {name} {why}: not calibrated, left out"
                )
                continue
            rows.append(_read_camera(node, name, document.path))
        return rows


def _read_camera(node, name, path):
    attributes = {"viewrotation": "0"} | node.attrib
    if _values(attributes, ("viewrotation",), path, name)["viewrotation"] != 0:
        raise refuse_camera(
            path,
            name,
            f"viewrotation={node.attrib['viewrotation']}, where 0 is needed; export the "
            "calibration and the video without a rotated view",
        )
    view = node.find("fov_video")
    if view is None:
        raise refuse_camera(path, name, "it lacks fov_video")
    video = _values(view.attrib, ("left", "top", "right", "bottom"), path, name)
    place = _values(node.find("transform").attrib, _PLACE, path, name)
    sizes = ("focalLengthU", "focalLengthV", "centerPointU", "centerPointV", "skew", *_LENS)
    lens = _values(node.find("intrinsic").attrib, sizes, path, name)
    lens = {field: value / 64 for field, value in lens.items()}
    matrix = [
        [lens["focalLengthU"], lens["skew"], lens["centerPointU"] - video["left"]],
        [0, lens["focalLengthV"], lens["centerPointV"] - video["top"]],
        [0, 0, 1],
    ]
    stored = [[place[f"r{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)]
    return CameraRow(
        name,
        matrix,
        [lens[field] for field in _LENS],
        [stored[0], [-value for value in stored[1]], [-value for value in stored[2]]],
        centre=[place[axis] for axis in "xyz"],
        size=(video["right"] - video["left"] + 1, video["bottom"] - video["top"] + 1),
        fields=_FIELDS,
    )


def _values(attributes, fields, path, name):
    """{field: number} of a node's attributes."""
    found = {}
    for field in fields:
        text = take(attributes, field, path, name)
        try:
            found[field] = float(text)
        except ValueError:
            raise refuse_camera(path, name, f"{field} is {text}, not a number") from None
    return found

"""Reads a calibration file of any known format, and writes our own."""

import json
import os
from itertools import combinations

import numpy as np

from data.sources.cameras.camera import Camera
from data.sources.cameras.documents import Document, open_document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import make_camera
from engine.errors import UserError, explain, failure_of
from engine.geometry import camera_centre
from engine.logging.console import get_logger
from engine.run.files import write_file

AUTO = "auto"
FORMATS = (
    AUTO,
    "qualisys",
    "caliscope",
    "toml",
    "opencv",
    "filestorage",
    "panoptic",
    "interhand",
    "krt",
    "aist",
    "human36m",
)
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}  # calibration_unit: in metres
FARTHEST_M = 200.0  # cameras that see one person are not further apart than a stadium is long
NEAREST_M = 0.02  # of the two of a rig that are farthest apart: a camera is not smaller
SUPPOSED_M = 20.0  # of a file that does not tell its unit: a desk's cameras are 100 mm apart

log = get_logger(__name__)


def read_cameras(
    path: str, kind: str = AUTO, unit: str | None = None, part: str | None = None
) -> dict[str, Camera]:
    """{name: Camera} of a calibration file, in the file's order.

    Args:
        path: the file; of OpenCV's FileStorage also a folder of them.
        kind: one of FORMATS.
        unit: of UNITS, for a format that leaves it open (then metres without it).
        part: which of several calibrations in one file.
    Raises:
        UserError: no such file, not of that format, no usable camera in it.
    """
    document = open_document(path)
    if kind == AUTO:
        kind = recognise(document)
    form = CALIBRATIONS.find(kind)()
    if not form.recognises(document):
        raise UserError(
            f"calibration {path} is no {kind} file ({form.title}); calibration_format=auto "
            f"{_guess_in_words(document)}"
        )
    cameras = [make_camera(row, path, _unit(form, unit)) for row in form.read(document, part)]
    names = [c.name for c in cameras]
    if not cameras:
        raise UserError(f"calibration {path} holds no calibrated camera")
    if len(set(names)) < len(names):
        raise UserError(f"calibration {path}: two cameras are named {max(names, key=names.count)}")
    _check_distances(cameras, path, form, unit)
    log.info(
        f"calibration {path}: read as {form.title} (calibration_format={kind}), "
        f"{len(cameras)} cameras: {', '.join(names)}"
    )
    return dict(zip(names, cameras, strict=True))


def recognise(document: Document) -> str:
    """The name of the format that a document is of.

    Raises:
        UserError: of none, or it could be of two.
    """
    found = _fitting(document)
    if len(found) != 1:
        what = "none of the known formats" if not found else "of several: " + " and ".join(found)
        raise UserError(
            f"calibration {document.path} ({document.syntax}) is {what}; say which with "
            f"calibration_format={'|'.join(found or FORMATS[1:])}"
        )
    return found[0]


def _fitting(document):
    return [name for name in FORMATS[1:] if CALIBRATIONS.find(name)().recognises(document)]


def _guess_in_words(document):
    found = _fitting(document)
    return f"takes it for {' or '.join(found)}" if found else "does not know it either"


def _unit(form: CalibrationFormat, unit):
    """Metres of a format's unit."""
    if form.unit_m is None:
        return UNITS[unit or "m"]
    if unit is not None and UNITS[unit] != form.unit_m:
        told = next(name for name, value in UNITS.items() if value == form.unit_m)
        raise UserError(
            f"calibration_unit={unit}, but {form.title} is always in {told}; leave the key out"
        )
    return form.unit_m


def _check_distances(cameras, path, form, unit):
    """UserError where cameras lie so far apart, or so near, that the unit cannot be right."""
    supposed = form.unit_m is None and unit is None
    most, farthest = SUPPOSED_M if supposed else FARTHEST_M, 0.0
    for a, b in combinations(cameras, 2):
        apart = float(np.linalg.norm(camera_centre(a.Rt) - camera_centre(b.Rt)))
        farthest = max(farthest, apart)
        if apart <= most:
            continue
        told = f"a unit of {_unit(form, unit):g} m"
        advice = "check them"
        if supposed:
            told, advice = "metres", "say calibration_unit=mm or cm, or calibration_unit=m if so"
        raise UserError(
            f"calibration {path}: cameras {a.name} and {b.name} are {apart:.6g} m apart with "
            f"{told}, more than {most:g} m; {advice}"
        )
    if unit is not None and 0 < farthest < NEAREST_M:
        raise UserError(
            f"calibration {path}: with calibration_unit={unit} no two cameras are more than "
            f"{farthest:.2g} m apart, less than {NEAREST_M:g} m; it is of another unit"
        )


def write_cameras(path: str, cameras: dict[str, Camera]) -> None:
    """Write cameras as ``calibration_format=opencv`` reads them.

    Raises:
        EnvironmentFault: the disk refuses.
    """
    rows = [_describe(camera) for camera in cameras.values()]
    try:
        write_file(os.fspath(path), json.dumps({"cameras": rows}, indent=1))
    except OSError as error:
        raise failure_of(error, f"calibration {path}: {explain(error)}") from None


def _describe(camera):
    K = camera.K.copy()
    K[:2, 2] -= 0.5
    row = {"name": camera.name, "K": K.tolist(), "distortion": camera.distortion.tolist()}
    row |= {"R": camera.Rt[:, :3].tolist(), "t": camera.Rt[:, 3].tolist()}
    if camera.width:
        row["size"] = [camera.width, camera.height]
    if camera.fisheye:
        row |= {"fisheye": True, "distortion": camera.distortion[:4].tolist()}
    if camera.quarter_turns:
        row["turn"] = 90 * camera.quarter_turns
    return row

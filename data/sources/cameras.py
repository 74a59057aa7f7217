"""Calibrated cameras and the files they come from.

A calibration file's principal point counts the first pixel's *centre* as (0, 0), as OpenCV does;
here it is (0.5, 0.5), so every reader adds half a pixel to cx and cy. Metres, OpenCV axes, ``Rt``
from world to camera.
"""

import dataclasses
import json
import sys
import xml.etree.ElementTree
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from data.cropping.lens import distort
from data.format.names import UTF16, decode_text
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMATS = ("qualisys", "caliscope", "opencv")

log = get_logger(__name__)


@dataclass
class Camera:
    """One camera.

    Attributes:
        name: unique in the calibration.
        K: (3, 3) intrinsics in pixels, the first pixel's centre at (0.5, 0.5).
        distortion: (8,) k1, k2, p1, p2, k3, k4, k5, k6 as in OpenCV, on normalised coordinates.
        Rt: (3, 4) world to camera, metres.
        width, height: of the image in pixels.
    """

    name: str
    K: np.ndarray
    distortion: np.ndarray
    Rt: np.ndarray
    width: int
    height: int


def project_distorted(camera: Camera, points: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """World points in the camera's own, distorted image.

    Args:
        points: (..., 3).
    Returns:
        (..., 2) pixels, NaN where the lens cannot see, and (...) depths in metres.
    """
    local = np.asarray(points, np.float64) @ camera.Rt[:, :3].T + camera.Rt[:, 3]
    depth = local[..., 2]
    xy = local[..., :2] / np.where(depth > 1e-6, depth, np.nan)[..., None]
    return distort(xy, camera.distortion) @ camera.K[:2, :2].T + camera.K[:2, 2], depth


def undistort_pixels(camera: Camera, pixels: npt.ArrayLike) -> np.ndarray:
    """Return (..., 2) pixels of the ideal pinhole image, from those of the distorted one.

    Both have the same K.
    """
    pixels = np.asarray(pixels, np.float64)
    flat = pixels.reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)
    # K and pixels share the half-pixel, so it cancels and OpenCV's own convention does not matter
    # here.
    ideal = cv2.undistortPoints(flat, camera.K, camera.distortion, P=camera.K, criteria=criteria)
    return ideal.reshape(pixels.shape)


def fit_to_video(
    camera: Camera,
    width: int,
    height: int,
    offset: tuple[float, float] = (0, 0),
    slack_px: int = 16,
) -> Camera:
    """Return the camera as its video shows it.

    For a video that is a few pixels smaller or larger than the calibration.

    Args:
        width, height: of the video.  offset: (x, y) of the video's corner in the calibrated
            image.
        slack_px: the largest difference that is taken for a cropped border; more means another mode
            of the sensor.
    Returns:
        a Camera of the video's size.
    Raises:
        UserError: the sizes differ by more.
    """
    if abs(width - camera.width) > slack_px or abs(height - camera.height) > slack_px:
        raise UserError(
            f"camera {camera.name}: the video is {width}x{height}, its calibration is for "
            f"{camera.width}x{camera.height}; they may differ by size_slack_px={slack_px}"
        )
    K = camera.K.copy()
    K[0, 2] -= offset[0]
    K[1, 2] -= offset[1]
    return dataclasses.replace(camera, K=K, width=width, height=height)


def read_cameras(path: str, kind: str) -> dict[str, Camera]:
    """{name: Camera} of a calibration file, in the file's order.

    Args:
        path: the file.  kind: one of FORMATS.
    Raises:
        UserError: no such file, not of that format, no usable camera in it.
    """
    readers = {"qualisys": _qualisys, "caliscope": _caliscope, "opencv": _opencv}
    try:
        with open(path, "rb") as file:
            data = file.read()
        cameras = list(readers[kind](data, path))
    except OSError as error:
        raise failure_of(error, f"calibration {path}: {explain(error)}") from None
    except KeyError as error:
        raise UserError(f"calibration {path} is no {kind} file: it lacks {error}") from None
    except (ValueError, AttributeError, TypeError, xml.etree.ElementTree.ParseError) as error:
        raise UserError(
            f"calibration {path} is no {kind} file: {' '.join(str(error).split())[:160]}"
        ) from None
    names = [c.name for c in cameras]
    if not cameras:
        raise UserError(f"calibration {path} holds no calibrated camera")
    if len(set(names)) < len(names):
        raise UserError(f"calibration {path}: two cameras are named {max(names, key=names.count)}")
    return dict(zip(names, cameras, strict=True))


def _camera(path, name, K, distortion, R, t, size):
    """A Camera from OpenCV numbers (pixel centres at whole numbers)."""
    K, R = np.array(K, np.float64).reshape(3, 3), np.array(R, np.float64).reshape(3, 3)
    if not (np.abs(R @ R.T - np.eye(3)).max() < 1e-2 and np.linalg.det(R) > 0):
        raise UserError(
            f"calibration {path}: the rotation of camera {name} is not a rotation matrix"
        )
    if not (K[0, 0] > 0 and K[1, 1] > 0 and abs(K[2] - [0, 0, 1]).max() < 1e-9):
        raise UserError(
            f"calibration {path}: the intrinsics of camera {name} are not a pinhole camera's"
        )
    distortion = np.array(distortion, np.float64).ravel()
    if len(distortion) > 8 and np.any(distortion[8:] != 0):
        raise UserError(
            f"calibration {path}: camera {name} has a thin prism or tilted lens ({len(distortion)} "
            f"numbers), "
            "which is not supported; up to 8 are"
        )
    K[:2, 2] += 0.5
    coefficients = np.zeros(8)
    coefficients[: min(8, len(distortion))] = distortion[:8]
    Rt = np.concatenate([R, np.array(t, np.float64).reshape(3, 1)], 1)
    return Camera(name, K, coefficients, Rt, int(size[0]), int(size[1]))


def _qualisys(data, path):
    """Qualisys Track Manager's XML (.qca.txt).

    Lengths of the image are in 1/64 px. The axes are rotated by pi about x against OpenCV's (y up,
    z backward); the position is in millimetres; the stored rotation has the camera's axes as rows.
    The distortion is divided by 64 as well, as Pose2Sim reads it.
    """
    # Of a file that was saved anew in UTF-16 the first line still says UTF-8; of bytes without a
    # mark it is to be believed.
    root = xml.etree.ElementTree.fromstring(decode_text(data) if data.startswith(UTF16) else data)
    for node in root.iter("camera"):
        if node.attrib.get("active", "1") == "0":
            continue
        name = node.attrib["serial"]
        if float(node.attrib.get("viewrotation", 0)) != 0:
            raise UserError(
                f"calibration {path}: camera {name} has "
                f"viewrotation={node.attrib['viewrotation']}; "
                "export the calibration and the video without a rotated view"
            )
        video = {k: float(v) for k, v in _find(node, "fov_video").attrib.items()}
        place = {k: float(v) for k, v in _find(node, "transform").attrib.items()}
        lens = {k: float(v) / 64 for k, v in _find(node, "intrinsic").attrib.items()}
        K = [
            [lens["focalLengthU"], lens["skew"], lens["centerPointU"] - video["left"]],
            [0, lens["focalLengthV"], lens["centerPointV"] - video["top"]],
            [0, 0, 1],
        ]
        bend = [
            lens[k]
            for k in (
                "radialDistortion1",
                "radialDistortion2",
                "tangentalDistortion1",
                "tangentalDistortion2",
                "radialDistortion3",
            )
        ]
        R = np.diag([1.0, -1.0, -1.0]) @ [[place[f"r{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)]
        t = -R @ np.array([place[k] for k in "xyz"]) / 1000
        yield _camera(
            path,
            name,
            K,
            bend,
            R,
            t,
            (video["right"] - video["left"] + 1, video["bottom"] - video["top"] + 1),
        )


def _find(node, name):
    """The first child of that name; KeyError where there is none."""
    child = node.find(name)
    if child is None:
        raise KeyError(name)
    return child


def _caliscope(data, path):
    """Read camera_array.toml of caliscope: world to camera, OpenCV numbers.

    Cameras are named cam_N like its videos.
    """
    for node in tomllib.loads(decode_text(data))["cameras"].values():
        name = f"cam_{node['cam_id']}"
        if node.get("ignore") or "rotation" not in node or "matrix" not in node:
            log.info(
                f"calibration {path}: camera {name} is marked to be ignored or not calibrated; "
                f"left out"
            )
            continue
        if node.get("rotation_count") or node.get("fisheye"):
            raise UserError(
                f"calibration {path}: camera {name} is rotated (rotation_count) or a fisheye, "
                "which is not supported"
            )
        R = np.array(node["rotation"], np.float64)
        R = cv2.Rodrigues(R)[0] if R.size == 3 else R
        yield _camera(
            path, name, node["matrix"], node["distortions"], R, node["translation"], node["size"]
        )


def _opencv(data, path):
    """Read JSON: {"cameras": [{"name", "size": [w, h], "K", "distortion", "R", "t"}]}.

    With OpenCV's numbers, t in metres.
    """
    for node in json.loads(decode_text(data))["cameras"]:
        yield _camera(
            path,
            str(node["name"]),
            node["K"],
            node.get("distortion", []),
            node["R"],
            node["t"],
            node["size"],
        )

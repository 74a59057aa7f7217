"""The camera of an image or a video: what is known of it, and by whom.

In this order: ``intrinsics=``, ``calibration=``, a photograph's EXIF, what the people in it tell
(``lens=``), else the focal length is assumed to be the image's diagonal. EXIF and people tell no
lens distortion and no principal point: none, and the middle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from data.cropping.lens import distort
from data.find.detection import PersonMask
from data.sources.cameras import (
    Camera,
    fit_to_video,
    match_videos,
    read_cameras,
    undistort_pixels,
)
from data.sources.exif import read_exif_focal
from engine.errors import UserError
from finetune.inference.lens import FocalEstimate, LensReader
from finetune.inference.predictor import check_intrinsics
from finetune.inference.search import Region

ASSUMED = "assumed: the image's diagonal"


class LensCorrection:
    """From the image of a camera with a lens to that of a pinhole of the same K.

    Args:
        camera: of the image's size.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.bends = bool(camera.distortion.any() or camera.fisheye)

    @cached_property
    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        """Where in the camera's image each pixel of the pinhole's is, (H, W) x and y."""
        camera = self.camera
        x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        at = (self._bend_points(np.stack([x, y], -1)) - 0.5).astype(np.float32)
        return np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])

    def _bend_points(self, points: np.ndarray) -> np.ndarray:
        """Where the camera shows (..., 2) pixels of the pinhole; far outside if it does not."""
        camera = self.camera
        rays = np.concatenate([points, np.ones_like(points[..., :1])], -1)
        rays = rays @ np.linalg.inv(camera.K).T
        bent = distort(rays[..., :2], camera.distortion, camera.fisheye)
        return np.nan_to_num(bent @ camera.K[:2, :2].T + camera.K[:2, 2], nan=-1e6)

    def correct_image(self, image: np.ndarray) -> np.ndarray:
        """Return the (H, W, 3) uint8 image that the pinhole takes."""
        return cv2.remap(image, *self._map, cv2.INTER_LINEAR) if self.bends else image

    def correct_points(self, points: np.ndarray) -> np.ndarray:
        """Return where the pinhole shows (N, 2) pixels.

        What lies outside of the image, where the lens says nothing, keeps its way from the edge.
        """
        edge = np.clip(points, 0, [self.camera.width, self.camera.height])
        return undistort_pixels(self.camera, edge) + points - edge

    def correct_region(self, region: Region) -> Region:
        """Return the Region with the box around what it held, keypoints and outline corrected."""
        if not self.bends:
            return region
        keypoints = region.keypoints
        if keypoints is not None:
            flat = self.correct_points(keypoints[:, :2])
            keypoints = np.concatenate([flat, keypoints[:, 2:]], 1).astype(keypoints.dtype)
        mask = None if region.mask is None else self._correct_mask(region.mask)
        return Region(self._correct_box(region.box), region.side, keypoints, mask, region.score)

    def _correct_box(self, box: np.ndarray) -> np.ndarray:
        """(4,) around where the pinhole shows the rim of a box."""
        x0, y0, x1, y1 = box
        xs, ys = np.linspace(x0, x1, 5), np.linspace(y0, y1, 5)
        rim = [(x, y) for x in xs for y in (y0, y1)] + [(x, y) for y in ys for x in (x0, x1)]
        moved = self.correct_points(np.array(rim, np.float64))
        return np.concatenate([moved.min(0), moved.max(0)])

    def _correct_mask(self, mask: PersonMask) -> PersonMask:
        """The outline as the pinhole shows it, with as many cells."""
        box, side = self._correct_box(mask.square), len(mask.inside)
        square = np.concatenate([box[:2], box[:2] + max(box[2:] - box[:2])])
        steps = (np.arange(side) + 0.5) / side * (square[2] - square[0])
        x, y = np.meshgrid(square[0] + steps, square[1] + steps)
        at = self._bend_points(np.stack([x, y], -1)) - mask.square[:2]
        cell = np.floor(at / (mask.square[2:] - mask.square[:2]) * side).astype(int)
        held = ((cell >= 0) & (cell < side)).all(-1)
        column, row = np.clip(cell, 0, side - 1).transpose(2, 0, 1)
        return PersonMask(square, mask.inside[row, column] & held)


@dataclass(eq=False)
class ImageCamera:
    """The camera of an image or video.

    Attributes:
        K: (3, 3) float64 intrinsics.
        source: where its focal length comes from.
        lens: what makes its images those of a pinhole, or None.
        known: whether anybody told the focal length; else it is assumed.
    """

    K: np.ndarray
    source: str
    lens: LensCorrection | None = None
    known: bool = True

    def describe(self) -> str:
        """Return a line such as "focal length 1234 px (EXIF: 28 mm on 35 mm film)"."""
        fx, fy = self.K[0, 0], self.K[1, 1]
        told = f"{fx:.0f}" if abs(fx - fy) < 0.5 else f"{fx:.0f} x {fy:.0f}"
        return f"focal length {told} px ({self.source})"

    def take_estimate(self, estimate: FocalEstimate, width: int, height: int) -> "ImageCamera":
        """Return the camera with a focal length that the people in its images tell.

        Args:
            width, height: of the images in pixels.
        """
        why = self.source.removeprefix(ASSUMED)  # why EXIF is not believed
        return ImageCamera(estimate.make_intrinsics(width, height), estimate.describe() + why)

    def list_lens(self) -> list[float]:
        """Return the numbers of the lens that are corrected; none of a pinhole."""
        if self.lens is None or not self.lens.bends:
            return []
        return [float(self.lens.camera.fisheye), *self.lens.camera.distortion.tolist()]

    def correct_image(self, image: np.ndarray) -> np.ndarray:
        """Return the (H, W, 3) image without what the lens does."""
        return image if self.lens is None else self.lens.correct_image(image)

    def correct_regions(self, regions: Sequence[Region]) -> list[Region]:
        """Return where people are in the corrected image."""
        return [one if self.lens is None else self.lens.correct_region(one) for one in regions]


class CameraFinder:
    """Finds the cameras of images and videos by what a command's keys say.

    Args:
        intrinsics: fx, fy, cx, cy in pixels, or nothing.
        calibration: a file of data.sources.cameras, or "".
        camera: a name in it, or "": each image's is the one that is named as the image is, or the
            only one.
    Raises:
        UserError: other than four numbers; the file cannot be read.
    """

    def __init__(
        self, intrinsics: Sequence[float] = (), calibration: str = "", camera: str = ""
    ) -> None:
        if intrinsics and len(intrinsics) != 4:
            raise UserError(f"intrinsics={intrinsics}: four numbers are needed, fx,fy,cx,cy")
        self.intrinsics, self.calibration, self.camera = intrinsics, calibration, camera
        self.known = read_cameras(calibration) if calibration else {}
        # One a camera and size: its map of pixels takes 8 bytes each.
        self._lenses: dict[tuple[str, int, int], LensCorrection] = {}

    def find_camera(self, path: str, width: int, height: int, photograph: bool) -> ImageCamera:
        """Return the camera of an image or a video.

        Args:
            width, height: pixels, upright.  photograph: whether it may hold EXIF.
        Raises:
            UserError: the calibration has no camera for it, or one of another size.
        """
        if self.intrinsics:
            fx, fy, cx, cy = self.intrinsics
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
            return ImageCamera(check_intrinsics(K, width, height), "intrinsics=")
        if self.calibration:
            name = self._choose_name(path)
            asked = f"camera={self.camera}"
            found = take_camera(self.known, name, asked, self.calibration, path, (width, height))
            source = f"calibration={Path(self.calibration).name}, camera {name}"
            lens = self._lenses.setdefault((name, width, height), LensCorrection(found))
            return ImageCamera(found.K, source, lens)
        told = read_exif_focal(path) if photograph else None
        if told is not None and told.focal_px is not None:
            fx, fy = told.focal_px
            K = np.array([[fx, 0, width / 2], [0, fy, height / 2], [0, 0, 1]])
            return ImageCamera(K, told.words)
        words = f"{ASSUMED}; {told.words}" if told is not None and told.words else ASSUMED
        return ImageCamera(check_intrinsics(None, width, height), words, known=False)

    def _choose_name(self, path: str) -> str:
        if self.camera:
            return self.camera
        if len(self.known) == 1:
            return next(iter(self.known))
        stem = Path(path).stem
        try:
            names = list(match_videos(self.known, [stem]))
        except UserError:  # it speaks of the keys of other commands
            names = []
        if not names:
            raise UserError(
                f"{path}: which camera of calibration={self.calibration} took it? its name does "
                f"not tell; it has {', '.join(self.known)}: say which by camera=NAME"
            )
        return names[0]


def estimate_camera(
    camera: ImageCamera, lens: LensReader | None, image: np.ndarray, bodies: Sequence[Region]
) -> ImageCamera:
    """Return the camera of an image; where nobody knows it, with what its people tell.

    Args:
        image: (H, W, 3) uint8.  bodies: where people are in it.
    """
    if camera.known or lens is None or not bodies:
        return camera
    boxes, points = [one.box for one in bodies], [one.keypoints for one in bodies]
    estimate = lens(image, boxes, points)
    if not estimate.people:
        return camera
    return camera.take_estimate(estimate, image.shape[1], image.shape[0])


def take_camera(
    known: Mapping[str, Camera],
    name: str,
    asked: str,
    calibration: str,
    path: str,
    size: tuple[int, int],
) -> Camera:
    """Return a camera of a calibration as an image of a size shows it.

    Args:
        asked: the key that names it, for messages.  path: of the image.  size: width and height.
    Raises:
        UserError: there is no such camera, it stands on its side, or it is of another size.
    """
    if name not in known:
        raise UserError(
            f"{asked}: calibration={calibration} has no camera {name}; it has {', '.join(known)}"
        )
    if known[name].quarter_turns:
        raise UserError(
            f"camera {name} of calibration={calibration} stands on its side; turn {path} and its "
            "calibration upright first"
        )
    return fit_to_video(known[name], *size)

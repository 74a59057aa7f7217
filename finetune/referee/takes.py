"""The clips that a referee is given: images, videos, and takes of calibrated cameras."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.sources.cameras import Camera, fit_to_video, read_cameras, undistort_pixels
from data.sources.listing import VIDEO_SUFFIXES
from engine.errors import UserError
from engine.geometry import project, triangulate
from engine.logging import report
from engine.logging.console import get_logger

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SUFFIXES = VIDEO_SUFFIXES | set(IMAGE_SUFFIXES)
CALIBRATION_SUFFIXES = (".toml", ".txt", ".json", ".yaml", ".yml")
NEAREST_VIEWS = 2
SLACK_PX = 16

log = get_logger(__name__)


@dataclass
class SampleClip:
    """A video or an image.

    Attributes:
        name: folder and stem, for results.
        path: of the file.
        take: the name of the take that it is part of, or "".
        camera: its calibration, or None.
    """

    name: str
    path: str
    take: str = ""
    camera: Camera | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is one image."""
        return self.path.lower().endswith(IMAGE_SUFFIXES)


@dataclass
class Triangulated:
    """3D joints of the one person of a take, or of its hands, from several cameras.

    Attributes:
        joints: {(instant, side of a hand or ""): (n, 3)} metres in the world, NaN where fewer than
            two cameras saw one.
        errors_px: distances in pixels between found keypoints and what the 3D joints project to.
        errors_box: the same as shares of the box's longer side.
    """

    joints: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    errors_px: list[float] = field(default_factory=list)
    errors_box: list[float] = field(default_factory=list)


def list_clips(samples: Sequence[str]) -> list[SampleClip]:
    """All clips of files and folders, sorted; a folder's videos with a calibration are a take.

    Raises:
        UserError: a path that is not there or that is given twice, or nothing to judge.
    """
    clips: list[SampleClip] = []
    for path in samples:
        if os.path.isfile(path):
            name = os.path.splitext(os.path.basename(path))[0]
            clips.append(SampleClip(name, path))
        elif os.path.isdir(path):
            for folder, inner, files in os.walk(path):
                inner.sort()
                clips += _clips_of(folder, sorted(files))
        else:
            raise UserError(f"samples={path}: no such file or folder")
    if not clips:
        raise UserError(f"samples={','.join(samples)}: no video and no image in there")
    _tell_apart(clips)
    return clips


def _tell_apart(clips: Sequence[SampleClip]) -> None:
    """Give clips, and takes, of one name the shortest ends of their paths that differ."""
    counts = Counter(clip.name for clip in clips)
    alike = [clip for clip in clips if counts[clip.name] > 1]
    try:
        ends = report.names([clip.path for clip in alike])
    except UserError as error:
        raise UserError(f"samples=: {error}") from None
    for clip, end in zip(alike, ends, strict=True):
        clip.name = end
    folders = defaultdict(set)
    for clip in clips:
        if clip.take:
            folders[clip.take].add(os.path.dirname(clip.path))
    for take, several in folders.items():
        if len(several) > 1:
            _rename_takes(clips, take, sorted(several))


def _rename_takes(clips: Sequence[SampleClip], take: str, folders: Sequence[str]) -> None:
    ends = dict(zip(folders, report.names(folders), strict=True))
    for clip in clips:
        if clip.take == take:
            clip.take = ends[os.path.dirname(clip.path)]


def _clips_of(folder: str, files: Sequence[str]) -> list[SampleClip]:
    name = os.path.basename(os.path.abspath(folder))
    shown = [f for f in files if os.path.splitext(f)[1].lower() in SUFFIXES]
    clips = [
        SampleClip(f"{name}/{os.path.splitext(file)[0]}", os.path.join(folder, file))
        for file in shown
    ]
    videos = [clip for clip in clips if not clip.is_image]
    if len(videos) > 1:
        _calibrate(folder, name, files, videos)
    return clips


def _calibrate(folder: str, name: str, files: Sequence[str], videos: list[SampleClip]) -> None:
    """Give videos their cameras where a file of the folder is a calibration of two or more.

    Without any the videos are judged one by one, and a note says why.
    """
    refused = []
    for file in files:
        if not file.lower().endswith(CALIBRATION_SUFFIXES):
            continue
        try:
            cameras = read_cameras(os.path.join(folder, file), "auto")
        except UserError as error:
            refused.append(str(error))  # perhaps some other file
            continue
        stems = {clip.name.rsplit("/", 1)[-1]: clip for clip in videos}
        both = [camera for camera in cameras if camera in stems]
        if len(both) >= NEAREST_VIEWS:
            for camera in both:
                stems[camera].camera, stems[camera].take = cameras[camera], name
            log.info(f"{name}: {len(both)} calibrated cameras by {file}")
            return
        refused.append(
            f"{os.path.join(folder, file)} is of the cameras {', '.join(cameras)}, the videos are "
            f"{', '.join(stems)}"
        )
    if refused:
        log.info(f"note: {folder}: its videos are judged one by one: {'; '.join(refused)}")


def fit_camera(clip: SampleClip, width: int, height: int) -> None:
    """Make a clip's camera that of its video; see data.sources.cameras.fit_to_video.

    Raises:
        UserError: it is of another image size.
    """
    if clip.camera is None:
        return
    try:
        clip.camera = fit_to_video(clip.camera, width, height, (0.0, 0.0), SLACK_PX)
    except UserError as error:
        raise UserError(f"{clip.path}: {error}") from None


def triangulate_joints(
    views: Sequence[tuple[Camera, np.ndarray, float]], least: float
) -> tuple[np.ndarray, list[float], list[float]]:
    """Joints of one person or hand at one instant by several cameras.

    Args:
        views: (camera, (n, 3) x, y, confidence in its distorted image, box's longer side).
        least: confidence from which a keypoint counts.

    Returns:
        ((n, 3) metres, NaN where fewer than two cameras saw it; errors in pixels; as shares of the
        box's side).
    """
    pixels = np.stack([undistort_pixels(camera, points[:, :2]) for camera, points, _ in views])
    for v, (_, points, _) in enumerate(views):
        pixels[v, points[:, 2] < least] = np.nan
    cameras = [camera for camera, _, _ in views]
    joints = triangulate(pixels, [c.K for c in cameras], [c.Rt for c in cameras])
    errors: list[float] = []
    shares: list[float] = []
    for v, camera in enumerate(cameras):
        away = np.linalg.norm(project(joints, camera.K, camera.Rt)[0] - pixels[v], axis=1)
        known = away[np.isfinite(away)]
        errors += known.tolist()
        shares += (known / views[v][2]).tolist()
    return joints, errors, shares

"""Calibrated cameras and the files they come from, one file a format in ``formats``.

Everything is in metres, world to camera, with OpenCV's axes (x right, y down, z forward).
"""

from data.sources.cameras.camera import (
    Camera,
    fit_to_video,
    project_distorted,
    undistort_pixels,
)
from data.sources.cameras.matching import match_videos
from data.sources.cameras.reading import AUTO, FORMATS, UNITS, read_cameras, write_cameras

__all__ = [
    "AUTO",
    "FORMATS",
    "UNITS",
    "Camera",
    "fit_to_video",
    "match_videos",
    "project_distorted",
    "read_cameras",
    "undistort_pixels",
    "write_cameras",
]

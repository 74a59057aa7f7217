"""A video as clips to fit: the people in it found, followed and cut, as ``data pairs`` does it."""

from pathlib import Path

import numpy as np

from data.find.store import index_store
from data.sources import pairs
from data.sources.listing import VIDEO_SUFFIXES
from data.sources.probe import Problems, probe_videos
from engine.errors import UserError
from finetune.inference.image_camera import CameraFinder

CLIPS = "clips"  # folder within out= of what is cut
CONFIG = "video"  # of data pairs
INSTANTS = 8  # of a clip


def is_video(path: str) -> bool:
    """Whether a path is a video's, by its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def cut_video(
    path: str, out: str, rate_hz: float, kind: str, finder: CameraFinder
) -> tuple[str, np.ndarray]:
    """Return the folder of a video's clips, and (3, 3) intrinsics of its frames.

    Args:
        out: folder of the fit.  rate_hz: frames of a second that are searched.
        kind: "body" or "hand".  finder: of its camera.
    Raises:
        UserError: it is no video, nobody is in it, or its camera has a lens that bends lines.
    """
    folder = str(Path(out) / CLIPS)
    problems = Problems()
    found = probe_videos([path], 1, problems, index_store(folder))
    if path not in found:
        raise UserError(f"{path} cannot be read: {problems.skipped.get(path, 'no frames')}")
    video = found[path]
    camera = finder.find_camera(path, video.width, video.height, photograph=False)
    if camera.list_lens():
        raise UserError(
            f"{path}: {camera.source} bends lines, which the clips of a single video do: make "
            "clips with counterpose data pairs multicam, which undoes that, and fit these"
        )
    print(f"{path}: {camera.describe()}")
    # One clip begins where the last one ends, and takes each frame that was searched.
    keys = (
        f"videos={path}",
        f"out={folder}",
        f"kind={kind}",
        f"find.rate_hz={rate_hz}",
        f"instants={INSTANTS}",
        f"gap_min_s={0.5 / rate_hz}",
        f"gap_max_s={1.5 / rate_hz}",
        f"stride_s={INSTANTS / rate_hz}",
    )
    pairs.main([CONFIG, *keys])
    return folder, camera.K

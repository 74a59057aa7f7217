"""Which video is of which camera, by their names."""

import re
from collections.abc import Iterable, Mapping

from engine.errors import UserError


def match_videos(
    cameras: Iterable[str], videos: Iterable[str], told: Mapping[str, str] | None = None
) -> dict[str, str]:
    """{camera: video} of those that belong together.

    A camera's video is the one that ``told`` says, else the one of its very name, else the only one
    whose last folder or file name holds the camera's name as a whole word (``take-cam_01-b`` holds
    ``cam_1``; upper and lower case and leading zeros do not count).

    Args:
        cameras: names in the calibration.  videos: names without suffix.
        told: {camera: video} by the user.
    Raises:
        UserError: a name that fits several videos, or a video that fits several cameras.
    """
    cameras, left, found = list(cameras), set(videos), dict(told or {})
    left -= set(found.values())
    for camera in cameras:
        if camera not in found and camera in left:
            found[camera] = camera
            left.discard(camera)
    takers: dict[str, str] = {}
    for camera in cameras:
        if camera in found:
            continue
        fitting = sorted(video for video in left if _holds(video, camera))
        if len(fitting) > 1:
            raise UserError(
                f"camera {camera} could be {fitting[0]} or {fitting[1]}: say which with "
                f"cameras.{camera}.video="
            )
        for video in fitting:
            if video in takers:
                raise UserError(
                    f"video {video} could be of camera {takers[video]} or {camera}: say which with "
                    f"cameras.{camera}.video="
                )
            takers[video] = camera
            found[camera] = video
    return found


def _holds(video, camera):
    """Whether the words of a camera's name follow each other in a video's."""
    words, wanted = _words(video.rpartition("/")[2]), _words(camera)
    if not wanted:
        return False
    starts = range(len(words) - len(wanted) + 1)
    return any(words[start : start + len(wanted)] == wanted for start in starts)


def _words(name):
    """Runs of letters and of digits, those without leading zeros."""
    parts = re.findall(r"[^\W\d_]+|\d+", name.casefold())
    return [str(int(part)) if part.isdigit() else part for part in parts]

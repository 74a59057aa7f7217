"""Which frames of a take's videos show one instant."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.sources.cameras import Camera
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.multicam.views import View
from data.sources.tables import read_timestamps
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)


def read_clock(
    cfg: PairsConfig, matched: Sequence[tuple[Camera, str, Frames]]
) -> tuple[dict[int, float], list[View]]:
    """Return ({instant: seconds}, [View]) by the timestamps file, or frame by frame.

    Args:
        matched: (camera, stem, video) of each view.
    Raises:
        UserError: frame rates that differ, or a file without one of the cameras.
    """
    if cfg.timestamps:
        return _by_timestamps(cfg, matched)
    rates, counts = [v.fps for _, _, v in matched], [v.count for _, _, v in matched]
    if max(rates) > 1.01 * min(rates):
        raise UserError(
            f"videos={cfg.videos} run at {min(rates):g} and {max(rates):g} frames a second; "
            "give timestamps=FILE to say which frames belong together"
        )
    if len(set(counts)) > 1:
        log.info(
            f"videos of {min(counts)} to {max(counts)} frames: the first {min(counts)} are taken "
            f"from each"
        )
    views = [
        View(camera, stem, video, {i: i for i in range(video.count)})
        for camera, stem, video in matched
    ]
    _say_dropped([video for _, _, video in matched], min(counts))
    times = matched[0][2].times
    return {i: float(times[i]) for i in range(min(counts))}, views


def _say_dropped(videos, count):
    """Warn where equal numbers are not one instant by the videos' own times."""
    first = videos[0]
    for video in videos[1:]:
        apart = np.abs(video.times[:count] - first.times[:count])
        late = np.flatnonzero(apart > 0.5 / first.fps)
        if len(late):
            log.warning(
                f"{video.path}: from frame {late[0]} on its times part from those of {first.path} "
                f"by up to {apart.max():.3f} s, as where a camera drops frames; give "
                f"timestamps=FILE to say which frames belong together"
            )


def shift_views(views: Sequence[View], offsets: Sequence[int]) -> list[View]:
    """Return the views with each one's frames taken ``offset`` instants later.

    Args:
        offsets: instants by which each view is late: what the others show at instant i, it shows at
            i + offset.
    """
    return [
        dataclasses.replace(view, frames={i - offset: f for i, f in view.frames.items()})
        for view, offset in zip(views, offsets, strict=True)
    ]


def _by_timestamps(cfg, matched):
    times, frames = read_timestamps(cfg.timestamps)
    views = []
    for camera, stem, video in matched:
        known = next(
            (
                frames[n]
                for n in (camera.name, stem, camera.name.removeprefix("cam_"))
                if n in frames
            ),
            None,
        )
        if known is None:
            raise UserError(
                f"{cfg.timestamps} has no cam_id for camera {camera.name}, only for "
                f"{', '.join(sorted(frames))}"
            )
        if len(known) != video.count:
            log.info(
                f"{video.path} has {video.count} frames, {cfg.timestamps} has {len(known)} for it"
            )
        views.append(View(camera, stem, video, {i: f for i, f in known.items() if f < video.count}))
    return times, views

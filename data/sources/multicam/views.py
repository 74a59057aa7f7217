"""Which video belongs to which calibrated camera."""

from dataclasses import dataclass, replace

from data.sources.cameras import Camera, fit_to_video, match_videos, read_cameras
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.probe import Problems, list_videos, probe_videos
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)


@dataclass
class View:
    """One camera with its video and, for each instant, the frame of it.

    Attributes:
        camera: as its video shows it.
        stem: name of the video.
        video: its frames.
        frames: {instant: frame}; an instant is missing where the camera recorded none.
    """

    camera: Camera
    stem: str
    video: Frames
    frames: dict[int, int]


def open_views(
    cfg: PairsConfig, problems: Problems
) -> tuple[list[tuple[Camera, str, Frames]], dict[str, Frames]]:
    """Return [(camera, stem of its video, video)] in the calibration's order, and {path: Frames}.

    Raises:
        UserError: cameras and videos that do not belong together.
    """
    matched = _match(cfg)
    found = probe_videos([path for _, _, path in matched], cfg.workers, problems)
    matched = [(camera, stem, found[path]) for camera, stem, path in matched if path in found]
    if len(matched) < 2:
        raise UserError(
            f"videos={cfg.videos}: {len(matched)} of the calibrated cameras' videos can be read; 2 "
            f"are needed"
        )
    return [(_fit(cfg, camera, video), stem, video) for camera, stem, video in matched], found


def _match(cfg):
    """Return [(camera, stem, path)].

    A camera's video has its name, or the one that cameras.NAME.video says.
    """
    cameras = read_cameras(
        cfg.calibration, cfg.calibration_format, cfg.calibration_unit, cfg.calibration_part
    )
    videos = list_videos(cfg.videos)
    for name, keys in cfg.cameras.items():
        if name not in cameras:
            raise UserError(
                f"cameras.{name}: {cfg.calibration} has the cameras {', '.join(cameras)}"
            )
        if keys.video is not None and keys.video not in videos:
            raise UserError(
                f"cameras.{name}.video={keys.video}: {cfg.videos} has the videos "
                f"{', '.join(videos)}"
            )
    told = {name: keys.video for name, keys in cfg.cameras.items() if keys.video}
    stems = match_videos(cameras, videos, told)
    matched = [
        (camera, stems[name], videos[stems[name]])
        for name, camera in cameras.items()
        if name in stems
    ]
    if len(matched) < 2:
        raise UserError(
            f"{len(matched)} cameras match a video: {cfg.calibration} has {', '.join(cameras)}, "
            f"{cfg.videos} has {', '.join(videos)}; map them with cameras.NAME.video="
        )
    for name in cameras:
        if name not in stems:
            log.info(f"camera {name}: no video of that name; left out")
        elif stems[name] != name and name not in told:
            log.info(f"camera {name}: its video is {videos[stems[name]]}, by its name")
    for stem in sorted(set(videos) - {stem for _, stem, _ in matched}):
        log.info(f"{videos[stem]}: no camera of that name in {cfg.calibration}; left out")
    return matched


def _fit(cfg, camera, video):
    offset = (0.0, 0.0)
    if camera.name in cfg.cameras:
        keys = cfg.cameras[camera.name]
        offset = (keys.offset_x, keys.offset_y)
        turns = keys.quarter_turns(camera.name)
        if turns is not None:
            camera = replace(camera, quarter_turns=turns)
    if camera.width and (video.width, video.height) != (camera.width, camera.height):
        log.info(
            f"camera {camera.name}: the video is {video.width}x{video.height}, its calibration is "
            f"for {camera.width}x"
            f"{camera.height}; taken as cut off at offset ({offset[0]:g}, {offset[1]:g})"
        )
    return fit_to_video(camera, video.width, video.height, offset, cfg.size_slack_px)

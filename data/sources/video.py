"""Cross-pose clips: one person at several instants of one camera.

From videos and a file of boxes.
"""

from data.cropping.geometry import square_around
from data.sources.config import PairsConfig
from data.sources.detections import fill_gaps, read_detections
from data.sources.frames import Frames
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside
from data.sources.probe import Problems, list_videos, probe_videos
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of all videos that have boxes.

    Raises:
        UserError: no videos, a file of boxes that cannot be read or has none for any of them.
    """
    videos = list_videos(cfg.videos)
    assert cfg.boxes is not None, "PairsConfig.check asks for them"
    found = probe_videos(list(videos.values()), cfg.workers, problems)
    readable = {name: found[path] for name, path in videos.items() if path in found}
    people = read_detections(cfg.boxes, readable, cfg.boxes_format, problems)
    if not people:
        raise UserError(
            f"boxes={cfg.boxes} lists nobody in the videos of videos={cfg.videos}: {_some(videos)}"
        )
    for name in sorted(set(readable) - set(people)):
        log.info(f"{videos[name]}: no boxes for it in {cfg.boxes}; left out")
    plans = []
    for name, tracks in people.items():
        if cfg.subject and len(tracks) > 1:
            raise UserError(
                f"subject={cfg.subject} names one person, but {cfg.boxes} has {len(tracks)} in "
                f"{name}"
            )
        for person in sorted(tracks):
            plans += _person(cfg, name, person, tracks[person], readable[name])
    return plans, found


def _person(cfg, stem, person, track, video):
    seen = {
        frame: detection
        for frame, detection in fill_gaps(track, cfg.fill_gaps_frames).items()
        if share_inside(detection.box, video.width, video.height) >= cfg.min_inside
    }
    frames = list(seen)
    if not frames:
        return
    times = video.times[frames].tolist()
    for chosen in choose_instants(times, f"{stem}/{person}", cfg):
        if len(chosen) < 2:
            continue
        crops = [
            CropPlan(
                video.path,
                frames[i],
                stem,
                times[i],
                square_around(seen[frames[i]].box, cfg.margin).box,
                detection=seen[frames[i]],
            )
            for i in chosen
        ]
        key = clip_key(stem, person, f"{crops[0].frame:06d}")
        subject = cfg.subject or f"{cfg.source}/{stem}/{person}"
        yield ClipPlan(key, subject, crops, track=f"{stem}/{person}")


def _some(names):
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

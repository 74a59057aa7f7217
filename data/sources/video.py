"""Cross-pose clips: one person at several instants of one camera.

From videos and a file of boxes.
"""

from data.cropping.geometry import square_around
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside
from data.sources.probe import Problems, list_videos, probe_videos
from data.sources.tables import check_boxes, fill_gaps, read_boxes
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of all videos that have boxes.

    Raises:
        UserError: no videos, no boxes for any of them, a box for a frame or a place that its video
            does not have.
    """
    videos = list_videos(cfg.videos)
    assert cfg.boxes is not None, "PairsConfig.check asks for them"
    boxes = read_boxes(cfg.boxes)
    named = [stem for stem in videos if stem in boxes]
    if not named:
        raise UserError(
            f"boxes={cfg.boxes} is for {_some(boxes)}, but videos={cfg.videos} holds "
            f"{_some(videos)}"
        )
    for stem in sorted(set(videos) - set(boxes)):
        log.info(f"{videos[stem]}: no boxes for it in {cfg.boxes}; left out")
    for stem in sorted(set(boxes) - set(videos)):
        problems.add(stem, f"{cfg.boxes} has boxes for it, but it is not in {cfg.videos}")
    found = probe_videos([videos[stem] for stem in named], cfg.workers, problems)
    plans = []
    for stem in named:
        if videos[stem] in found:
            if cfg.subject and len(boxes[stem]) > 1:
                raise UserError(
                    f"subject={cfg.subject} names one person, but {cfg.boxes} has "
                    f"{len(boxes[stem])} in {stem}"
                )
            for person in sorted(boxes[stem]):
                plans += _person(cfg, stem, person, boxes[stem][person], found[videos[stem]])
    return plans, found


def _person(cfg, stem, person, boxes, video):
    check_boxes(boxes, video.width, video.height)
    frame = max(boxes)
    if frame >= video.count:
        raise UserError(
            f"{boxes[frame][1]}: frame {frame}, but {video.path} has frames 0 to {video.count - 1}"
        )
    seen = {
        f: box
        for f, box in fill_gaps(boxes, cfg.fill_gaps_frames).items()
        if share_inside(box, video.width, video.height) >= cfg.min_inside
    }
    frames = list(seen)
    if not frames:
        return
    times = [f / video.fps for f in frames]
    for chosen in choose_instants(times, f"{stem}/{person}", cfg):
        if len(chosen) < 2:
            continue
        crops = [
            CropPlan(
                video.path,
                frames[i],
                stem,
                times[i],
                square_around(seen[frames[i]], cfg.margin).box,
            )
            for i in chosen
        ]
        key = clip_key(stem, person, f"{crops[0].frame:06d}")
        yield ClipPlan(key, cfg.subject or f"{cfg.source}/{stem}/{person}", crops)


def _some(names):
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

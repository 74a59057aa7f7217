"""Cross-pose clips: one person at several instants of one camera.

From videos, and a file of boxes where people are not to be searched for.
"""

from data.find.detection import Detection, HandDetection
from data.sources import searched
from data.sources.config import PairsConfig
from data.sources.detections import fill_gaps, read_detections
from data.sources.frames import Frames
from data.sources.person_clips import plan_body, plan_hand, wanted_sides
from data.sources.plan import ClipPlan
from data.sources.probe import Problems, list_videos, probe_videos
from engine.errors import UserError
from engine.logging.console import get_logger

log = get_logger(__name__)


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of all videos in which somebody is found, or has boxes.

    Raises:
        UserError: no videos, a file of boxes that cannot be read or has none for any of them.
    """
    if cfg.boxes is None:
        return searched.plan_clips(cfg, problems)
    videos = list_videos(cfg.videos)
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
            plans += _plan_person(cfg, name, person, tracks, readable[name])
    return plans, found


def _plan_person(cfg, name, person, tracks, video):
    seen = fill_gaps(tracks[person], cfg.fill_gaps_frames)
    if cfg.kind in ("body", "all"):
        yield from plan_body(cfg, name, person, video, seen, tracks)
    for side in wanted_sides(cfg.kind):
        if cfg.kind == f"{side}_hand" and not any(one.hands for one in seen.values()):
            seen = _take_for_hands(seen, side)
        yield from plan_hand(cfg, name, person, video, seen, side)


def _take_for_hands(seen, side):
    """Detections of hands themselves, as of a person of whom nothing else is known."""
    out = {}
    for frame, one in seen.items():
        points = one.keypoints if one.joint_set == "hand21" else None
        hand = HandDetection(side, one.box, one.score, points)
        out[frame] = Detection(one.box, one.score, hands={side: hand}, where=one.where)
    return out


def _some(names):
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

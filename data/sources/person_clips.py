"""The clips of one person of one video, of the body and of the hands, whoever found them."""

from collections.abc import Iterator, Mapping

import numpy as np

from data.cropping.geometry import square_around
from data.find.detection import SIDES, Detection, Tracks
from data.find.tracking import share_of
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.plan import ClipPlan, CropPlan, choose_instants, clip_key, share_inside


def wanted_sides(kind: str) -> list[str]:
    """Return the hands that clips of a kind show."""
    return [side for side in SIDES if kind in ("hand", "all", f"{side}_hand")]


def plan_body(
    cfg: PairsConfig,
    name: str,
    person: str,
    video: Frames,
    seen: Mapping[int, Detection],
    everybody: Tracks,
) -> Iterator[ClipPlan]:
    """Yield the clips of a person's body.

    Args:
        name: of the video.
        seen: by frame.
        everybody: of the video, the person among them.
    """
    inside = {
        frame: one
        for frame, one in seen.items()
        if share_inside(one.box, video.width, video.height) >= cfg.min_inside
    }
    for frames in _choose_frames(cfg, f"{name}/{person}", video, inside):
        crops = []
        for frame in frames:
            crop = _plan_crop(cfg, name, video, frame, inside[frame].box)
            crop.detection = _without_hands(inside[frame])
            crop.others = _list_others(everybody, person, frame, crop.box)
            crops.append(crop)
        key, track = clip_key(name, person, f"{frames[0]:06d}"), f"{name}/{person}"
        yield ClipPlan(key, _subject(cfg, name, person), crops, "body", track=track)


def plan_hand(
    cfg: PairsConfig,
    name: str,
    person: str,
    video: Frames,
    seen: Mapping[int, Detection],
    side: str,
) -> Iterator[ClipPlan]:
    """Yield the clips of one hand of a person.

    Args:
        seen: by frame; those without that hand are passed over.
    """
    kind = f"{side}_hand"
    hands = {frame: one.hands[side] for frame, one in seen.items() if side in one.hands}
    inside = {
        frame: hand
        for frame, hand in hands.items()
        if share_inside(hand.box, video.width, video.height) >= cfg.min_inside
    }
    for frames in _choose_frames(cfg, f"{name}/{person}/{kind}", video, inside):
        crops = []
        for frame in frames:
            hand = inside[frame]
            crop = _plan_crop(cfg, name, video, frame, hand.box)
            crop.detection = Detection(hand.box, hand.score, hands={side: hand})
            crops.append(crop)
        key = clip_key(name, person, kind, f"{frames[0]:06d}")
        subject, track = _subject(cfg, name, person), f"{name}/{person}"
        yield ClipPlan(key, subject, crops, kind, track=track)


def _choose_frames(cfg, name, video, seen) -> Iterator[list[int]]:
    """The frames of each clip of at least 2 instants, by the frames' true times."""
    frames = sorted(seen)
    if not frames:
        return
    for chosen in choose_instants(video.times[frames].tolist(), name, cfg):
        if len(chosen) >= 2:
            yield [frames[i] for i in chosen]


def _plan_crop(cfg, name, video, frame, box: np.ndarray) -> CropPlan:
    square = square_around(box, cfg.margin).box
    return CropPlan(video.path, frame, name, float(video.times[frame]), square)


def _subject(cfg, name, person):
    return cfg.subject or f"{cfg.source}/{name}/{person}"


def _without_hands(one):
    return Detection(one.box, one.score, one.keypoints, one.joint_set, mask=one.mask)


def _list_others(everybody, person, frame, square):
    """Who else of the frame may be in the crop."""
    others = [track[frame] for who, track in everybody.items() if who != person and frame in track]
    bodies = [one for one in others if one.joint_set != "hand21"]
    return [_without_hands(one) for one in bodies if share_of(one.box, square) > 0]

"""Which crops of a video are asked about: who is where in each frame.

What a search, or a file of boxes, has seen in some frames is interpolated to those between, as far
as nobody can have gone and come back in the meantime; a longer gap stays one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.find.detection import Detection, HandDetection, Tracks
from finetune.inference.search import Region, order_keypoints
from finetune.prompts import SURE

GAP_S = 0.35  # longest time between two sightings that is filled
LEAST_POINTS = 4  # keypoints that were found for sure, for a body to be recovered
BODY = "body"


@dataclass(frozen=True)
class Who:
    """A person, or one hand of theirs, throughout a video.

    Attributes:
        person: as the search names people; "hand0", ... are hands of which no body is seen.
        part: "body", "left_hand" or "right_hand".
    """

    person: str
    part: str = BODY

    @property
    def kind(self) -> str:
        """What recovers it: "body" or "hand"."""
        return "body" if self.part == BODY else "hand"


@dataclass(frozen=True)
class Asked:
    """One crop of a frame.

    Attributes:
        who: whose.  region: where.  score: of the search, 0 to 1.
    """

    who: Who
    region: Region
    score: float


Plan = dict[int, list[Asked]]  # by frame, in order


def plan_crops(
    tracks: Tracks,
    times: np.ndarray,
    kinds: list[str],
    least_score: float,
    last_searched: int | None = None,
) -> tuple[Plan, list[Who]]:
    """Return what is asked in each frame of a video, and of whom at all, bodies first.

    Args:
        tracks: {person: {frame: Detection}}.
        times: (F,) seconds of the video's frames.
        kinds: "body" or "hand", or both: what can be recovered.
        least_score: less sure detections, and hands, are left out.
        last_searched: the video's last frame in which people were searched; who is seen there is
            asked for in the few that follow it.
    """
    plan: Plan = {}
    everybody: list[Who] = []
    seen_often = _is_often(tracks, times)
    for person, track in tracks.items():
        parts = _split_parts(track, least_score)
        if seen_often:
            parts[BODY] = _leave_out_lonely(parts[BODY], times)
        for part, seen in parts.items():
            who = Who(person, part)
            if who.kind not in kinds or not seen:
                continue
            everybody.append(who)
            filled = fill_between(seen, times)
            if last_searched in seen:
                after = range(last_searched + 1, len(times))
                filled |= dict.fromkeys(after, seen[last_searched])
            for frame, (region, score) in filled.items():
                plan.setdefault(frame, []).append(Asked(who, region, score))
    everybody.sort(key=lambda who: who.part != BODY)
    return dict(sorted(plan.items())), everybody


Seen = dict[int, tuple[Region, float]]


def _split_parts(track: Mapping[int, Detection], least_score: float) -> dict[str, Seen]:
    """{part: {frame: where, how sure}} of one person's detections."""
    out: dict[str, Seen] = {BODY: {}, "left_hand": {}, "right_hand": {}}
    for frame, one in sorted(track.items()):
        if one.score < least_score:
            continue
        if one.joint_set != "hand21" and _shows_body(one):
            out[BODY][frame] = Region(one.box, keypoints=_order(one)), one.score
        for side, hand in one.hands.items():
            if hand.score >= least_score:
                out[f"{side}_hand"][frame] = _make_hand(hand), hand.score
    return out


def _is_often(tracks: Tracks, times: np.ndarray) -> bool:
    """Whether a video was searched so often that whoever is there is seen again within a gap."""
    frames = sorted({frame for track in tracks.values() for frame in track if frame < len(times)})
    return len(frames) > 2 and float(np.diff(times[frames]).min()) <= GAP_S / 2


def _leave_out_lonely(seen: Seen, times: np.ndarray) -> Seen:
    """Leave out bodies of a single sighting with none near it in time: a glance at nobody.

    Boxes of others, which come without keypoints, are believed.
    """
    moments = times[sorted(seen)]
    out = {}
    for frame, (region, score) in seen.items():
        near = np.abs(moments - times[frame]) <= GAP_S
        if near.sum() > 1 or region.keypoints is None:
            out[frame] = region, score
    return out


def _shows_body(one: Detection) -> bool:
    """Whether a body can be told: a box without keypoints in it may hold a sleeve, or nobody."""
    return one.keypoints is None or (one.keypoints[:, 2] >= SURE).sum() >= LEAST_POINTS


def _order(one: Detection) -> np.ndarray | None:
    return order_keypoints(one) if one.keypoints is not None else None


def _make_hand(hand: HandDetection) -> Region:
    return Region(hand.box, hand.side, hand.keypoints)


def fill_between(seen: Seen, times: np.ndarray) -> Seen:
    """Return the sightings and what lies between two of them that are near in time."""
    frames = list(seen)
    out = dict(seen)
    for first, last in zip(frames, frames[1:], strict=False):
        if last - first < 2 or times[last] - times[first] > GAP_S:
            continue
        for frame in range(first + 1, last):
            share = (times[frame] - times[first]) / (times[last] - times[first])
            out[frame] = _mix(seen[first], seen[last], float(share))
    return dict(sorted(out.items()))


def _mix(
    one: tuple[Region, float], other: tuple[Region, float], share: float
) -> tuple[Region, float]:
    """Between two sightings; a keypoint is as sure as the less sure of the two."""
    (a, score_a), (b, score_b) = one, other
    points = None
    if a.keypoints is not None and b.keypoints is not None:
        points = a.keypoints + (b.keypoints - a.keypoints) * share
        points[:, 2] = np.minimum(a.keypoints[:, 2], b.keypoints[:, 2])
    box = a.box + (b.box - a.box) * share
    return Region(box, a.side, points), min(score_a, score_b)

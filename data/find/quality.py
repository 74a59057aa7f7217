"""Which of a video's people and hands are good enough to be cut, and how many are not, and why."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.find.config import FindConfig
from data.find.detection import Detection
from data.find.found import Found
from data.find.tracking import SURE, longer_side, share_of

REASONS = {
    "small": "find.box_min_px",
    "small hands": "find.hand_min_px",
    "cut off": "find.keypoints_min",
    "doubtful hands": "find.hand_score_min",
    "merged with another": "find.growth_max",
    "blurred": "find.sharpness_min",
}


COMPANY = 0.2  # share of somebody's box in a person's, that they may be found as one


@dataclass
class LeftOut:
    """How many people and hands were left out, by reason, out of how many.

    Attributes:
        reasons: counts by the names of REASONS.
        seen: people and hands that were looked at.
        still: frames that repeat others, in which nobody was searched.
    """

    reasons: Counter
    seen: int = 0
    still: int = 0

    @classmethod
    def nothing(cls) -> "LeftOut":
        """Of no video yet."""
        return cls(Counter())

    def describe(self, options: FindConfig) -> str:
        """Return one line for people, "" where nothing was left out."""
        parts = []
        for reason, name in REASONS.items():
            if self.reasons[reason]:
                value = getattr(options, name.removeprefix("find."))
                parts.append(f"{self.reasons[reason]} {reason} ({name}={value:g})")
        said = f"of {self.seen} sightings left out: {', '.join(parts)}" if parts else ""
        if self.still:
            said += f"{'; ' if said else ''}{self.still} frames repeat others"
        return said


def choose_bodies(
    found: Found, person: str, options: FindConfig, left_out: LeftOut
) -> dict[int, Detection]:
    """Return {frame: detection} of a person's sightings that are large, whole and sharp enough."""
    track = found.tracks[person]
    if all(one.joint_set == "hand21" for one in track.values()):
        return {}
    sharp_from = options.sharpness_min * _median(found.sharpness[person])
    merged = _find_merged(found, person, options)
    out = {}
    for frame, one in track.items():
        left_out.seen += 1
        if longer_side(one.box) < options.box_min_px:
            left_out.reasons["small"] += 1
        elif one.keypoints is not None and _count(one.keypoints) < options.keypoints_min:
            left_out.reasons["cut off"] += 1
        elif frame in merged:
            left_out.reasons["merged with another"] += 1
        elif found.sharpness[person][frame] < sharp_from:
            left_out.reasons["blurred"] += 1
        else:
            out[frame] = one
    return out


def choose_hands(
    found: Found, person: str, side: str, options: FindConfig, left_out: LeftOut
) -> dict[int, Detection]:
    """Return {frame: detection} of the sightings with a hand that is large and sharp enough."""
    sharpness = {f: by[side] for f, by in found.hand_sharpness[person].items() if side in by}
    sharp_from = options.sharpness_min * _median(sharpness)
    out = {}
    for frame, one in found.tracks[person].items():
        if side not in one.hands:
            continue
        left_out.seen += 1
        if longer_side(one.hands[side].box) < options.hand_min_px:
            left_out.reasons["small hands"] += 1
        elif one.hands[side].score < options.hand_score_min:
            left_out.reasons["doubtful hands"] += 1
        elif sharpness[frame] < sharp_from:
            left_out.reasons["blurred"] += 1
        else:
            out[frame] = one
    return out


def _find_merged(found, person, options):
    """The frames in which a person's box is suddenly higher, beside somebody: the box of both."""
    track = found.tracks[person]
    frames = list(track)
    heights = np.array([one.box[3] - one.box[1] for one in track.values()])
    reach = max(2, round(options.rate_hz))
    out = set()
    for place, frame in enumerate(frames):
        near = slice(max(0, place - reach), place + reach + 1)
        if heights[place] > options.growth_max * np.median(heights[near]):
            first, last = frames[near][0], frames[near][-1]
            if _has_company(found, person, track[frame].box, first, last):
                out.add(frame)
    return out


def _has_company(found, person, box, first, last):
    """Whether somebody else was in a box at some time between two frames."""
    for who, track in found.tracks.items():
        boxes = [one.box for frame, one in track.items() if first <= frame <= last]
        if who != person and any(share_of(one, box) > COMPANY for one in boxes):
            return True
    return False


def _median(values: Mapping[int, float]) -> float:
    return float(np.median(list(values.values()))) if values else 0.0


def _count(keypoints):
    return int((keypoints[:, 2] >= SURE).sum())

"""Keys of the search for people in videos, ``find.*``."""

from dataclasses import dataclass

from engine.config.parser import key

# What changes the tracks of a video; the other keys choose among them and cost no new search.
SEARCH_KEYS = ("rate_hz", "score_min", "tiles", "lost_s", "track_min_s")


@dataclass
class FindConfig:
    """How people are searched for in videos, and which of them are good enough to be cut."""

    rate_hz: float = key(10.0, "frames of a second of video that are searched", low=0.1)
    score_min: float = key(0.2, "least score of a person, 0 to 1", low=0, high=1)
    tiles: bool = key(True, "search in tiles of the image too, for small people and crowds")
    lost_s: float = key(1.5, "longest time that a person may be hidden and stay the same", low=0)
    track_min_s: float = key(0.3, "shortest stay of a person; less is left out", low=0)
    box_min_px: int = key(64, "least longer side of a person's box; smaller ones are left out")
    hand_min_px: int = key(32, "least longer side of a hand's box; smaller ones are left out")
    hand_score_min: float = key(
        0.8, "least score of a hand; below it there are feet and elbows", low=0, high=1
    )
    keypoints_min: int = key(
        6, "fewest of a person's 17 keypoints in the image; with less they are left out", low=0
    )
    sharpness_min: float = key(
        0.35, "least sharpness of a person beside their own median; less is left out as blurred"
    )
    growth_max: float = key(
        1.15,
        "most height of a person beside somebody, over the median of 2 s; more is left out as a "
        "box of both",
        low=1,
    )
    masks: bool | None = key(
        None,
        "find the person's outline in each crop that is cut; default: where people are searched "
        "for, but not with boxes=",
    )

"""Which two crops of a clip make a pair, and the rules that a config sets for them."""

import math
from dataclasses import dataclass

import numpy as np

from data.samples import KINDS
from data.shards import pair_matrix
from engine.config import key
from engine.errors import UserError

CROPS = {"body": ("body",), "hand": ("left_hand", "right_hand"), "any": KINDS}


@dataclass
class PairRules:
    crops: str = key("body", "which crops make pairs", choices=tuple(CROPS))
    angle_min_deg: float = key(5.0, "cross-view: least angle between the cameras, seen from the person", low=0, high=180)
    angle_max_deg: float = key(100.0, "cross-view: largest such angle; beyond 100 the reference harmed in a first study",
                               low=0, high=180)
    gap_min_s: float = key(0.0, "cross-pose: least time between the two instants, seconds", low=0)
    gap_max_s: float = key(10.0, "cross-pose: most time between them, seconds", low=0)
    overlap_min: float = key(0.0, "least share of a's visible surface that b sees too, where known", low=0, high=1)
    overlap_max: float = key(1.0, "most such share", low=0, high=1)

    def check(self):
        for low, high in (("angle_min_deg", "angle_max_deg"), ("gap_min_s", "gap_max_s"), ("overlap_min", "overlap_max")):
            if getattr(self, low) > getattr(self, high):
                raise UserError(f"pairs.{low}={getattr(self, low)} is above pairs.{high}={getattr(self, high)}")


def offer_bits(crops):
    """The bits of Index.offers that CROPS of that name can use."""
    return sum(0b11 << 2 * k for k, kind in enumerate(KINDS) if kind in CROPS[crops])


def view_angles(clip):
    """(N, N) degrees between each two crops' cameras as seen from the person, nan where one is not calibrated.

    The rays through two crops' centres both pass through the person, so their angle is the one looked for.
    """
    # A ray a crop in plain arithmetic and the pairs in numpy: for 6 crops half the time of numpy alone, and linear.
    rays = np.array([_ray(crop, clip.size / 2) for crop in clip.crops])
    return np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1)))


def _ray(crop, centre):
    """Unit vector in the world from the camera through the crop's centre."""
    if crop.K is None or crop.Rt is None:
        return math.nan, math.nan, math.nan
    (fx, skew, cx), (_, fy, cy), _ = crop.K
    (a, b, c, _), (d, e, f, _), (g, h, i, _) = crop.Rt
    y = (centre - cy) / fy
    x = (centre - cx - skew * y) / fx
    u, v, w = x * a + y * d + g, x * b + y * e + h, x * c + y * f + i
    length = math.sqrt(u * u + v * v + w * w)
    return u / length, v / length, w / length


def candidates(clip, kind, rules):
    """[(a, b), ...] of a clip that are of that kind and keep the rules; what is not known excludes nothing."""
    keep = pair_matrix(clip, kind, CROPS[rules.crops])
    if not keep.any():
        return []
    if kind == "cross_view":
        value, low, high = view_angles(clip), rules.angle_min_deg, rules.angle_max_deg
    else:
        times = np.array([crop.time_s for crop in clip.crops])
        value, low, high = np.abs(times[:, None] - times), rules.gap_min_s, rules.gap_max_s
    keep &= ~((value < low) | (value > high))  # nan is neither
    if clip.overlap is not None and (rules.overlap_min > 0 or rules.overlap_max < 1):
        keep &= (rules.overlap_min <= clip.overlap) & (clip.overlap <= rules.overlap_max)
    return np.argwhere(keep).tolist()

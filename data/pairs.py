"""Which two crops of a clip make a pair, and the rules that a config sets for them."""

from dataclasses import dataclass

import numpy as np

from data.index import pair_matrix
from data.samples import KINDS
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
    rays = np.full((len(clip.crops), 3), np.nan)
    for ray, crop in zip(rays, clip.crops, strict=True):
        if crop.K is not None and crop.Rt is not None:
            (fx, skew, cx), (_, fy, cy), _ = crop.K
            y = (clip.size / 2 - cy) / fy
            ray[:] = np.array([(clip.size / 2 - cx - skew * y) / fx, y, 1.0]) @ np.asarray(crop.Rt)[:, :3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1)))


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
    keep &= np.isnan(value) | (low <= value) & (value <= high)
    if clip.overlap is not None:
        keep &= (rules.overlap_min <= clip.overlap) & (clip.overlap <= rules.overlap_max)
    return np.argwhere(keep).tolist()

"""Which two crops of a clip make a pair, and the rules that a config sets for them."""

import math
from dataclasses import dataclass

import numpy as np

from data.samples import KINDS
from data.shards import pairs_of
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
                raise UserError(f"data.pairs.{low}={getattr(self, low)} is above data.pairs.{high}={getattr(self, high)}")


def offer_bits(rules):
    """The bits of Index.offers that these rules' crops can use."""
    return sum(0b11 << 2 * k for k, kind in enumerate(KINDS) if kind in CROPS[rules.crops])


def angle_between(a, b, size):
    """Radians between two crops' cameras as seen from the person, or None where one is not calibrated.

    The rays through the two crops' centres both pass through the person, so their angle is the one looked for.
    """
    rays = []
    for crop in (a, b):
        if crop.K is None or crop.Rt is None:
            return None
        x = np.linalg.solve(np.asarray(crop.K, float), np.array([size / 2, size / 2, 1.0]))
        ray = np.asarray(crop.Rt, float)[:, :3].T @ x
        rays.append(ray / np.linalg.norm(ray))
    return math.acos(float(np.clip(rays[0] @ rays[1], -1, 1)))


def allowed(clip, i, j, kind, rules):
    """Whether the pair (i masked, j reference) of that kind keeps the rules; what is not known does not exclude."""
    a, b = clip.crops[i], clip.crops[j]
    if kind == "cross_view":
        angle = angle_between(a, b, clip.size)
        if angle is not None and not rules.angle_min_deg <= math.degrees(angle) <= rules.angle_max_deg:
            return False
    elif not rules.gap_min_s <= abs(a.time_s - b.time_s) <= rules.gap_max_s:
        return False
    return clip.overlap is None or rules.overlap_min <= clip.overlap[i, j] <= rules.overlap_max


def candidates(clip, kind, rules):
    """[(a, b), ...] of a clip that are of that kind and keep the rules."""
    pairs = pairs_of(clip, kind, CROPS[rules.crops])
    return [(i, j) for i, j in pairs if allowed(clip, i, j, kind, rules)]

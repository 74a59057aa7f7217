"""Which two crops of a clip make a pair, and the rules that a config sets for them."""

import math
from dataclasses import dataclass

import numpy as np

from data.format.clip import KINDS, Clip
from engine.config.parser import key
from engine.errors import UserError

CROPS = {"body": ("body",), "hand": ("left_hand", "right_hand"), "any": KINDS}


@dataclass
class PairRules:
    """Selects the crops of a clip that make pairs."""

    crops: str = key("body", "which crops make pairs", choices=tuple(CROPS))
    angle_min_deg: float = key(
        5.0, "cross-view: least angle between the cameras, seen from the person", low=0, high=180
    )
    angle_max_deg: float = key(
        100.0,
        "cross-view: largest such angle; wider ones help less (docs/results.md)",
        low=0,
        high=180,
    )
    gap_min_s: float = key(0.0, "cross-pose: least time between the two instants, seconds", low=0)
    gap_max_s: float = key(10.0, "cross-pose: most time between them, seconds", low=0)
    overlap_min: float = key(
        0.0, "least share of a's visible surface that b sees too, where known", low=0, high=1
    )
    overlap_max: float = key(1.0, "most such share", low=0, high=1)
    visible_min: float = key(
        0.0,
        "least share of the body's or the hand's surface that both crops show, where known",
        low=0,
        high=1,
    )

    def check(self) -> None:
        """Raise UserError where the least of a range is above its largest."""
        for low, high in (
            ("angle_min_deg", "angle_max_deg"),
            ("gap_min_s", "gap_max_s"),
            ("overlap_min", "overlap_max"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise UserError(
                    f"pairs.{low}={getattr(self, low)} is above pairs.{high}={getattr(self, high)}"
                )


def offer_bits(crops: str) -> int:
    """The bits of Index.offers that CROPS of that name can use."""
    return sum(0b11 << 2 * k for k, kind in enumerate(KINDS) if kind in CROPS[crops])


def view_angles(clip: Clip) -> np.ndarray:
    """Return (N, N) degrees between each two crops' cameras as seen from the person.

    NaN where one is not calibrated.

    The rays through two crops' centres both pass through the person, so their angle is the one
    looked for.
    """
    rays = np.array([_ray(crop, clip.size) or (math.nan,) * 3 for crop in clip.crops])
    return np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1)))


def _ray(crop, size):
    """Unit vector in the world from the camera through the crop's centre.

    None where it is not calibrated.
    """
    if crop.K is None or crop.Rt is None:
        return None
    (fx, skew, cx), (_, fy, cy), _ = crop.K
    (a, b, c, _), (d, e, f, _), (g, h, i, _) = crop.Rt
    y = (size / 2 - cy) / fy
    x = (size / 2 - cx - skew * y) / fx
    u, v, w = x * a + y * d + g, x * b + y * e + h, x * c + y * f + i
    length = math.sqrt(u * u + v * v + w * w)
    return u / length, v / length, w / length


def rotation_between(clip: Clip, a: int, b: int) -> np.ndarray | None:
    """(3, 3) rotation from the frame of crop b to that of crop a; None where one is uncalibrated.

    A crop's frame looks along the ray through its centre, with y as far down as the camera's: how a
    person stands in it is what the crop shows, wherever in its image it was cut.
    """
    frames = [_frame(clip.crops[place], clip.size) for place in (a, b)]
    if frames[0] is None or frames[1] is None:
        return None
    return frames[0] @ frames[1].T


def _frame(crop, size):
    """(3, 3) rotation from the world to a crop's frame; None where it is not calibrated."""
    if crop.K is None or crop.Rt is None:
        return None
    (fx, skew, cx), (_, fy, cy), _ = crop.K
    y = (size / 2 - cy) / fy
    z = np.array([(size / 2 - cx - skew * y) / fx, y, 1.0])
    z /= np.linalg.norm(z)
    down = np.array([0.0, 1.0, 0.0]) - z[1] * z
    down /= np.linalg.norm(down)
    return np.stack([np.cross(down, z), down, z]) @ np.asarray(crop.Rt, float)[:, :3]


def possible(clip: Clip, kind: str, crops: tuple[str, ...]) -> list[tuple[int, int]]:
    """[(a, b), ...] of a clip that are of that kind before any rule.

    ``crops``: which kinds of crops make pairs.

    As data.format.index.pair_matrix has them, in plain Python: for the few crops of a clip numpy
    takes five times as long.
    """
    groups = {}
    for place, crop in enumerate(clip.crops):
        if crop.kind in crops:
            same, other = (
                (crop.time_s, crop.camera) if kind == "cross_view" else (crop.camera, crop.time_s)
            )
            groups.setdefault((crop.kind, same), []).append((place, other))
    return [
        (a, b)
        for group in groups.values()
        for a, one in group
        for b, other in group
        if one != other
    ]


def keeps(clip: Clip, kind: str, rules: PairRules, a: int, b: int) -> bool:
    """Whether a pair of that kind keeps the rules; what is not known excludes nothing."""
    if clip.visible is not None and min(clip.visible[a], clip.visible[b]) < rules.visible_min:
        return False
    one, other = clip.crops[a], clip.crops[b]
    if kind == "cross_view":
        ray, other_ray = _ray(one, clip.size), _ray(other, clip.size)
        if ray is not None and other_ray is not None:
            (u, v, w), (x, y, z) = ray, other_ray
            angle = math.degrees(math.acos(max(-1.0, min(1.0, u * x + v * y + w * z))))
            if not rules.angle_min_deg <= angle <= rules.angle_max_deg:
                return False
    elif not rules.gap_min_s <= abs(one.time_s - other.time_s) <= rules.gap_max_s:
        return False
    if clip.overlap is None or math.isnan(clip.overlap[a, b]):
        return True
    return rules.overlap_min <= clip.overlap[a, b] <= rules.overlap_max


def candidates(clip: Clip, kind: str, rules: PairRules) -> list[tuple[int, int]]:
    """[(a, b), ...] of a clip that are of that kind and keep the rules."""
    return [
        pair for pair in possible(clip, kind, CROPS[rules.crops]) if keeps(clip, kind, rules, *pair)
    ]


def choose(
    clip: Clip, kind: str, rules: PairRules, random: np.random.Generator
) -> tuple[int, int] | None:
    """One of ``candidates``, each as likely as another, or None where there is none.

    Pairs are tried in a random sequence until one keeps the rules: with N crops there are up to
    N^2, and mostly the first does.

    Args:
        random: a numpy Generator; it draws a number a try.
    """
    left = possible(clip, kind, CROPS[rules.crops])
    while left:
        place = int(random.integers(len(left)))
        if keeps(clip, kind, rules, *left[place]):
            return left[place]
        left[place] = left[-1]
        left.pop()
    return None


def more_targets(
    clip: Clip, kind: str, rules: PairRules, a: int, b: int, count: int, random: np.random.Generator
) -> list[int]:
    """Return [crop, ...] of ``count`` further targets of the reference b, beside a.

    All of that kind and by the rules.

    Each crop once, in a random sequence, as long as there are any; then over again from a: the same
    image under another mask says less than another image.

    Args:
        random: a numpy Generator.
    """
    others = [one for one, other in candidates(clip, kind, rules) if other == b and one != a]
    order = [others[place] for place in random.permutation(len(others))]
    return [crop for _ in range(0, count, len(order) + 1) for crop in [*order, a]][:count]

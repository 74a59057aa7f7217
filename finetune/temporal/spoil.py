"""Motions as a network sees them: noise, slow errors, limbs that are wrong, flips, swaps, gaps.

How strong each error is was measured on rendered videos of synthetic humans, the weights that ship
against the truth (docs/video.md). What a stretch is wrong by
throughout is no part of it: no motion tells that.
"""

from dataclasses import dataclass

import numpy as np

from finetune.temporal.keys import SpoilConfig
from finetune.temporal.limbs import Limbs

# {how a joint's name starts: degrees along each axis of what a frame is wrong by itself, and of
# what is wrong for some tenths of a second}; the first that fits.
ERRORS_DEG = {
    "root": (0.8, 2.8),
    "upperleg": (0.8, 3.3),
    "lowerleg": (1.2, 4.5),
    "foot": (0.6, 2.8),
    "spine": (0.2, 0.7),
    "clavicle": (0.1, 0.7),
    "shoulder": (0.06, 0.2),
    "upperarm": (0.6, 2.8),
    "lowerarm01": (0.5, 2.8),
    "lowerarm02": (0.1, 0.8),
    "wrist": (0.3, 1.7),
    "head": (0.06, 1.1),
    "neck": (0.06, 0.6),
}
SPREAD = 0.6  # of the logarithm of how strong the errors of a stretch, and of a joint in it, are
SLOW_S = (0.06, 0.5)  # how long slow errors last
LIMB_S = (0.05, 1.0)  # how long a limb is wrong
LIMB_RAD = (0.2, 0.9)  # by how much each of its joints is, along each axis
FLIP_S, SWAP_S = (0.03, 0.4), (0.03, 0.4)
BESIDE_M, DEPTH = (0.004, 0.015), (0.005, 0.02)  # by itself and slowly; of the distance a share
TELLING = 0.5  # share of stretches whose confidence tells something


@dataclass(eq=False)
class Spoilt:
    """What is wrong in each of T frames.

    Attributes:
        turns: (T, J, 3) rotation vectors, in each joint's own axes.
        beside: (T, 3) metres, of which what lies along the ray does not count.
        depth: (T,) logarithm of the distance that is seen over the true one.
        flips, arms, legs: (T,) bool, who faces the wrong way; which limbs are swapped.
        seen: (T,) bool.
        confidence: (T,) 0 to 1.
    """

    turns: np.ndarray
    beside: np.ndarray
    depth: np.ndarray
    flips: np.ndarray
    arms: np.ndarray
    legs: np.ndarray
    seen: np.ndarray
    confidence: np.ndarray


def spoil_stretch(
    rng: np.random.Generator, times: np.ndarray, limbs: Limbs, config: SpoilConfig
) -> Spoilt:
    """Return what is wrong in frames at ``times`` (T,) seconds; one frame is seen at least."""
    count, joints = len(times), len(limbs.names)
    white, slow = np.deg2rad([find_errors(name) for name in limbs.names]).T[..., None]
    white = white * config.noise * _strength(rng, joints)
    slow = slow * config.slow * _strength(rng, joints)
    turns = white * rng.normal(0, 1, (count, joints, 3))
    turns += slow * drift(rng, times, (joints, 3))
    bad = _break_limbs(rng, times, limbs, config, turns)
    flips = _strike(rng, times, config.flip_share, FLIP_S)
    swaps = _strike(rng, times, config.swap_share, SWAP_S)
    which = rng.random(2) < 0.75
    arms, legs = (swaps & which[0]) ^ flips, (swaps & which[1]) ^ flips
    far = (config.noise * _strength(rng), config.slow * _strength(rng))
    beside = far[0] * BESIDE_M[0] * rng.normal(0, 1, (count, 3))
    beside += far[1] * BESIDE_M[1] * drift(rng, times, (3,))
    depth = far[0] * DEPTH[0] * rng.normal(0, 1, count) + far[1] * DEPTH[1] * drift(rng, times, ())
    seen = _hide_frames(rng, times, config)
    bad = bad + 2 * flips + swaps
    return Spoilt(turns, beside, depth, flips, arms, legs, seen, _tell_confidence(rng, times, bad))


def find_errors(name: str) -> tuple[float, float]:
    """Return degrees along each axis of a joint's own and slow errors."""
    return next(value for start, value in ERRORS_DEG.items() if name.startswith(start))


def drift(rng: np.random.Generator, times: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (T, *shape) numbers of deviation 1 that wander, at a pace that is drawn."""
    length = float(np.exp(rng.uniform(*np.log(SLOW_S))))
    knots = np.arange(times[0] - 3 * length, times[-1] + 3 * length, length)
    weights = np.exp(-(((times[:, None] - knots) / length) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.tensordot(weights, rng.normal(0, 1, (len(knots), *shape)), 1)


def _strength(rng: np.random.Generator, joints: int = 0) -> float | np.ndarray:
    """How strong errors of a stretch are, of all joints together and of each by itself."""
    common = np.exp(rng.normal(0, SPREAD))
    return common * np.exp(rng.normal(0, SPREAD / 2, (joints, 1))) if joints else common


def _strike(
    rng: np.random.Generator, times: np.ndarray, share: float, length_s: tuple[float, float]
) -> np.ndarray:
    """(T,) bool: a while, or two, in a share of the stretches."""
    out = np.zeros(len(times), bool)
    if rng.random() < share:
        for _ in range(rng.integers(1, 3)):
            start = rng.uniform(times[0], times[-1])
            out |= (times >= start) & (times < start + rng.uniform(*length_s))
    return out


def _break_limbs(
    rng: np.random.Generator,
    times: np.ndarray,
    limbs: Limbs,
    config: SpoilConfig,
    turns: np.ndarray,
) -> np.ndarray:
    """Add to ``turns`` what hidden limbs are wrong by; (T,) how many are."""
    bad = np.zeros(len(times))
    span = times[-1] - times[0]
    for name, joints in limbs.groups.items():
        rate = config.limb_hz * (0.3 if name in ("root", "spine", "head") else 1)
        for _ in range(rng.poisson(rate * span)):
            start, length = rng.uniform(times[0], times[-1]), _draw_length(rng)
            rows = np.flatnonzero((times >= start) & (times < start + length))
            if not len(rows):
                continue
            size = np.exp(rng.uniform(*np.log(LIMB_RAD))) * (0.4 if name in ("spine",) else 1)
            same = rng.normal(0, size, (len(joints), 3)) * (rng.random((len(joints), 1)) < 0.6)
            shaky = rng.uniform(0, 0.5)
            anew = rng.normal(0, 1, (len(rows), len(joints), 3)) * shaky * np.abs(same)
            swell = np.ones(len(rows))
            if rng.random() < 0.5:  # it goes wrong and comes back little by little
                swell = np.sin(np.pi * (np.arange(len(rows)) + 0.5) / len(rows))
            turns[np.ix_(rows, np.array(joints))] += swell[:, None, None] * same + anew
            bad[rows] += 1
    return bad


def _draw_length(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(LIMB_S))))


def _hide_frames(rng: np.random.Generator, times: np.ndarray, config: SpoilConfig) -> np.ndarray:
    """(T,) bool which frames are seen: gaps, single ones that are missing, the last ones."""
    seen = rng.random(len(times)) >= config.drop_share * rng.random()
    if rng.random() < config.gap_share:
        for _ in range(rng.integers(1, 4)):
            start = rng.uniform(times[0], times[-1])
            seen &= (times < start) | (times >= start + rng.uniform(0, config.gap_s))
    if rng.random() < config.ahead_share:
        seen &= times < times[-1] - rng.uniform(0, config.ahead_s)
    if not seen.any():
        seen[rng.integers(len(seen))] = True
    return seen


def _tell_confidence(rng: np.random.Generator, times: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """(T,) what a finder might say: less where more is wrong, in some stretches."""
    telling = rng.uniform(0, 0.25) if rng.random() < TELLING else 0.0
    level = rng.uniform(0.5, 0.95) - telling * bad + 0.05 * drift(rng, times, ())
    return np.clip(level, 0.05, 1.0).astype(np.float32)

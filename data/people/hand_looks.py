"""What hands look like near: blood, tendons, veins, wrinkles, cuffs, rings, watches, bracelets."""

import numpy as np

from data.people import textures
from data.people.rng import pick_one
from data.people.warp_types import Struct, vec3

_METALS = ((0.72, 0.52, 0.22), (0.62, 0.62, 0.64), (0.70, 0.42, 0.33), (0.05, 0.05, 0.055))
_STRAPS = ((0.015, 0.014, 0.014), (0.11, 0.05, 0.025), (0.25, 0.14, 0.07), (0.5, 0.5, 0.52))
CLOSED_CUFFS = 0.75  # share of people whose long sleeves close around the wrist
WITH_BAND, WITH_RING = 0.35, 0.35
WITH_DIAL = 0.6  # of the bands


def add_hand_look(rng: np.random.Generator, look: Struct) -> None:
    """Draw how a person's hands look near, and what they wear, into its Look."""
    look.hand_detail = 1.0
    look.hand_blood = float(rng.beta(2, 2.5) * 0.9)
    look.tendon = float(rng.beta(1.5, 2.5) * 0.28)
    look.vein = float(rng.beta(1.2, 2.2))
    look.vein_at = float(rng.uniform(0.1, 0.2))
    look.wrinkle = float(rng.uniform(0.08, 0.42))
    look.cuff = float(rng.random() < CLOSED_CUFFS)
    look.cuff_gap = float(rng.uniform(0.002, 0.009))
    if rng.random() < WITH_BAND:
        _add_band(rng, look)
    if rng.random() < WITH_RING:
        look.ring = int(pick_one(rng, (1, 2, 3, 4), (0.15, 0.2, 0.5, 0.15)))
        look.ring_side = float(pick_one(rng, (-1, 1)))
        look.ring_width = float(rng.uniform(0.0012, 0.0035))
        look.ring_colour = vec3(_metal(rng))


def _add_band(rng: np.random.Generator, look: Struct) -> None:
    """A watch, or a bracelet, at one wrist."""
    look.band_side = float(pick_one(rng, (-1, 1)))
    look.band_at = float(rng.uniform(0.012, 0.045))
    has_dial = rng.random() < WITH_DIAL
    look.band = float(rng.uniform(0.007, 0.012) if has_dial else rng.uniform(0.002, 0.01))
    plain = np.array(pick_one(rng, _STRAPS, (0.4, 0.2, 0.15, 0.25)))
    coloured = textures.any_colour(rng) ** 2
    look.band_colour = vec3(plain if has_dial or rng.random() < 0.4 else coloured)
    if has_dial:
        look.dial = float(rng.uniform(0.015, 0.021))
        look.dial_colour = vec3(np.full(3, pick_one(rng, (0.01, 0.03, 0.6, 0.8))))


def _metal(rng: np.random.Generator) -> np.ndarray:
    return np.array(pick_one(rng, _METALS, (0.4, 0.4, 0.1, 0.1))) * rng.uniform(0.8, 1.25)

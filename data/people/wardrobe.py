"""What a person looks like: skin, face, hair, clothes, shoes. Colours are linear RGB."""

import numpy as np

from data.people import textures
from data.people.bank import Bank
from data.people.rng import pick_one
from data.people.warp_types import Look, Struct, fill_struct, vec3

NONE = 2.0  # beyond every field's range: no shoe, no sock
NO_STRANDS = 9.0
_TOPS = ("tee", "long", "shirt", "tank", "jacket", "dress", "turtleneck")
_TOP_WEIGHTS = (0.32, 0.16, 0.16, 0.08, 0.13, 0.07, 0.08)
HAIR = (
    (0.012, 0.010, 0.009),
    (0.03, 0.018, 0.012),
    (0.075, 0.04, 0.022),
    (0.16, 0.085, 0.04),
    (0.36, 0.22, 0.10),
    (0.24, 0.08, 0.03),
    (0.42, 0.40, 0.38),
    (0.12, 0.115, 0.11),
)
HAIR_WEIGHTS = (0.28, 0.22, 0.18, 0.1, 0.08, 0.04, 0.05, 0.05)
_IRIS = ((0.10, 0.05, 0.02), (0.03, 0.02, 0.015), (0.12, 0.20, 0.30), (0.13, 0.17, 0.08))
TROUSERS = ((0.05, 0.075, 0.16), (0.02, 0.02, 0.024), (0.33, 0.27, 0.18), (0.14, 0.14, 0.15))
_LIGHT_SKIN, _MIDDLE_SKIN, _DEEP_SKIN = np.array(
    [[0.83, 0.60, 0.47], [0.58, 0.36, 0.22], [0.17, 0.085, 0.052]]
)


def sample_look(rng: np.random.Generator, female: bool, child: bool, bank: Bank) -> Struct:
    """One person's Look.

    Args:
        rng: numpy Generator.  female, child: bool.  bank: of the textures.
    """
    values: dict[str, float | np.ndarray] = {"seed": rng.random() * 7}
    top, bottom = _garments(rng, female)
    values.update(_cut(rng, top, bottom))
    values.update(draw_drape(rng, top, bottom))
    skin, skin_values = draw_skin(rng, female)
    values.update(skin_values)
    values.update(draw_hair(rng, female, child))
    values.update(_cloth(rng, top, skin, bank))
    fields = {k: vec3(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return fill_struct(Look, **fields)


def unlike_skin(colour: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """The colour, with red and blue swapped where a garment of it would read as bare skin."""
    near = (
        np.linalg.norm(colour / (np.linalg.norm(colour) + 1e-6) - skin / np.linalg.norm(skin))
        < 0.24
    )
    alike = 0.3 < np.linalg.norm(colour) / np.linalg.norm(skin) < 2.6
    return colour[::-1] * 0.8 if near and alike else colour


def _garments(rng, female):
    top = pick_one(rng, _TOPS, _TOP_WEIGHTS)
    top = "tee" if top == "dress" and not female else top
    bottom = pick_one(rng, ("trousers", "shorts", "leggings", "skirt"), (0.56, 0.2, 0.12, 0.12))
    if top == "dress":
        return top, "skirt"
    return top, "trousers" if bottom == "skirt" and not female else bottom


def _cut(rng, top, bottom):
    """Where garments begin and end."""
    sleeve = {
        "tee": rng.uniform(0.22, 0.5),
        "long": rng.uniform(0.9, 1.0),
        "shirt": pick_one(rng, (0.45, 0.98)),
        "tank": 0.03,
        "jacket": 1.0,
        "dress": pick_one(rng, (0.03, 0.35, 0.98)),
        "turtleneck": 0.99,
    }[top]
    hem = rng.uniform(0.78, 0.95) if top == "jacket" else rng.uniform(0.86, 1.02)
    neck = (
        1.545 if top == "turtleneck" else rng.uniform(1.43, 1.485) - (0.05 if top == "tank" else 0)
    )
    leg = {
        "trousers": rng.uniform(0.9, 1.0),
        "shorts": rng.uniform(0.22, 0.5),
        "leggings": rng.uniform(0.8, 0.98),
        "skirt": 0.0,
    }
    return {
        "sleeve": sleeve,
        "hem": 1.0 if top == "dress" else hem,
        "neck_height": neck,
        "neck_slope": pick_one(rng, (0.2, 0.9, 1.6)),
        "waist": rng.uniform(1.0, 1.06),
        "leg": leg[bottom],
        "skirt": rng.uniform(0.25, 0.72) if bottom == "skirt" else 0.0,
        "shoe": pick_one(rng, (0.955, 0.9, 0.8, NONE), (0.6, 0.18, 0.1, 0.12)),
        "sock": pick_one(rng, (0.88, 0.93, NONE)),
        "tucked": rng.random() < 0.3 and top not in ("jacket", "dress"),
        "glove": rng.random() < 0.03,
    }


def draw_drape(rng: np.random.Generator, top: str, bottom: str) -> dict[str, float]:
    """Thickness, looseness and folds, metres."""
    loose, tight = rng.beta(1.2, 2.0), bottom == "leggings"
    return {
        "top_thickness": 0.005 + rng.uniform(0, 0.006) + (0.012 if top == "jacket" else 0),
        "bottom_thickness": 0.002 if tight else 0.004 + rng.uniform(0, 0.004),
        "loose": loose * (0.015 if top in ("tank", "turtleneck") else 0.045),
        "flare": 0.0 if tight else rng.beta(1.2, 2) * 0.035,
        "fold": 0.008 if tight else rng.uniform(0.006, 0.028),
    }


def draw_skin(
    rng: np.random.Generator, female: bool
) -> tuple[np.ndarray, dict[str, float | np.ndarray]]:
    """Draws skin on a line from light to deep, through a middle tone.

    The line is two straight pieces in linear RGB.
    """
    m = rng.random()
    far, share = (_LIGHT_SKIN, 1 - 2 * m) if m < 0.5 else (_DEEP_SKIN, 2 * m - 1)
    skin = far * share + _MIDDLE_SKIN * (1 - share)
    skin = skin * rng.uniform(0.88, 1.1) * (1 + rng.normal(0, 0.03, 3))
    lip = skin * np.array([0.86, 0.52, 0.52]) * rng.uniform(0.8, 1.05)
    if female and rng.random() < 0.15:
        lip = lip + np.array([0.18, -0.02, 0.0])
    painted = female and rng.random() < 0.15
    nail = textures.any_colour(rng) ** 2 if painted else np.clip(skin * 1.1 + 0.07, 0, 1)
    return skin, {
        "skin": skin,
        "lip": lip,
        "nail": nail,
        "mottle": rng.uniform(0.12, 0.35),
        "oily": rng.beta(1.2, 2.5),
        "iris": np.array(pick_one(rng, _IRIS, (0.45, 0.25, 0.18, 0.12))),
    }


def draw_hair(rng: np.random.Generator, female: bool, child: bool) -> dict[str, float | np.ndarray]:
    """Colour, extent and thickness of hair, and whether a hat is on it."""
    colour = np.array(pick_one(rng, HAIR, HAIR_WEIGHTS))
    if rng.random() < 0.03:
        colour = textures.any_colour(rng) ** 2
    on = child or rng.random() > (0.02 if female else 0.12)
    receding = not female and rng.random() > 0.8
    long_hair, hat = female and rng.random() < 0.6, rng.random() < 0.1
    thickness = pick_one(rng, (0.006, 0.014, 0.024, 0.04), (0.3, 0.35, 0.25, 0.1))
    beard = pick_one(rng, (0.0, rng.uniform(0.2, 0.5), rng.uniform(0.6, 0.95)), (0.45, 0.35, 0.2))
    return {
        "hair": colour * rng.uniform(0.8, 1.25),
        "hair_on": on,
        "hat": hat,
        "hair_thickness": 0.014 if hat else thickness,
        "hairline_shift": rng.uniform(-0.03, -0.012) if receding else rng.uniform(-0.012, 0.012),
        "strands_from": rng.uniform(1.14, 1.55) if long_hair and on else NO_STRANDS,
        "beard": 0.0 if female or child else beard,
        "brow": rng.uniform(0.45, 0.9),
    }


def _cloth(rng, top, skin, bank):
    """Colours, patterns and textures of everything worn."""
    first, second = (textures.any_colour(rng, 0.05, 0.98) ** 2 for _ in range(2))
    if rng.random() < 0.35:
        first = np.full(3, pick_one(rng, (0.9, 0.75, 0.4, 0.12, 0.03))) * (
            1 + rng.normal(0, 0.04, 3)
        )
    first, second = unlike_skin(first, skin), unlike_skin(second, skin)
    trousers = [np.array(c) for c in TROUSERS] + [textures.any_colour(rng) ** 2]
    lower = unlike_skin(
        pick_one(rng, trousers, (0.3, 0.2, 0.15, 0.13, 0.22)) * rng.uniform(0.6, 1.5), skin
    )
    out = {
        "top_a": first,
        "top_b": second,
        "bottom_a": lower,
        "bottom_b": textures.any_colour(rng) ** 2,
        "top_pattern": pick_one(rng, (0, 1, 2, 3, 4), (0.45, 0.14, 0.06, 0.12, 0.23)),
        "top_scale": pick_one(rng, (9, 14, 22, 30)),
        "bottom_pattern": pick_one(rng, (0, 5, 3, 4), (0.42, 0.38, 0.08, 0.12)),
        "bottom_scale": pick_one(rng, (9, 16, 26)),
        "print_texture": bank.draw(rng) if top in ("tee", "long") and rng.random() < 0.35 else 0,
        "shoe_colour": textures.any_colour(rng, 0.03, 0.9) ** 2,
        "sole": np.full(3, pick_one(rng, (0.75, 0.3, 0.04))),
        "sock_colour": textures.any_colour(rng, 0.1, 0.95) ** 2,
        "hat_colour": textures.any_colour(rng) ** 2,
    }
    for part in ("top", "bottom"):
        texture = _texture_unlike_skin(rng, out[f"{part}_a"], skin, bank)
        out[f"{part}_texture"] = texture or 0
        if texture is None:
            out[f"{part}_pattern"] = 0
    if top == "dress":
        out.update(
            {
                f"bottom_{name}": out[f"top_{name}"]
                for name in ("a", "b", "pattern", "scale", "texture")
            }
        )
    return out


def _texture_unlike_skin(rng, tint, skin, bank):
    """Return a texture whose mean under this tint does not read as skin.

    None if six draws found none.
    """
    for _ in range(6):
        which = bank.draw(rng)
        mean = bank.means[which] * (tint * 1.2 + 0.1)
        if unlike_skin(mean, skin) is mean:
            return which
    return None

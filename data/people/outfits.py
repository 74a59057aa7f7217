"""What people wear and how their hair is, drawn from more than wardrobe.py has, and from one side.

Cuts of garments, colours, patterns and hair have names, and only those are drawn that the looks of
the bank (split.py) have. Colours are linear RGB.
"""

from dataclasses import dataclass

import numpy as np

from data.people import fabrics, textures, wardrobe
from data.people.bank import Bank
from data.people.rng import pick_one
from data.people.split import draw_held, name_colour
from data.people.warp_types import Look, Struct, fill_struct, vec3

_TOPS = {
    "tee": 0.2,
    "long": 0.12,
    "shirt": 0.14,
    "tank": 0.06,
    "crop": 0.03,
    "tunic": 0.05,
    "sweater": 0.1,
    "hoodie": 0.08,
    "jacket": 0.09,
    "coat": 0.07,
    "dress": 0.06,
}
_BOTTOMS = {"trousers": 0.5, "cropped": 0.12, "shorts": 0.16, "leggings": 0.1, "skirt": 0.12}
_OPEN = ("jacket", "coat", "shirt")
_PRINTED = ("tee", "long", "tank", "crop", "hoodie", "sweater", "dress")


@dataclass
class Cut:
    """The cut of a garment: what it is called, and Look's fields; a coat's lower end, metres."""

    kind: str
    values: dict[str, float]
    coat_hem: float = 0.0


def draw_look(rng: np.random.Generator, female: bool, child: bool, bank: Bank) -> Struct:
    """One person's Look, of the small wardrobe or of this one, as the bank's looks say."""
    sample = wardrobe.sample_look if bank.looks == "few" else sample_outfit
    return sample(rng, female, child, bank)


def sample_outfit(rng: np.random.Generator, female: bool, child: bool, bank: Bank) -> Struct:
    """One person's Look, on the bank's side of what there is."""
    values: dict[str, float | np.ndarray] = {"seed": rng.random() * 7}
    top, bottom = draw_cuts(rng, female, bank.looks)
    values.update(wardrobe.draw_drape(rng, top.kind, bottom.kind))
    skin, skin_values = wardrobe.draw_skin(rng, female)
    values.update(skin_values)
    values.update(wardrobe.draw_hair(rng, female, child))
    values.update(top.values | bottom.values)
    values.update(_draw_rest(rng, top))
    values["hair"] = draw_held(bank.looks, lambda: _draw_hair_colour(rng), name_hair)
    values.update(_draw_cloth(rng, top.kind, skin, bank))
    if top.kind == "dress":
        for name in ("a", "b", "pattern", "scale", "texture", "turn"):
            values[f"bottom_{name}"] = values[f"top_{name}"]
    fields = {k: vec3(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return fill_struct(Look, **fields)


def draw_cuts(rng: np.random.Generator, female: bool, looks: str) -> tuple[Cut, Cut]:
    """The cuts of an upper and of a lower garment."""
    top = draw_held(looks, lambda: _draw_top(rng, female), name_top)
    if top.kind == "dress":
        return top, draw_held(looks, lambda: _cut_bottom(rng, "skirt"), name_bottom)
    bottom = draw_held(looks, lambda: _draw_bottom(rng, female), name_bottom)
    if top.kind == "coat":
        bottom = Cut(bottom.kind, bottom.values | {"skirt": top.coat_hem})
    return top, bottom


def name_top(cut: Cut) -> str:
    """The name of an upper garment's cut: what it is, and classes of its lengths and its neck."""
    lengths = [round(cut.values[name] * scale) for name, scale in (("sleeve", 5), ("hem", 10))]
    neck = round(cut.values["neck_height"] * 25), cut.values["neck_slope"]
    return f"top {cut.kind} {lengths} {neck}"


def name_bottom(cut: Cut) -> str:
    """The name of a lower garment's cut."""
    return f"bottom {cut.kind} {round(cut.values['leg'] * 30)} {round(cut.values['skirt'] * 40)}"


def name_hair(colour: np.ndarray) -> str:
    """The name of a colour of hair: a fine class of its brightness, and whether it is reddish."""
    red, green, blue = np.sqrt(np.clip(colour, 0, 1))
    return f"hair {round(green * 24)} {round((red - blue) * 12)}"


def _draw_top(rng, female):
    kind = pick_one(rng, tuple(_TOPS), tuple(_TOPS.values()))
    if kind in ("dress", "crop", "tunic") and not female:
        kind = "tee"
    long = rng.uniform(0.88, 1.0)
    sleeve = {
        "tee": rng.uniform(0.15, 0.6),
        "long": long,
        "shirt": pick_one(rng, (rng.uniform(0.3, 0.5), rng.uniform(0.6, 0.8), long)),
        "tank": rng.uniform(0.0, 0.06),
        "crop": pick_one(rng, (0.03, rng.uniform(0.2, 0.5), long)),
        "tunic": pick_one(rng, (0.03, rng.uniform(0.3, 0.75), long)),
        "dress": pick_one(rng, (0.03, rng.uniform(0.2, 0.7), long)),
    }.get(kind, long)
    hem = {
        "crop": rng.uniform(1.06, 1.16),
        "tunic": rng.uniform(0.7, 0.8),
        "sweater": rng.uniform(0.84, 0.98),
        "hoodie": rng.uniform(0.82, 0.94),
        "jacket": rng.uniform(0.78, 0.97),
        "coat": 0.95,
        "dress": 1.0,
    }.get(kind, rng.uniform(0.8, 1.02))
    closed = kind in ("sweater", "hoodie", "coat", "jacket") and rng.random() < 0.5
    neck = 1.545 if closed else rng.uniform(1.38, 1.5)
    neck = neck - 0.04 if kind in ("tank", "dress", "crop") else neck
    is_open = kind in _OPEN and rng.random() < 0.5
    values = {
        "sleeve": sleeve,
        "hem": hem,
        "neck_height": neck,
        "neck_slope": pick_one(rng, (0.2, 0.6, 1.0, 1.6, 2.4)),
        "coat": kind == "coat",
        "open_front": rng.uniform(0.02, 0.075) if is_open else 0.0,
        "top_detail": pick_one(rng, (0, 1, 2, 4, 5, 6), (0.55, 0.12, 0.08, 0.09, 0.06, 0.1)),
        "detail_at": rng.uniform(1.1, 1.4),
    }
    return Cut(kind, values, rng.uniform(0.3, 0.75))


def _draw_bottom(rng, female):
    kind = pick_one(rng, tuple(_BOTTOMS), tuple(_BOTTOMS.values()))
    return _cut_bottom(rng, "trousers" if kind == "skirt" and not female else kind)


def _cut_bottom(rng, kind):
    leg = {
        "trousers": rng.uniform(0.88, 1.0),
        "cropped": rng.uniform(0.55, 0.86),
        "shorts": rng.uniform(0.15, 0.52),
        "leggings": rng.uniform(0.5, 0.98),
        "skirt": 0.0,
    }[kind]
    values = {
        "leg": leg,
        "skirt": rng.uniform(0.15, 0.78) if kind == "skirt" else 0.0,
        "waist": rng.uniform(0.98, 1.09),
        "bottom_detail": pick_one(rng, (0, 1, 2, 3), (0.6, 0.12, 0.16, 0.12)),
    }
    return Cut(kind, values)


def _draw_rest(rng, top):
    """Shoes, socks, gloves, and how the top is worn."""
    detail = top.values["top_detail"]
    if top.kind == "shirt" and not top.values["open_front"] and rng.random() < 0.7:
        detail = 3
    loose = ("jacket", "coat", "dress", "hoodie", "tunic")
    shoes = (0.955, 0.9, 0.8, rng.uniform(0.55, 0.75), wardrobe.NONE)
    return {
        "top_detail": detail,
        "shoe": pick_one(rng, shoes, (0.5, 0.2, 0.1, 0.08, 0.12)),
        "sock": pick_one(rng, (0.88, 0.93, rng.uniform(0.55, 0.85), wardrobe.NONE)),
        "tucked": rng.random() < 0.35 and top.kind not in loose,
        "glove": rng.random() < 0.04,
    }


def _draw_hair_colour(rng):
    if rng.random() < 0.06:
        return textures.any_colour(rng) ** 2
    base = np.array(pick_one(rng, wardrobe.HAIR, wardrobe.HAIR_WEIGHTS))
    return base * rng.uniform(0.5, 1.8) * (1 + rng.normal(0, 0.06, 3))


def _draw_colour(rng, skin, looks):
    """A colour of these looks that does not read as bare skin."""

    def draw():
        while True:
            way = rng.random()
            if way < 0.3:
                colour = np.full(3, rng.uniform(0.02, 0.95) ** 2) * (1 + rng.normal(0, 0.03, 3))
            elif way < 0.45:
                colour = np.array(pick_one(rng, wardrobe.TROUSERS)) * rng.uniform(0.4, 2.0)
            else:
                colour = textures.any_colour(rng, 0.05, 1.0) ** rng.uniform(1.2, 2.4)
            if wardrobe.unlike_skin(colour, skin) is colour:
                return colour

    return draw_held(looks, draw, name_colour)


def _draw_cloth(rng, top, skin, bank):
    """Colours, patterns and textures of everything worn."""
    names = ("top_a", "top_b", "bottom_a", "bottom_b", "detail_colour", "shoe_colour")
    names = (*names, "sock_colour", "hat_colour")
    out: dict[str, float | np.ndarray] = {
        name: _draw_colour(rng, skin, bank.looks) for name in names
    }
    printed = top in _PRINTED and rng.random() < 0.4
    out["print_texture"] = bank.draw_kind(rng, *fabrics.PRINTS) if printed else 0
    out["back_print"] = printed and rng.random() < 0.4
    out["sole"] = np.full(3, pick_one(rng, (0.75, 0.3, 0.04)))
    plain = {"top": 0.35, "bottom": 0.4}
    for part, share in plain.items():
        pattern = pick_one(rng, (1, 2, 3, 4, 5, 6), (0.08, 0.06, 0.06, 0.3, 0.12, 0.38))
        texture = bank.draw_kind(rng, *fabrics.CLOTH)
        mean, a, b = bank.means[texture], out[f"{part}_a"], out[f"{part}_b"]
        mixed = mean * a + (1 - mean) * b if pattern == 6 else mean * (a * 1.2 + 0.1)
        if rng.random() < share or wardrobe.unlike_skin(mixed, skin) is not mixed:
            pattern = 0
        out[f"{part}_pattern"] = pattern
        out[f"{part}_texture"] = texture
        out[f"{part}_scale"] = rng.uniform(7, 34)
        out[f"{part}_turn"] = rng.uniform(0, 2 * np.pi) if rng.random() < 0.3 else 0.0
    return out

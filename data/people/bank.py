"""The textures that a generator draws with: the small bank, the large one, or one side of it."""

from dataclasses import dataclass

import numpy as np

from data.people import fabrics, textures
from data.people.rng import pick_one
from data.people.textures import COUNT, FIRST_COLOUR, SIDE

_SEED = 7
_TEST_ONES = (3, 7)  # of ten of a kind


@dataclass
class Bank:
    """Textures by their slots; the first four are noises, which all banks share.

    Attributes:
        looks: one of split.LOOKS.
        texels: (slots * 87296, 3) uint8: per texture 256^2 texels, then 128^2, ... 16^2; values are
            square roots of linear light.
        means: (slots, 3) mean linear RGB.
        kinds: (slots,) what each shows, -1 for noise.
        names: of each, the same in all banks.
    """

    looks: str
    texels: np.ndarray
    means: np.ndarray
    kinds: np.ndarray
    names: list[str]

    def numbers_of(self, *kinds: int) -> list[int]:
        """The slots that show one of these kinds."""
        return np.flatnonzero(np.isin(self.kinds, kinds)).tolist()

    def draw(self, rng: np.random.Generator) -> int:
        """Any slot but the noises."""
        return int(rng.integers(FIRST_COLOUR, len(self.kinds)))

    def draw_kind(self, rng: np.random.Generator, *kinds: int) -> int:
        """A slot that shows one of these kinds."""
        return pick_one(rng, self.numbers_of(*kinds))


def make_bank(looks: str = "few") -> Bank:
    """The Bank of these looks: 56 textures for few, else those of fabrics.py on its side."""
    rng = np.random.default_rng(_SEED)
    images = textures.make_noises(rng)
    names = [f"noise {number}" for number in range(FIRST_COLOUR)]
    kinds = [-1] * FIRST_COLOUR
    if looks == "few":
        for number in range(FIRST_COLOUR, COUNT):
            kinds.append(number % 10)
            images.append(np.clip(textures.paint_kind(rng, kinds[-1], (number // 10) % 4), 0, 1))
            names.append(f"texture {number}")
    else:
        for number in range(fabrics.COUNT):
            if looks == "all" or (number % fabrics.PER_KIND in _TEST_ONES) == (looks == "test"):
                kinds.append(fabrics.kind_of(number))
                images.append(fabrics.paint_texture(number))
                names.append(f"fabric {number}")
    texels = np.concatenate([textures.stack_levels(image) for image in images])
    full = texels.reshape(len(images), -1, 3)[:, : SIDE * SIDE]
    light = (np.arange(256) / 255.0) ** 2
    means = np.stack([light[image].mean(0) for image in full])
    return Bank(looks, texels, means, np.array(kinds), names)

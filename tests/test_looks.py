"""Training and test looks have nothing in common: by names, and by the images themselves."""

import numpy as np
import pytest

from data.people import fabrics, outfits, split
from data.people.backgrounds import Backgrounds
from data.people.bank import make_bank
from data.people.config import Domain, PeopleConfig, hash_recipe
from engine.errors import UserError


@pytest.fixture(scope="module")
def banks():
    return {looks: make_bank(looks) for looks in ("train", "test")}


def colour_textures(bank):
    """(slots, 87296, 3) texels without the noises that all banks share."""
    return bank.texels.reshape(len(bank.kinds), -1, 3)[bank.kinds >= 0]


def test_banks_share_no_texture(banks):
    train, test = (colour_textures(banks[looks]) for looks in ("train", "test"))
    names = [{n for n in b.names if not n.startswith("noise")} for b in banks.values()]
    assert not names[0] & names[1]
    assert len(names[0]) + len(names[1]) == fabrics.COUNT > 5 * 56
    # Images of 16 x 16, the last level: the nearest pair is still visibly apart.
    small = [t[:, -256:].reshape(len(t), -1).astype(np.float32) for t in (train, test)]
    apart = np.abs(small[0][:, None] - small[1][None]).mean(-1)
    assert apart.min() > 1.0
    digests = [{t.tobytes() for t in side} for side in (train, test)]
    assert not digests[0] & digests[1] and len(digests[0]) == len(train)


def test_both_sides_have_every_kind(banks):
    for bank in banks.values():
        assert set(bank.kinds[bank.kinds >= 0]) == set(fabrics.KINDS)


def drawn_names(bank, count):
    """Names of cuts and colours of ``count`` people, and the slots' names that they wear."""
    rng = np.random.default_rng(3)
    cuts, colours, worn = set(), set(), set()
    for _ in range(count):
        female = bool(rng.random() < 0.5)
        top, bottom = outfits.draw_cuts(rng, female, bank.looks)
        cuts.add(outfits.name_top(top))
        if top.kind != "coat":  # below which the lower garment counts as one with its end
            cuts.add(outfits.name_bottom(bottom))
        look = outfits.sample_outfit(rng, female, False, bank)
        for field in ("top_a", "bottom_a", "shoe_colour", "hat_colour"):
            colours.add(split.name_colour(np.array([*getattr(look, field)])))
        colours.add(outfits.name_hair(np.array([*look.hair])))
        worn |= {bank.names[look.top_texture], bank.names[look.bottom_texture]}
    return cuts, colours, worn


def test_people_of_both_sides_wear_nothing_alike(banks):
    train, test = (drawn_names(banks[looks], 60) for looks in ("train", "test"))
    for one, other in zip(train, test, strict=True):
        assert len(one) > len(other) > 5
        assert not one & other


def test_a_name_is_on_one_side():
    names = [f"photograph {i}.jpg" for i in range(500)]
    train = [split.holds("train", name) for name in names]
    assert all(split.holds("all", name) for name in names)
    assert train == [not split.holds("test", name) for name in names]
    assert 0.7 < np.mean(train) < 0.9


def test_photographs_are_split_by_name(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.jpg").touch()
    sides = [set(Backgrounds(str(tmp_path), looks).names) for looks in ("train", "test")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 40
    lonely = tmp_path / "one"
    lonely.mkdir()
    (lonely / "a.jpg").touch()
    side = "train" if split.holds("test", "photograph a.jpg") else "test"
    with pytest.raises(UserError, match=f"looks={side}"):
        Backgrounds(str(lonely), side)


def test_looks_are_part_of_the_recipe():
    hashes = [hash_recipe(PeopleConfig(domain=Domain(looks=looks))) for looks in split.LOOKS]
    assert len(set(hashes)) == len(split.LOOKS)
    assert hashes[0] == hash_recipe(PeopleConfig())

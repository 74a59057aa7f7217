"""Images are moved against the network as N-FGSM has it, the same however a batch is spread."""

import numpy as np
import torch

from data.loading.augment import MEAN, STD
from data.loading.crops import TAGS
from finetune.attack import GOLDEN, Attack, draw_uniform

MASK = (1 << 64) - 1


def splitmix(name, place):
    """SplitMix64 in whole numbers: the state after so many steps, mixed."""
    value = (name + place * GOLDEN) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return ((value ^ (value >> 31)) >> 11) / 2**53


def tags_of(rows):
    tags = torch.zeros(rows, len(TAGS), dtype=torch.int32)
    tags[:, TAGS.index("index")] = torch.arange(rows)
    return tags


def images_of(rows, side=6):
    torch.manual_seed(3)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (torch.rand(rows, 3, side, side) - mean) / std


def test_numbers_are_those_of_splitmix():
    names = torch.tensor([0, 1, -5, 2**62])
    found = draw_uniform(names, 4)
    for row, name in enumerate(names.tolist()):
        assert found[row].tolist() == [splitmix(name, place) for place in (1, 2, 3, 4)]
    many = draw_uniform(torch.arange(200), 500).numpy()
    assert abs(many.mean() - 0.5) < 0.005 and abs(np.corrcoef(many[:, 0], many[:, 1])[0, 1]) < 0.3


def test_a_share_of_crops_is_chosen_by_the_crop_and_the_seed_alone():
    tags = tags_of(2000)
    rows = Attack(4, 0.25, seed=1).choose(tags)
    assert 0.2 < len(rows) / 2000 < 0.3
    assert torch.equal(Attack(4, 0.25, seed=1).choose(tags[1000:]) + 1000, rows[rows >= 1000])
    assert not torch.equal(Attack(4, 0.25, seed=2).choose(tags), rows)
    assert len(Attack(4, 0.0).choose(tags)) == 0 and len(Attack(4, 1.0).choose(tags)) == 2000


def test_an_image_goes_one_radius_along_the_sign_from_noise_of_two():
    images, tags, radius = images_of(3), tags_of(3), 5.0
    slope = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    seen = []

    def loss_of(x):
        seen.append(x.detach().clone())
        return (slope * x).sum()

    moved = Attack(radius).move(images, tags, loss_of)
    std = torch.tensor(STD)[:, None, None]
    mean = torch.tensor(MEAN)[:, None, None]
    noise = (seen[0] - images) * std * 255
    assert len(seen) == 1 and noise.abs().max() <= 2 * radius + 1e-3 and noise.std() > radius
    levels = (moved * std + mean) * 255
    assert levels.min() > -1e-3 and levels.max() < 255 + 1e-3
    step = (moved - seen[0]) * std * 255
    inside = (levels > 0.1) & (levels < 254.9)
    assert torch.allclose(step[inside], radius * slope.sign()[inside], atol=1e-3)
    # It is of the loss of its own image alone, and the same one by one.
    alone = [
        Attack(radius).move(images[i : i + 1], tags[i : i + 1], loss_of_row(slope, i))
        for i in range(3)
    ]
    assert torch.equal(torch.cat(alone), moved)


def loss_of_row(slope, row):
    return lambda x: (slope[row : row + 1] * x).sum()

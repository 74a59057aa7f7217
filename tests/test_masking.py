"""Masking: promises checked on many random cases, against loops that say the same slowly."""

import math

import pytest
import torch

from engine.errors import UserError
from pretrain.masking import choose, choose_reference, person_share


def case(seed, batch=40, tokens=None):
    rng = torch.Generator().manual_seed(seed)
    tokens = tokens or int(torch.randint(2, 200, (1,), generator=rng))
    noise = torch.rand(batch, tokens, generator=rng)
    level = torch.rand(batch, 1, generator=rng)  # from nobody to somebody everywhere
    person = (torch.rand(batch, tokens, generator=rng) < level).float() * torch.rand(
        batch, tokens, generator=rng
    ).sqrt()
    ratio = 0.05 + 0.94 * float(torch.rand(1, generator=rng))
    return noise, person, ratio


def slow(noise, person, ratio, bonus, least):
    """One sample, with lists: (set of visible patches, set of masked ones)."""
    tokens = len(noise)
    visible = tokens - int(ratio * tokens)
    on = [i for i in range(tokens) if person[i] >= 0.5]
    score = {i: float(noise[i] + bonus * person[i]) for i in range(tokens)}
    promised = sorted(on, key=score.get)[: min(least, len(on) // 4, visible)]
    rest = sorted((i for i in range(tokens) if i not in promised), key=score.get)
    keep = set(promised + rest[: visible - len(promised)])
    return keep, set(range(tokens)) - keep


@pytest.mark.parametrize("bonus", [0.0, 0.3, 5.0])
def test_agrees_with_lists(bonus):
    for seed in range(30):
        noise, person, ratio = case(seed)
        if not 0 < int(ratio * noise.shape[1]) < noise.shape[1]:
            continue
        keep, masked = choose(noise, person, ratio, bonus)
        for row in range(len(noise)):
            assert (set(keep[row].tolist()), set(masked[row].tolist())) == slow(
                noise[row], person[row], ratio, bonus, 8
            )


def test_counts_promises_and_order():
    for seed in range(60):
        noise, person, ratio = case(100 + seed)
        tokens = noise.shape[1]
        count = int(ratio * tokens)
        if not 0 < count < tokens:
            continue
        keep, masked = choose(noise, person, ratio, 2.0, 8)
        assert masked.shape == (len(noise), count) and keep.shape == (len(noise), tokens - count)
        assert torch.equal(
            torch.cat([keep, masked], 1).sort(1).values, torch.arange(tokens).expand(len(noise), -1)
        )
        assert (keep.diff(dim=1) > 0).all() and (masked.diff(dim=1) > 0).all()
        on = person >= 0.5
        seen = on.gather(1, keep).sum(1)
        promised = torch.minimum(on.sum(1) // 4, torch.tensor(min(8, tokens - count)))
        assert (seen >= promised).all()


def test_a_person_everywhere_is_uniform_masking():
    noise = torch.rand(500, 49, generator=torch.Generator().manual_seed(3))
    keep, _ = choose(noise, torch.ones_like(noise), 0.9, 0.7)
    plain = noise.argsort(1)[:, :5].sort(1).values
    assert torch.equal(keep, plain)
    often = torch.zeros(49).scatter_add(0, keep.flatten(), torch.ones(keep.numel())) / 500
    assert (often - 5 / 49).abs().max() < 5 * math.sqrt(
        5 / 49 * 44 / 49 / 500
    )  # five standard deviations of a binomial


@pytest.mark.parametrize("bonus", [0.0, 0.4, 1.0])
def test_background_of_the_reference_is_left_out_first(bonus):
    noise = torch.rand(300, 49, generator=torch.Generator().manual_seed(6))
    person = torch.zeros(300, 49)
    person[:, 10:22] = 1
    seen = choose_reference(noise, person, 0.5, bonus)
    assert seen.shape == (300, 25) and (seen.diff(dim=1) > 0).all()  # 49 - int(24.5)
    for row in range(len(seen)):
        score = sorted(range(49), key=lambda i: float(noise[row, i] - bonus * person[row, i]))
        assert sorted(score[:25]) == seen[row].tolist()
    kept = ((seen >= 10) & (seen < 22)).sum(1).float().mean().item()
    assert {0.0: 5.8 < kept < 6.5, 0.4: 8 < kept < 11.9, 1.0: kept == 12}[bonus]
    assert choose_reference(noise, person, 0.01, bonus).shape[1] == 49


def test_nobody_there():
    noise = torch.rand(20, 196, generator=torch.Generator().manual_seed(4))
    keep, masked = choose(noise, torch.zeros_like(noise), 0.9, 1.0)
    assert torch.equal(keep, noise.argsort(1)[:, :20].sort(1).values) and masked.shape == (20, 176)


def test_the_bonus_hides_more_of_the_person_but_never_all():
    noise = torch.rand(400, 196, generator=torch.Generator().manual_seed(5))
    person = torch.zeros(400, 196)
    person[:, 60:120] = 1.0
    hidden = []
    for bonus in (0.0, 0.2, 0.5, 5.0):
        _, masked = choose(noise, person, 0.75, bonus)
        hidden.append(person.gather(1, masked).sum(1).mean().item() / 60)
    assert hidden[0] == pytest.approx(0.75, abs=0.01)
    assert hidden[0] < hidden[1] < hidden[2] <= hidden[3]
    assert hidden[3] == pytest.approx(52 / 60)  # all but the eight that were promised


def test_masking_everything_or_nothing_is_refused():
    noise = torch.rand(1, 16)
    for ratio in (0.0, 1.0):
        with pytest.raises(UserError, match=f"masking.ratio={ratio} of 16 patches"):
            choose(noise, noise, ratio, 0.0)


@pytest.mark.parametrize(
    "side, grid", [(64, (14, 14)), (56, (14, 14)), (30, (4, 7)), (6, (14, 14))]
)
def test_share_is_exact(side, grid):
    """Against an image so fine that every patch and every cell is whole pixels."""
    masks = torch.rand(3, side, side, generator=torch.Generator().manual_seed(6)) < 0.5
    fine = [math.lcm(side, g) for g in grid]
    image = (
        masks.double().repeat_interleave(fine[0] // side, 1).repeat_interleave(fine[1] // side, 2)
    )
    cells = (
        image.view(3, grid[0], fine[0] // grid[0], grid[1], fine[1] // grid[1])
        .mean((2, 4))
        .flatten(1)
    )
    torch.testing.assert_close(person_share(masks, grid).double(), cells, atol=1e-5, rtol=0)

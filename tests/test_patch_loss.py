"""The loss: against plain NumPy, and the same however a batch is spread."""

import numpy as np
import pytest
import torch

from pretrain.config import ObjectiveConfig
from pretrain.patch_loss import (
    combine,
    denormalise,
    patch_weight,
    patchify,
    per_sample_loss,
    targets,
    unpatchify,
)


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patches_are_ordered_row_column_channel():
    a = images(2, 3, 8, 12)
    patches = patchify(a, 4)
    assert patches.shape == (2, 6, 48)
    for patch, row, column, channel in ((0, 0, 0, 0), (4, 2, 3, 1), (5, 3, 1, 2)):
        y, x = patch // 3 * 4 + row, patch % 3 * 4 + column
        assert patches[1, patch, (row * 4 + column) * 3 + channel] == a[1, channel, y, x]
    assert torch.equal(unpatchify(patches, 4, (2, 3)), a)


@pytest.mark.parametrize("kind", ["patch", "image", "none"])
def test_targets(kind):
    a = images(2, 3, 8, 8) * 3 + 1
    values = patchify(a, 4).numpy().astype(np.float64)
    axes = {"patch": 2, "image": (1, 2)}.get(kind)
    if axes is not None:
        mean, variance = values.mean(axes, keepdims=True), values.var(axes, ddof=1, keepdims=True)
        values = (values - mean) / np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(targets(a, 4, kind).numpy(), values, atol=1e-5)
    torch.testing.assert_close(
        denormalise(targets(a, 4, kind), a, 4, kind), a, atol=1e-5, rtol=1e-5
    )


def test_a_patch_of_one_colour_has_a_target():
    assert (targets(torch.full((1, 3, 8, 8), 0.7), 4, "patch").abs() < 1e-3).all()


def test_loss_of_a_sample():
    said, wanted = images(3, 5, 12), images(3, 5, 12, seed=1)
    share = torch.rand(3, 5, generator=torch.Generator().manual_seed(2))
    weight = patch_weight(share, 0.2)
    error = ((said - wanted).numpy() ** 2).mean(2)
    w = 0.2 + 0.8 * share.numpy()
    expected = [np.average(error[i], weights=w[i]) for i in range(3)]
    np.testing.assert_allclose(per_sample_loss(said, wanted, weight).numpy(), expected, rtol=1e-5)
    plain = per_sample_loss(said, wanted, patch_weight(share, 1.0))
    np.testing.assert_allclose(plain.numpy(), error.mean(1), rtol=1e-5)
    assert per_sample_loss(said, wanted, patch_weight(torch.zeros(3, 5), 0.0)).tolist() == [
        0.0,
        0.0,
        0.0,
    ]


def test_loss_is_float32_of_bf16_predictions():
    said = images(1, 4, 8).bfloat16()
    assert per_sample_loss(said, images(1, 4, 8, seed=1), torch.ones(1, 4)).dtype == torch.float32


def test_total_is_the_weighted_sum_of_the_kinds_means():
    losses = torch.rand(32, generator=torch.Generator().manual_seed(3))
    kind = (torch.arange(32) % 4 == 0).long()  # a quarter is of kind 1
    total = combine(losses, kind, [1.0, 0.5], [0.75, 0.25], 32)
    expected = losses[kind == 0].mean() + 0.5 * losses[kind == 1].mean()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert combine(
        losses, torch.zeros(32).long(), [1.0, 1.0], [1.0, 0.0], 32
    ).item() == pytest.approx(
        losses.mean().item(), rel=1e-6
    )  # a kind that no sample is of, with share 0


@pytest.mark.parametrize("cuts", [[16, 16], [4, 28], [1, 2, 3, 26]])
def test_gradient_does_not_depend_on_how_the_batch_is_spread(cuts):
    """Kinds are packed unevenly: means of means would differ."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 12).double()
    x, wanted = images(32, 5, 12).double(), images(32, 5, 12, seed=1).double()
    kind = (torch.arange(32) >= 8).long()
    weight = torch.rand(32, 5, generator=torch.Generator().manual_seed(4))

    def gradient(parts):
        layer.zero_grad()
        total = 0.0
        for rows in parts:
            loss = combine(
                per_sample_loss(layer(x[rows]), wanted[rows], weight[rows]),
                kind[rows],
                [1.0, 1.0],
                [0.25, 0.75],
                32,
            )
            loss.backward()
            total += loss.item()
        return total, layer.weight.grad.clone()

    whole, parts = gradient([torch.arange(32)]), gradient(torch.arange(32).split(cuts))
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(parts[1], whole[1], atol=1e-7, rtol=1e-6)


def test_weights_follow_the_kinds_of_the_data():
    from data.format.index import PAIR_KINDS

    config = ObjectiveConfig(cross_view=2.0, cross_pose=0.5)
    assert dict(zip(PAIR_KINDS, config.kind_weights(), strict=True)) == {
        "cross_view": 2.0,
        "cross_pose": 0.5,
    }

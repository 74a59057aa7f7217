"""A training step: equal to a plain implementation, and what it must never ask of a device."""

import pytest
import torch

from benchmarks.plain import Plain
from pretrain import layouts, masking
from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig
from pretrain.model import CrossCompletion
from pretrain.objective import patch_weight, per_sample_loss, targets

POSITIONS = ("cosine", "rope")


def model_config(position):
    return ModelConfig(64, 16, position, 100.0, EncoderConfig(48, 2, 3), decoder=DecoderConfig(32, 3, 2))


def network(position):
    torch.manual_seed(0)
    model = CrossCompletion(model_config(position))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that are not at their first values
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", ["patch", "picture", "none"])
@pytest.mark.parametrize("position", POSITIONS)
def test_loss_and_gradients_are_those_of_a_plain_implementation(position, kind):
    model, plain = network(position), Plain(model_config(position))
    plain.load_state_dict(layouts.to_croco(model.config, model.state_dict())[0])
    rng = torch.Generator().manual_seed(3)
    a, b = torch.randn(3, 3, 64, 64, generator=rng), torch.randn(3, 3, 64, 64, generator=rng)
    person = torch.rand(3, 16, generator=rng)
    keep, masked = masking.choose(torch.rand(3, 16, generator=rng), person, 0.75, 0.3)
    predicted = model.complete(a, b, keep, masked)
    target = targets(a, 16, kind).gather(1, masked[..., None].expand(-1, -1, 768))
    loss = per_sample_loss(predicted, target, patch_weight(person, 0.2).gather(1, masked)).mean()
    loss.backward()
    mask = torch.zeros(3, 16, dtype=torch.bool).scatter(1, masked, True)
    expected = plain.loss(a, b, mask, person, kind, 0.2)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    theirs = layouts.from_croco(model.config, {n: p.grad for n, p in plain.named_parameters()})
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-4, atol=2e-6, msg=lambda m: f"{name}: {m}")

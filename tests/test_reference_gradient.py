"""A reference that is encoded without a backward pass: what learns, what it costs, what is kept."""

import pytest
import torch
from runs import words
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.config.parser import parse
from engine.errors import UserError
from pretrain import blocks
from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig, PretrainConfig
from pretrain.flops import step_flops
from pretrain.model import CrossCompletion

KEEP, MASKED = torch.arange(49)[None].expand(2, -1).split([9, 40], 1)


def make_model(learns, self_attention=True):
    """A network of 7 x 7 patches whose weights do not depend on ``learns``."""
    decoder = DecoderConfig(64, 2, 4, True, self_attention, reference_gradient=learns)
    torch.manual_seed(0)
    model = CrossCompletion(
        ModelConfig(112, 16, "rope", 100.0, EncoderConfig(96, 3, 4), decoder=decoder)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(seed):
    image = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(seed))
    return image.requires_grad_()


def learn(model, said):
    model.zero_grad()
    said.square().mean().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def test_the_encoder_learns_from_the_target_alone_and_the_decoder_from_both():
    whole, stopped = make_model(True), make_model(False)
    a, b = images(1), images(2)
    said = whole.complete(a, b, KEEP, MASKED)
    of_both = learn(whole, said)
    assert b.grad.abs().max() > 0
    a.grad = b.grad = None
    assert torch.equal(stopped.complete(a, b, KEEP, MASKED), said)
    of_target = learn(stopped, stopped.complete(a, b, KEEP, MASKED))
    assert b.grad is None and a.grad.abs().max() > 0
    # Put together from parts, with the reference's features as numbers.
    visible = whole.encoder(a, whole._encoder_table, KEEP)
    reference = whole.encode(b).detach()
    order = torch.cat([KEEP, MASKED], 1)
    features = whole.decoder(visible, reference, order, whole._decoder_table, True)
    wanted = learn(whole, whole.decoder.read(features))
    for name, value in of_target.items():
        assert torch.equal(value, wanted[name]), name
        same = torch.equal(value, of_both[name])
        assert same == name.startswith("decoder."), name


@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("targets", [1, 2])
def test_operations_of_a_step_agree_with_torchs_counter(targets, self_attention):
    found, counted = [], []
    for learns in (True, False):
        model = make_model(learns, self_attention)
        a, b = images(1).detach()[:targets], images(2).detach()[:1]
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.complete(a, b, KEEP[:targets], MASKED[:targets]).sum().backward()
        counted.append(counter.get_total_flops() / targets)
        found.append(step_flops(model.config, 9, targets))
    # No step brings a gradient back to pixels.
    of_a, of_b = 2 * 9 * 768 * 96, 2 * 49 * 768 * 96 / targets
    assert found[0] - of_a - of_b == pytest.approx(counted[0], rel=1e-6)
    assert found[1] - of_a == pytest.approx(counted[1], rel=1e-6)
    assert counted[1] < 0.75 * counted[0]


def count_kept_bytes(model, a, b):
    """Bytes of what a forward pass keeps for the backward pass, weights aside."""
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        said = model.complete(a, b, KEEP, MASKED)
    assert said.requires_grad
    return sum(kept.values())


def test_less_is_kept_for_the_backward_pass():
    a, b = images(1).detach(), images(2).detach()
    whole, stopped = (count_kept_bytes(make_model(learns), a, b) for learns in (True, False))
    assert stopped < 0.6 * whole


def test_blocks_that_are_compiled_in_training_are_so_without_gradient(monkeypatch):
    ran = []

    def compiled_step(kind):
        def step(block, *tensors):
            ran.append((kind.__name__, torch.is_grad_enabled()))
            return kind.step(block, *tensors)

        return step

    monkeypatch.setattr(blocks, "compiled_step", compiled_step)
    model, a, b = make_model(False), images(1), images(2)
    for block in [*model.encoder.blocks, *model.decoder.blocks]:
        block.compiled = block.activation_checkpointing = True
    learn(model, model.complete(a, b, KEEP, MASKED))
    assert ran.count(("EncoderBlock", False)) == 3
    assert ran.count(("EncoderBlock", True)) == 6  # of the target, and once more backward
    ran.clear()
    with torch.no_grad():
        model.complete(a, b, KEEP, MASKED)
    assert not ran  # shapes are many where nothing is learnt


def test_where_nobody_attends_or_both_must_learn_it_is_refused():
    stopped = "model.decoder.reference_gradient=false"
    for more, said in (
        (["model.decoder.cross=false"], "model.decoder.cross=false attends to no reference"),
        (["objective.name=views", "model.embedding.points=4"], "both images learn by their"),
    ):
        with pytest.raises(UserError, match=said):
            parse(PretrainConfig, words("run", "shards", stopped, *more), "pretrain train")

"""What pre-training can be made of beside the usual: blocks of masks, shared colour, decoders that
only look, contours as targets, and a teacher that sees the whole pair."""

import math
import shutil

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from runs import finish, outcome, start, words
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.config import DataConfig
from data.loading.build import open_loader, open_order
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain import gradients, weights
from pretrain.config import (
    GEOMETRY,
    DecoderConfig,
    EncoderConfig,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
)
from pretrain.flops import feature_flops, flops
from pretrain.masking import choose, choose_blocks
from pretrain.model import CrossCompletion
from pretrain.train import make_trainer

STUDENT = ["objective.name=teacher", "model.decoder.cross=false", "model.decoder.latents=32"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(40)], 10)
    return folder


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory, shards):
    """A short run of completion with references."""
    run = tmp_path_factory.mktemp("runs") / "pair"
    finish(start(words(run, shards, "steps=6")))
    return run


def test_blocks_are_masked_whole():
    rng = torch.Generator().manual_seed(0)
    noise, person = torch.rand(50, 48, generator=rng), torch.rand(50, 48, generator=rng)
    person = (person > 0.4).float()
    keep, masked = choose_blocks(noise, person, (6, 8), 2, 0.8, 0.3, 8)
    together = torch.cat([keep, masked], 1).sort(1).values
    assert torch.equal(together, torch.arange(48).expand(50, -1))
    assert (keep.shape[1], masked.shape[1]) == (12, 36)  # int(.8 * 12) = 9 of 12 blocks
    assert MaskingConfig(ratio=0.8, block=2).seen(48) == (12, 48)
    shown = torch.zeros(50, 48, dtype=torch.bool).scatter_(1, keep, True)
    blocks = shown.view(50, 3, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(blocks.all(3), blocks.any(3))
    # The choice among blocks is that among patches of a grid of half the side.
    of_person = person.view(50, 3, 2, 4, 2).mean((2, 4)).flatten(1)
    first = noise.view(50, 3, 2, 4, 2)[:, :, 0, :, 0].flatten(1)
    chosen, _ = choose(first, of_person, 0.8, 0.3, 2)
    by_block = torch.zeros(50, 12, dtype=torch.bool).scatter_(1, chosen, True)
    assert torch.equal(by_block, blocks.all(3).flatten(1))


def test_single_patches_are_masked_as_ever():
    noise = torch.rand(20, 48, generator=torch.Generator().manual_seed(1))
    person = (noise > 0.5).float()
    for one, other in zip(
        choose_blocks(noise, person, (6, 8), 1, 0.75, 0.5),
        choose(noise, person, 0.75, 0.5),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_block_that_does_not_divide_the_grid_is_refused(shards):
    with pytest.raises(UserError, match=r"masking.block=4 does not divide the 6 x 6 patches"):
        parse(PretrainConfig, words("run", shards, "masking.block=4"), "pretrain train")


def numbers_of(folder, **augment):
    config = DataConfig(shards=str(folder), val_clips=4)
    for name, value in augment.items():
        setattr(config.augment, name, value)
    loader = open_loader(open_order(config, 8, 5), config, 9, 0, 1, 0)
    out = [arrays["numbers"].copy() for _, arrays in loader.batches(0, 3)]
    loader.close()
    return np.concatenate(out)


def test_shared_colour_is_that_of_the_first_image(shards):
    own, shared = numbers_of(shards), numbers_of(shards, share_colour=True)
    assert np.array_equal(own[:, 0], shared[:, 0])  # all else is as it was
    assert np.array_equal(own[:, 1, :3], shared[:, 1, :3])
    assert np.array_equal(shared[:, 1, 3:], shared[:, 0, 3:])
    assert (own[:, 1, 3:] != own[:, 0, 3:]).all()


def looking(cross, position="rope"):
    """A network whose decoder tokens do not see one another, its weights not at their first."""
    config = ModelConfig(
        64,
        16,
        position,
        100.0,
        EncoderConfig(48, 2, 3),
        decoder=DecoderConfig(32, 2, 2, cross, self_attention=False),
    )
    torch.manual_seed(0)
    model = CrossCompletion(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(count, seed=1):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("position", ["rope", "cosine"])
@pytest.mark.parametrize("cross", [True, False])
def test_tokens_that_look_do_not_see_one_another(cross, position):
    model, a = looking(cross, position), images(2)
    b = images(2, 2) if cross else None
    keep = torch.tensor([[0, 3, 9, 12], [1, 5, 8, 15]])
    masked = torch.stack(
        [torch.tensor([i for i in range(16) if i not in row]) for row in keep.tolist()]
    )
    with torch.no_grad():
        all_of_them = model.complete(a, b, keep, masked)
        visible = model._encode(a, model.grid, keep)
        reference = None if b is None else model.encode(b)
        for place in (0, 5, 11):
            # One masked patch alone, with the same visible ones, is said to be the same.
            order = torch.cat([keep, masked[:, place : place + 1]], 1)
            features = model.decoder(visible, reference, order, model._decoder_table, True)
            alone = model.decoder.head(features)[:, 0]
            torch.testing.assert_close(alone, all_of_them[:, place], atol=1e-5, rtol=1e-5)
        # And it depends on the visible patches and on the reference.
        other = a.clone()
        other[:, :, :16, :16] += 1  # patch 0, which the first image shows
        changed = model.complete(other, b, keep, masked)
        assert (changed - all_of_them).abs()[0].max() > 1e-3
        if b is not None:
            changed = model.complete(a, b.flip(0), keep, masked)
            assert (changed - all_of_them).abs().min(0).values.max() > 1e-3


@pytest.mark.parametrize("cross, targets", [(True, 1), (True, 3), (False, 1)])
@pytest.mark.parametrize("self_attention", [True, False])
def test_operations_agree_with_torchs_counter(self_attention, cross, targets):
    decoder = DecoderConfig(
        64, 2, 4, cross, self_attention, gradients=9, latents=24, geometry=GEOMETRY[: 2 + cross]
    )
    config = ModelConfig(112, 16, "rope", 100.0, EncoderConfig(96, 3, 4), decoder=decoder)
    model = CrossCompletion(config)
    order = torch.rand(targets, 49, generator=torch.Generator().manual_seed(0)).argsort(1)
    a = torch.zeros(targets, 3, 112, 112)
    b = a[:1] if cross else None
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            model.complete(a, b, order[:, :9], order[:, 9:])
        wanted = counter.get_total_flops() / targets
        assert flops(config, 9, targets) == pytest.approx(wanted, rel=0.001)
        with FlopCounterMode(display=False) as counter:
            model.features(a, b)
    assert feature_flops(config, targets) == pytest.approx(
        counter.get_total_flops() / targets, rel=0.001
    )


@pytest.mark.parametrize("patch", [8, 16])
def test_contours_agree_with_loops(patch):
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    found = gradients.histograms(image, patch, 9)[0].double()
    cells, cell, bins = patch // 8, 8, 9
    assert found.shape == ((32 // patch) ** 2, gradients.count_values(patch, 9))
    values = image[0].double().tolist()
    for number in (0, 3):
        row, column = divmod(number, 32 // patch)
        sums = np.zeros((cells, cells, 3, bins))
        for i in range(patch):
            for j in range(patch):
                y, x = row * patch + i, column * patch + j
                for channel in range(3):
                    plane = values[channel]
                    across = plane[y][min(x + 1, 31)] - plane[y][max(x - 1, 0)]
                    down = plane[min(y + 1, 31)][x] - plane[max(y - 1, 0)][x]
                    place = math.atan2(down, across) % math.pi / math.pi * bins
                    low = int(place)
                    part, size = place - low, math.hypot(across, down)
                    at = sums[i // cell, j // cell, channel]
                    at[low % bins] += size * (1 - part)
                    at[(low + 1) % bins] += size * part
        wanted = sums.ravel() / cell**2
        wanted /= math.sqrt((wanted**2).mean() + 1e-6)
        np.testing.assert_allclose(found[number].numpy(), wanted, atol=1e-4)


def test_contours_do_not_know_light():
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    one, other = (gradients.histograms(x, 16, 9) for x in (image, 0.5 * image + 0.3))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    assert gradients.histograms(torch.full((1, 3, 32, 32), 0.4), 16, 9).abs().max() == 0


def open_task(run, shards, *more):
    config = parse(PretrainConfig, words(run, shards, *more), "pretrain train")
    return make_trainer(config, Processes(0, 1, torch.device("cpu"))).task


def test_contours_are_learnt_beside_pixels(tmp_path, shards):
    plain = open_task(tmp_path / "plain", shards, "steps=2")
    task = open_task(tmp_path / "run", shards, "steps=2", "model.decoder.gradients=9")
    batch = task.to_device(next(iter(task.loader.batches(0, 1)))[1])
    objective = task.step_module
    a, b, keep, masked, person, seen = objective.pairs(batch)
    weight = objective.weigh_patches(person)
    said, more = objective.predict(a, b, keep, masked, seen)
    pixels = objective.losses(a, b, keep, masked, seen, [weight])[0]
    contours = objective(batch) - pixels
    assert said.shape[-1] == 3 * 8**2 and more["gradients"].shape[-1] == 3 * 9
    assert (contours > 0.1).all()
    objective(batch).sum().backward()
    head = task.model.decoder.more_heads["gradients"]
    assert head.weight.grad.abs().max() > 0
    assert set(plain.model.state_dict()) < set(task.model.state_dict())
    task.loader.close(), plain.loader.close()


def test_a_teacher_teaches_and_stays_as_it_is(tmp_path, shards, pair_run):
    run = tmp_path / "student"
    task = open_task(run, shards, "steps=2", *STUDENT, f"objective.teacher={pair_run}")
    objective, teacher = task.step_module, task.step_module.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = task.to_device(next(iter(task.loader.batches(0, 1)))[1])
    a, b, _, masked, _, _ = objective.pairs(batch)
    # Its features are those of the pair network, each patch's with mean 0 and variance 1.
    features = weights.load(pair_run).features(a, b).detach()
    chosen = features.gather(1, masked[..., None].expand(-1, -1, 32))
    wanted = (chosen - chosen.mean(2, keepdim=True)) / chosen.std(2, keepdim=True, correction=0)
    torch.testing.assert_close(objective.teach(a, b, masked), wanted, atol=1e-3, rtol=1e-3)
    # The second image reaches the student through them, and by no other way.
    assert (objective.teach(a, b.flip(0), masked) - wanted).abs().max() > 1e-2
    loss = objective(batch)
    loss.sum().backward()
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
    names = {name for name, _ in objective.named_parameters()}
    assert names == {f"model.{name}" for name, _ in task.model.named_parameters()}
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    task.loader.close()


def test_a_student_resumes_exactly_without_its_teachers_run(tmp_path, shards, pair_run):
    teacher = tmp_path / "teacher"
    shutil.copytree(pair_run, teacher)
    keys = [*STUDENT, f"objective.teacher={teacher}", "checkpoint.every=4", "steps=8"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    finish(start(words(whole, shards, *keys)))
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / "step-00000008")
    shutil.rmtree(teacher)  # the run has a copy
    finish(start(words(half, shards, *keys)))
    assert outcome(half)[:3] == outcome(whole)[:3]
    line = outcome(whole)[-1][-1]
    assert "val/cross_view" in line and not any(key.startswith("reference") for key in line)


@pytest.mark.parametrize(
    "more, said",
    [
        (["model.decoder.latents=0"], "model.decoder.latents=0: set it to the teacher's"),
        (["model.decoder.cross=true"], "the student reads one image"),
        (
            ["model.decoder.latents=16"],
            "decoder.width=32, this run has model.decoder.latents=16",
        ),
        (["model.patch=12"], "has model.patch=8, this run has model.patch=12"),
        (["objective.teacher="], "objective.name=teacher needs objective.teacher=RUN"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(tmp_path, shards, pair_run, more, said):
    keys = [*STUDENT, f"objective.teacher={pair_run}", *more]
    with pytest.raises(UserError, match=said):
        open_task(tmp_path / "run", shards, *keys)

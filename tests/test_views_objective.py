"""Whole images of a cross-view pair agree once their cameras' rotation is accounted for."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from clips import camera_at, make_clip, write_shards
from runs import apart, finish, outcome, start, words
from safetensors.numpy import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.config import DataConfig
from data.format.clip import Crop
from data.loading.build import open_loader, open_order
from data.loading.reader import TAGS, ClipReader
from data.sampling.pairs import rotation_between, view_angles
from data.storage.cache import CacheConfig
from data.storage.shard_store import Store
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain.config import (
    DecoderConfig,
    EmbeddingConfig,
    EncoderConfig,
    ModelConfig,
    PretrainConfig,
)
from pretrain.model import CrossCompletion
from pretrain.objectives.views import Views, compare_rotations, rotate, spread_out
from pretrain.train import make_trainer

VIEWS = ["objective.name=views", "model.embedding.points=6", "model.embedding.width=32"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=56) for i in range(40)], 10)
    return folder


def open_task(run, shards, *more):
    config = parse(PretrainConfig, words(run, shards, *more), "pretrain train")
    return make_trainer(config, Processes(0, 1, torch.device("cpu"))).task


def about(axis, degrees):
    """(3, 3) rotation by the matrix exponential, which no code here uses."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    return torch.matrix_exp(
        math.radians(degrees) * torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    )


def test_rotations_lead_from_one_crops_frame_to_the_others():
    clip = make_clip(0, views=3, size=64)
    # The second camera is cut off-centre: its frame looks along the crop's own middle.
    K, Rt = camera_at(math.radians(40), 64)
    K = [[64.0, 0, 50.0], [0, 64.0, 20.0], [0, 0, 1]]
    clip.crops[1] = Crop("cam1", 0.0, "body", K, Rt, None)
    assert rotation_between(clip, 0, 0) == pytest.approx(np.eye(3))
    for a, b in itertools.permutations(range(3), 2):
        found = rotation_between(clip, a, b)
        assert found @ found.T == pytest.approx(np.eye(3), abs=1e-9)
        assert np.linalg.det(found) == pytest.approx(1)
        # The middle of b's crop, seen in a's frame, is as far from a's as the rays are apart.
        angle = math.degrees(math.acos(found[2, 2]))
        assert angle == pytest.approx(view_angles(clip)[a, b], abs=1e-6)
    # Cameras 40 degrees apart on a level circle: a rotation about the vertical, which is -y. The
    # third looks towards -x in the world's (-x, -y), which is to the left of the first.
    assert rotation_between(clip, 0, 2) == pytest.approx(about((0, -1, 0), 80).numpy(), abs=1e-6)
    clip.crops[2] = Crop("cam2", 0.0, "body", None, None, None)
    assert rotation_between(clip, 0, 2) is None


def read_batches(shards, rotations, targets=1):
    config = DataConfig(shards=str(shards), val_clips=4)
    order = open_order(config, 8, 5)
    loader = open_loader(order, config, 9, 0, 1, 0, targets=targets, rotations=rotations)
    out = [{name: v.copy() for name, v in arrays.items()} for _, arrays in loader.batches(0, 3)]
    loader.close()
    return order, out


@pytest.mark.parametrize("targets", [1, 3])
def test_batches_hold_the_rotations_of_their_pairs_and_are_else_the_same(shards, targets):
    order, found = read_batches(shards, True, targets)
    _, plain = read_batches(shards, False, targets)
    reader = ClipReader(Store(CacheConfig().open()))
    for with_them, without in zip(found, plain, strict=True):
        rotations = with_them.pop("rotations")
        assert rotations.shape == (8, targets, 3, 3)
        assert with_them.keys() == without.keys()
        assert all(np.array_equal(with_them[name], without[name]) for name in without)
        for tags, rotation in zip(with_them["tags"], rotations, strict=True):
            tag = dict(zip(TAGS, tags.tolist(), strict=True))
            path = order.sources[tag["source"]].paths[tag["shard"]]
            clip, _ = reader.clip(path, tag["index"])
            wanted = rotation_between(clip, tag["a"], tag["b"])
            assert rotation[0] == pytest.approx(wanted, abs=1e-6)


def test_the_true_rotation_is_told_and_constants_tell_nothing():
    rng = torch.Generator().manual_seed(0)
    rotations = torch.stack([about(axis, 70) for axis in np.eye(3)] + [about((1, 1, 0), 130)])
    rotations = rotations.float()
    of_b = torch.randn(4, 5, 3, generator=rng)
    others = torch.cat([rotations, torch.full((2, 3, 3), torch.nan)])
    loss, apart_deg = compare_rotations(rotate(rotations, of_b), of_b, rotations, others, 0.1)
    assert apart_deg.max() < 0.1 and loss.max() < 0.2
    # Cross entropy by loops, of vectors that agree a little.
    of_a = rotate(rotations, of_b) + torch.randn(4, 5, 3, generator=rng)
    loss, apart_deg = compare_rotations(of_a, of_b, rotations, others, 0.5)
    for row in range(4):
        scores = []
        for candidate in [rotations[row], *(r for k, r in enumerate(rotations) if k != row)]:
            turned = torch.stack([candidate @ vector for vector in of_b[row]])
            cosine = (of_a[row] * turned).sum() / (of_a[row].norm() * turned.norm())
            scores.append(float(cosine) / 0.5)
        wanted = math.log(sum(map(math.exp, scores))) - scores[0]
        assert float(loss[row]) == pytest.approx(wanted, abs=1e-4)
        if max(scores) == scores[0]:
            assert apart_deg[row] < 0.1
    # Equal vectors of all images choose the same rotation for every pair: on average no better
    # than chance.
    same = torch.randn(1, 5, 3, generator=rng).expand(4, -1, -1)
    loss, _ = compare_rotations(same, same, rotations, rotations, 0.5)
    assert loss.mean() >= math.log(4) - 1e-5


def test_variance_and_covariance_are_the_whole_batchs():
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        5, 5, generator=torch.Generator().manual_seed(2)
    )
    vectors = (0.3 * vectors).requires_grad_()
    covariance = torch.cov(vectors.T)
    low = (1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
    apart_from_others = covariance.square().sum() - covariance.diagonal().square().sum()
    wanted = 2 * low + 0.3 * apart_from_others / 5
    (slope,) = torch.autograd.grad(wanted, vectors)
    found = spread_out(vectors, 2, 0.3)
    assert found.shape == (12,)
    torch.testing.assert_close(found.detach(), wanted.detach().expand(12))
    (mine,) = torch.autograd.grad(found.mean(), vectors)
    torch.testing.assert_close(mine, slope, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("agreement", ["rotation", "vicreg"])
def test_both_images_learn_by_the_agreement_of_calibrated_views_alone(tmp_path, shards, agreement):
    keys = [*VIEWS, f"objective.agreement={agreement}", "model.decoder.cross=false"]
    weights = ["objective.variance_weight=0", "objective.covariance_weight=0"]
    task = open_task(tmp_path / "run", shards, "steps=2", *keys, *weights)
    objective = task.step_module
    batch = dict(task.to_device(next(iter(task.loader.batches(0, 1)))[1]))
    a, b, keep, masked, person, seen = objective.pairs(batch)
    said, more, of_a, of_b = objective._embed(a, b, keep, masked, seen)
    pixels = objective.compare_pixels(said, more, a, masked, objective.weigh_patches(person))
    views = objective(batch) - pixels
    kind = batch["tags"][:, TAGS.index("kind")]
    assert (views[kind == 0] > 0).all() and (views[kind == 1] == 0).all()
    if agreement == "vicreg":
        wanted = (of_a - rotate(batch["rotations"][:, 0], of_b)).square().mean((1, 2))
        torch.testing.assert_close(views[kind == 0], wanted[kind == 0], atol=1e-5, rtol=1e-4)
    # The reference reaches the encoder's gradient; a camera that nobody knows takes it away.
    views.sum().backward()
    assert task.model.embedding.read.weight.grad.abs().max() > 0
    unknown = {**batch, "rotations": torch.full_like(batch["rotations"], torch.nan)}
    task.model.zero_grad()
    losses = objective(unknown)
    torch.testing.assert_close(losses, pixels)
    losses.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())
    task.loader.close()


@pytest.mark.parametrize("agreement", ["rotation", "vicreg"])
def test_two_processes_give_what_one_gives_and_a_run_resumes_exactly(tmp_path, shards, agreement):
    keys = [*VIEWS, f"objective.agreement={agreement}", "checkpoint.every=4", "steps=8"]
    runs = {name: tmp_path / name for name in ("one", "two", "half")}
    one = start(words(runs["one"], shards, *keys))
    two = start(words(runs["two"], shards, *keys), processes=2)
    finish(one), finish(two)
    tensors = [
        load_file(runs[name] / "checkpoints" / "step-00000008" / "model.safetensors")
        for name in ("one", "two")
    ]
    assert apart(*tensors) < 2e-5
    lines = [outcome(runs[name])[-1][-1] for name in ("one", "two")]
    for name in ("views/agreement", "views/rotation", "val/cross_view"):
        assert lines[0][name] == pytest.approx(lines[1][name], rel=1e-3)
    shutil.copytree(runs["one"], runs["half"])
    shutil.rmtree(runs["half"] / "checkpoints" / "step-00000008")
    finish(start(words(runs["half"], shards, *keys)))
    assert outcome(runs["half"])[:3] == outcome(runs["one"])[:3]


@pytest.mark.parametrize("cross, targets", [(True, 1), (True, 2), (False, 2)])
def test_operations_agree_with_torchs_counter(tmp_path, shards, cross, targets):
    config = parse(
        PretrainConfig,
        words(
            tmp_path,
            shards,
            *VIEWS,
            f"model.decoder.cross={str(cross).lower()}",
            f"targets_per_reference={targets}",
        ),
        "pretrain train",
    )
    part = ModelConfig(
        112,
        16,
        "rope",
        100.0,
        EncoderConfig(96, 3, 4),
        decoder=DecoderConfig(64, 2, 4, cross),
        embedding=EmbeddingConfig(8, 12, 40),
    )
    config.model = part
    visible, _ = config.masking.seen(49)
    order = torch.rand(targets, 49, generator=torch.Generator().manual_seed(0)).argsort(1)
    model, a = CrossCompletion(part), torch.zeros(targets, 3, 112, 112)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            model.complete_and_embed(a, a[:1], order[:, :visible], order[:, visible:])
    wanted = 3 * counter.get_total_flops() / targets
    # The head counts all patches, though it reads the visible ones alone.
    left_out = 3 * 2 * (49 - visible) * 96 * 12
    assert Views.count_step_flops(config) - left_out == pytest.approx(wanted, rel=0.001)


@pytest.mark.parametrize(
    "keys, said",
    [
        (["objective.name=views"], "objective.name=views with model.embedding.points=0: set"),
        (
            ["model.embedding.points=4"],
            "model.embedding.points=4, but objective.name=completion says no whole images",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, shards, keys, said):
    with pytest.raises(UserError, match=said):
        parse(PretrainConfig, words(tmp_path, shards, *keys), "pretrain train")

"""Several targets of one reference: which they are, and that sharing changes nothing but the
cost."""

import dataclasses

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from runs import finish, outcome, start, words

from data.config import DataConfig
from data.format.clip import encode
from data.format.index import PAIR_KINDS
from data.loading.build import open_loader, open_order
from data.loading.loader import tag
from data.sampling.pairs import PairRules, candidates, more_targets
from engine.config.parser import parse
from engine.training.trainer import learning_rate
from pretrain.config import DecoderConfig, EncoderConfig, MaskingConfig, ModelConfig, PretrainConfig
from pretrain.model import CrossCompletion
from pretrain.objectives.completion import Completion, take_first_target

NOISE, VIEWS = 16, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, views=VIEWS, size=64) for i in range(40)], 10)
    return folder


def batches(folder, targets, workers=0, steps=3):
    config = DataConfig(shards=str(folder), val_clips=4, pairs=PairRules(angle_max_deg=180))
    loader = open_loader(open_order(config, 8, 5), config, NOISE, 0, 1, workers, targets=targets)
    out = [{k: v.copy() for k, v in arrays.items()} for _, arrays in loader.batches(0, steps)]
    loader.close()
    return out


def places(row, seen):
    """Numbers of the images in a row that are the same image as an earlier one, by their
    pixels."""
    return [
        next(i for i, other in enumerate(row[: n + 1]) if np.array_equal(other, row[n]))
        for n in range(seen)
    ]


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_further_targets_keep_the_rules_and_differ_while_they_can(kind):
    clip = make_clip(0, views=4, instants=3)
    rules = PairRules(angle_max_deg=90)
    for seed in range(20):
        pairs = candidates(clip, kind, rules)
        a, b = pairs[seed % len(pairs)]
        some = {one for one, other in pairs if other == b}
        for count in range(1, 9):
            chosen = [a, *more_targets(clip, kind, rules, a, b, count, np.random.default_rng(seed))]
            assert len(chosen) == count + 1 and set(chosen) <= some
            times = [chosen.count(crop) for crop in some]
            assert max(times) - min(times) <= 1  # nobody twice before all had their turn


def test_one_target_is_the_first_of_several(folder):
    """The pair of a slot does not depend on how many targets share its reference."""
    for one, three in zip(batches(folder, 1), batches(folder, 3), strict=True):
        assert np.array_equal(one["pixels"][:, 0], three["pixels"][:, 0])
        assert np.array_equal(one["pixels"][:, 1], three["pixels"][:, 3])
        assert np.array_equal(one["tags"], three["tags"])


def test_each_image_comes_with_its_own_mask(tmp_path):
    random = np.random.default_rng(3)
    clips = [make_clip(i, views=VIEWS, size=64) for i in range(20)]
    clips = [
        dataclasses.replace(clip, masks=random.random(clip.masks.shape) < 0.5) for clip in clips
    ]
    write_shards(tmp_path, clips, 10)
    for arrays in batches(tmp_path, 1):
        for row, masks in enumerate(arrays["mask"].reshape(8, 2, -1)):
            bits = encode(clips[10 * tag(arrays, "shard")[row] + tag(arrays, "index")[row]])[
                "masks.bin"
            ]
            for mask, side in zip(masks, "ab", strict=True):
                crop = tag(arrays, side)[row]
                assert mask.tobytes() == bits[512 * crop : 512 * (crop + 1)]


def test_targets_are_other_crops_first_and_other_masks_then(folder):
    for arrays in batches(folder, 4):
        for row, kind in zip(arrays["pixels"], tag(arrays, "kind"), strict=True):
            # With four cameras and two instants: three targets across views, one across poses.
            assert places(row, 4) == (
                [0, 1, 2, 0] if PAIR_KINDS[kind] == "cross_view" else [0, 0, 0, 0]
            )
            assert not any(np.array_equal(target, row[4]) for target in row[:4])
        assert len(np.unique(arrays["noise"].reshape(-1, NOISE), axis=0)) == 8 * 5
        assert len(np.unique(arrays["numbers"].reshape(-1, 6), axis=0)) > 8 * 4


def test_any_workers_give_the_same_targets(folder):
    for one, other in zip(batches(folder, 3), batches(folder, 3, workers=2), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("left_out", [0.0, 0.5])
def test_sharing_a_reference_changes_no_loss(folder, left_out):
    """Against a batch in which each target has the reference for itself."""
    model = ModelConfig(
        64, 16, "rope", 100.0, EncoderConfig(48, 2, 3), decoder=DecoderConfig(32, 2, 2)
    )
    config = PretrainConfig(masking=MaskingConfig(reference_ratio=left_out), model=model)
    torch.manual_seed(0)
    module = Completion(CrossCompletion(config.model), config, False)
    shared = {
        name: torch.from_numpy(values) for name, values in batches(folder, 3, steps=1)[0].items()
    }
    alone = {"tags": shared["tags"].repeat_interleave(3, 0)}
    for name in ("pixels", "numbers", "mask", "noise"):
        each = shared[name].unflatten(1, (4, -1)) if shared[name].ndim == 2 else shared[name]
        pair = torch.stack([each[:, :3].flatten(0, 1), each[:, 3].repeat_interleave(3, 0)], 1)
        alone[name] = pair.flatten(1) if shared[name].ndim == 2 else pair
    found = []
    for batch in (shared, alone):
        module.zero_grad()
        losses = module(batch)
        losses.sum().backward()
        found.append((losses.detach(), [p.grad.clone() for p in module.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_pairs_and_learning_rate_count_targets(tmp_path, folder):
    run = tmp_path / "run"
    arguments = words(run, folder, "steps=4", "targets_per_reference=3", "data.workers=1")
    output = finish(start(arguments))
    assert "(96 pairs)" in output and "3 targets each" in output
    last = outcome(run)[-1][-1]
    assert (
        last["pairs"] == 4 * 8 * 3
        and {"loss/cross_view", "loss/cross_pose", "val/cross_view"} <= last.keys()
    )
    config = parse(PretrainConfig, arguments, "pretrain train")
    assert config.peak_lr == pytest.approx(config.optim.lr * 24 / 256)
    assert learning_rate(config, config.optim.warmup) == pytest.approx(config.peak_lr)


def test_two_processes_give_what_one_gives_with_several_targets(tmp_path, folder):
    runs = [tmp_path / "one", tmp_path / "two"]
    for run, processes in zip(runs, (1, 2), strict=True):
        finish(
            start(
                words(run, folder, "steps=6", "targets_per_reference=2", "grad_accum_steps=2"),
                processes,
            )
        )
    one, two = (outcome(run) for run in runs)
    for name, value in one[1].items():
        difference = np.frombuffer(value, np.float32) - np.frombuffer(two[1][name], np.float32)
        assert np.abs(difference).max() < 2e-5, name


def test_the_first_target_alone_is_what_the_loader_gives_for_one(folder):
    """But for crops, colours and noise, which are drawn anew for each number of targets."""
    one, three = (batches(folder, targets, steps=1)[0] for targets in (1, 3))
    cut = take_first_target(three, 3)
    assert {name: values.shape for name, values in cut.items()} == {
        name: values.shape for name, values in one.items()
    }
    assert all(np.array_equal(cut[name], one[name]) for name in ("pixels", "mask", "tags"))
    assert np.array_equal(cut["numbers"][:, 0], one["numbers"][:, 0])


def test_replay_tells_the_mean_loss_of_a_references_targets(tmp_path, folder):
    run = tmp_path / "run"
    finish(start(words(run, folder, "steps=4", "checkpoint.every=2", "targets_per_reference=3")))
    output = finish(
        start([str(run), "step=2", f"out={tmp_path / 'worst.png'}"], command="pretrain replay")
    )
    assert "slots 16 to 23" in output and (tmp_path / "worst.png").stat().st_size > 1000


def test_shares_of_weights_and_blocks_that_are_computed_twice_give_the_same(tmp_path, folder):
    runs = [tmp_path / "one", tmp_path / "shared"]
    finish(start(words(runs[0], folder, "steps=4", "targets_per_reference=2")))
    finish(
        start(
            words(
                runs[1],
                folder,
                "steps=4",
                "targets_per_reference=2",
                "parallel=fsdp",
                "activation_checkpointing=true",
            ),
            processes=2,
        )
    )
    one, shared = (outcome(run) for run in runs)
    for name, value in one[1].items():
        difference = np.frombuffer(value, np.float32) - np.frombuffer(shared[1][name], np.float32)
        assert np.abs(difference).max() < 2e-5, name

"""Heads of pre-training that say normals, parts and what the reference shows too: their targets
against loops over the maps, whom their gradients reach, what they cost, and what is refused."""

import math
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from runs import outcome, words

from data.bodies.anny_body import AnnyBody
from data.bodies.parts import PARTS
from data.cropping.geometry import find_longer
from data.format.surface import STEP_PX
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain import geometry, surface, weights
from pretrain.config import DecoderConfig, ModelConfig, PretrainConfig
from pretrain.flops import flops
from pretrain.geometry import Geometry
from pretrain.header import read_config
from pretrain.state_dict_adapters import to_croco
from pretrain.train import make_trainer, train

PAIR = "model.decoder.geometry=normals,parts,covisibility"
ALONE = ["model.decoder.geometry=normals,parts", "model.decoder.cross=false"]
WIDE = ["data.pairs.angle_max_deg=180", "data.workers=0"]
BONES = {
    "root": "torso",
    "pelvis": "torso",
    "spine": "torso",
    "clavicle": "torso",
    "shoulder": "torso",
    "neck": "head",
    "head": "head",
    "eye": "head",
    "upperarm": "upper_arm",
    "lowerarm": "lower_arm",
    "wrist": "hand",
    "finger": "hand",
    "metacarpal": "hand",
    "upperleg": "upper_leg",
    "lowerleg": "lower_leg",
    "foot": "foot",
    "toe": "foot",
}


def open_objective(run, shards, *more):
    config = parse(PretrainConfig, words(run, shards, *WIDE, *more), "pretrain train")
    trainer = make_trainer(config, Processes(0, 1, torch.device("cpu")))
    batch = trainer.task.to_device(next(iter(trainer.loader.batches(0, 1)))[1])
    trainer.close()
    return trainer.task.objective, batch


def test_a_vertex_is_of_the_part_whose_bone_moves_it_most():
    body = AnnyBody()
    moved = body.model.vertex_bone_indices.gather(
        1, body.model.vertex_bone_weights.argmax(1, keepdim=True)
    )[:, 0]
    found = geometry.read_parts()
    assert len(found) == len(moved) + 1 and found[0] == len(PARTS)
    for bone, part in zip(moved.tolist(), found[1:].tolist(), strict=True):
        name, _, side = body.joint_names[bone].partition(".")
        wanted = next(part for start, part in BONES.items() if name.startswith(start))
        if wanted not in ("torso", "head"):
            wanted = {"L": "left_", "R": "right_"}[side] + wanted
        assert PARTS[part] == wanted
    assert len(set(found.tolist())) == len(PARTS) + 1


def read_points(objective, maps, numbers, size):
    """[N lists of the values at a patch's points] of one image's map, by loops."""
    (rows, columns), points = objective.model.grid, surface.POINTS
    middle_x, middle_y, side = numbers[:3].tolist()
    step = side / (find_longer((rows, columns)) * points)
    out = [[] for _ in range(rows * columns)]
    for i in range(rows * points):
        for j in range(columns * points):
            y = middle_y + step * (i + 0.5 - rows * points / 2)
            x = middle_x + step * (j + 0.5 - columns * points / 2)
            if 0 <= y < size and 0 <= x < size:
                value = maps[int(y // STEP_PX), int(x // STEP_PX)]
                out[i // points * columns + j // points].append(value)
    return out


def test_targets_agree_with_loops_over_the_maps(tmp_path, people):
    objective, batch = open_objective(tmp_path / "run", people["body"], PAIR)
    masked = objective.pairs(batch)[3]
    true = objective.find_geometry(batch, masked)
    part_of = geometry.read_parts().tolist()
    region_of, beside = (table.numpy() for table in surface.read_regions())
    size, several = 64, 0
    for row in range(4):
        numbers = batch["numbers"][row]
        maps, normals = (batch[name][row].numpy() for name in ("vertex", "normal"))
        of_a, of_b = (read_points(objective, maps[k], numbers[k], size) for k in (0, 1))
        directions = read_points(objective, normals[0], numbers[0], size)
        shown = {region_of[v] for points in of_b for v in points if v}
        for place, patch in enumerate(masked[row].tolist()):
            here = [v for v in of_a[patch] if v]
            assert true.weight[row, place] == len(here) / surface.POINTS**2
            if not here:
                assert not true.normals[row, place].any()
                continue
            several += 1
            counts = Counter(part_of[v] for v in here)
            assert counts[int(true.parts[row, place])] == max(counts.values())
            mean = np.sum([n.astype(float) for n in directions[patch]], 0)
            mean /= np.linalg.norm(mean)
            np.testing.assert_allclose(true.normals[row, place], mean, atol=1e-5)
            both = [any(beside[region_of[v], region] for region in shown) for v in here]
            assert true.covisibility[row, place] == pytest.approx(np.mean(both))
    assert several > 20
    assert 0.05 < true.covisibility[true.weight > 0].mean() < 0.95


def test_losses_are_one_for_who_knows_nothing_and_errors_have_units():
    normals = torch.tensor([[[0.0, 0, -1], [1, 0, 0], [0, 0, 0]]])
    parts, share = torch.tensor([[2, 0, 0]]), torch.tensor([[0.25, 1.0, 0]])
    true = Geometry(torch.tensor([[1.0, 0.5, 0]]), normals, parts, share)
    nothing = {
        "normals": torch.tensor([[[0.0, 3, 0], [0, 1, 0], [0, 1, 0]]]),
        "parts": torch.zeros(1, 3, len(PARTS)),
        "covisibility": torch.zeros(1, 3, 1),
    }
    for loss in geometry.compare(nothing, true).values():
        torch.testing.assert_close(loss, torch.ones(1))
    exact = {
        "normals": 5 * normals,
        "parts": 50.0 * torch.nn.functional.one_hot(parts, len(PARTS)),
        "covisibility": share.logit(1e-6)[..., None],
    }
    losses = geometry.compare(exact, true)
    assert losses["normals"] < 1e-6 and losses["parts"] < 1e-6
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)) / 1.5  # the least that there is
    assert losses["covisibility"].item() == pytest.approx(entropy, abs=1e-3)
    errors = geometry.measure(nothing, true)
    torch.testing.assert_close(errors["normals"][0, :2], torch.tensor([90.0, 90.0]))
    assert errors["parts"].tolist() == [[1, 0, 0]]
    assert errors["covisibility"].tolist() == [[0.25, 0.5, 0.5]]
    none = Geometry(torch.zeros(1, 3), normals, parts, share)
    assert not any(loss.any() for loss in geometry.compare(nothing, none).values())


@pytest.mark.parametrize(
    "keys",
    [
        [PAIR],
        ALONE,
        [PAIR, "objective.name=views", "model.embedding.points=8"],
    ],
    ids=["pairs", "mae", "views"],
)
def test_geometry_is_learnt_by_the_encoder_from_the_person_alone(tmp_path, people, keys):
    more = ["objective.geometry_weight=0.5"]
    objective, batch = open_objective(tmp_path / "run", people["body"], *keys, *more)
    a, b, keep, masked, _, seen = objective.pairs(batch)
    heads = objective.model.decoder.more_heads
    assert list(heads) == keys[0].partition("=")[2].split(",")
    _, said = objective.predict(a, b, keep, masked, seen)
    for values in said.values():
        values.retain_grad()
    nothing = torch.zeros(len(a))
    loss = objective.add_geometry(nothing, said, batch, masked)
    true = objective.find_geometry(batch, masked)
    assert torch.equal(loss, 0.5 * sum(geometry.compare(said, true).values()))
    loss.sum().backward()
    for name, head in heads.items():
        assert head.weight.grad.abs().max() > 0
        off = said[name].grad[true.weight == 0]
        assert len(off) and not off.any()
    reached = [p.grad.abs().max() for p in objective.model.encoder.blocks.parameters()]
    assert min(reached) > 0
    pixels = objective.model.decoder.head.weight.grad
    assert pixels is None or not pixels.any()
    # Training's loss is what it was, and this.
    heads_off = [key for key in keys if "geometry" not in key]
    objective.zero_grad()
    whole = objective(batch)
    objective.add_geometry = lambda loss, *_: loss
    if heads_off == keys[1:]:
        torch.testing.assert_close(whole - objective(batch), loss.detach(), atol=1e-4, rtol=1e-4)


def test_heads_are_off_by_default(tmp_path, people):
    plain, batch = open_objective(tmp_path / "plain", people["body"])
    assert not plain.reads_surface and "vertex" not in batch
    assert not plain.model.decoder.more_heads
    config, with_heads = ModelConfig(64, 16), ModelConfig(64, 16)
    with_heads.decoder = DecoderConfig(geometry=["covisibility", "normals"])
    # 3 + 1 values of each of 12 masked patches.
    assert flops(with_heads, 4) - flops(config, 4) == 2 * 12 * 512 * 4


def test_a_run_resumes_exactly_and_its_weights_keep_their_heads(tmp_path, people):
    keys = [*WIDE, PAIR, "steps=4", "checkpoint.every=2", "log.val_every=4"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    arguments = words(whole, people["body"], *keys)
    assert train(parse(PretrainConfig, arguments, "pretrain train")) == 0
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints/step-00000004")
    assert train(parse(PretrainConfig, words(half, people["body"], *keys), "pretrain train")) == 0
    assert outcome(half)[:3] == outcome(whole)[:3]
    line = outcome(whole)[-1][-1]
    assert 0 < line["geometry/normals"] < 180
    assert 0 < line["geometry/parts"] <= 1 and 0 < line["geometry/covisibility"] < 1
    model = weights.load(whole)
    assert list(model.decoder.more_heads) == ["normals", "parts", "covisibility"]
    with pytest.raises(UserError, match="'geometry=depth' in here: .*none of normals"):
        read_config({"decoder": {"geometry": ["normals", "depth"]}}, "here")
    with pytest.raises(UserError, match="here: its model config has geometry='depth', which is no"):
        read_config({"decoder": {"geometry": "depth"}}, "here")
    again, _ = open_objective(tmp_path / "again", people["body"], PAIR, f"init={whole}")
    for name, value in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    with pytest.raises(UserError, match=r"geometry=\['normals'.*this run has model.decoder.geom"):
        open_objective(tmp_path / "other", people["body"], f"init={whole}")
    with pytest.raises(UserError, match=r"model.decoder.geometry=\['normals'.*CroCo"):
        to_croco(model.config, model.state_dict())


def test_a_shard_without_maps_is_named(tmp_path):
    write_shards(tmp_path, [make_clip(i, size=56) for i in range(20)], 10)
    said = r"geometry=normals,parts, but no clip of shard .*\.tar has surface.npz, .*surface=true"
    with pytest.raises(UserError, match=said):
        open_objective(tmp_path / "run", tmp_path, *ALONE)
    # Masks are at random where there are no maps, but not everywhere; without validation too.
    said = r"objective.masks=seen, but no clip of shard .*\.tar has surface.npz, .*surface=true"
    with pytest.raises(UserError, match=said):
        open_objective(tmp_path / "run", tmp_path, "objective.masks=seen", "data.val_clips=0")


@pytest.mark.parametrize(
    "keys, said",
    [
        ([PAIR, "model.decoder.cross=false"], "covisibility, but model.decoder.cross=false"),
        (["model.decoder.geometry=parts,parts"], "geometry=parts,parts names a head twice"),
        (["model.decoder.geometry=depth"], "none of normals, parts, covisibility"),
        ([PAIR, "objective.references=same"], "objective.references=same, but model.decoder.geo"),
        (["objective.geometry_weight=2"], "geometry_weight=2, but model.decoder.geometry is not"),
        (
            [
                *ALONE,
                "objective.name=teacher",
                "objective.teacher=x",
                "model.decoder.latents=32",
            ],
            "objective.name=teacher with model.decoder.geometry=normals,parts",
        ),
    ],
)
def test_heads_that_nothing_is_known_for_are_refused(tmp_path, keys, said):
    with pytest.raises(UserError, match=said):
        parse(PretrainConfig, words(tmp_path / "run", tmp_path, *keys), "pretrain train")

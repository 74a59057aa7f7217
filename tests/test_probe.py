"""The 3D probe: its regression against numpy, its split against the subjects, its rows against what
is known beforehand."""

import json

import numpy as np
import pytest
import timm
import torch
from clips import make_clip, write_shards
from runs import ROOT, finish, start, words
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from data.bodies.anny import ANNY
from data.bodies.base import BODY_KEYPOINTS
from data.format.index import read_index
from data.format.shards import find_shards
from data.loading.augment import denormalise
from data.storage.shard_store import Store
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from pretrain import encoders, probe, probe_split, ridge, weights
from pretrain.config import ModelConfig, PretrainConfig
from pretrain.model import CrossCompletion
from pretrain.train import make_trainer

ONE, STORE = Processes(0, 1, torch.device("cpu")), Store(None)
SMALL = {"image_size": 48, "patch": 8}


@pytest.fixture(scope="module")
def split(people):
    return probe.read_split(str(people["body"]), 24, "body", STORE)


def small_model():
    config = ModelConfig(**SMALL)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 2, 2
    config.decoder.width, config.decoder.depth, config.decoder.heads = 32, 1, 2
    return config


def augmented(x, y, x_new, chosen):
    """Ridge by ordinary least squares on rows for the penalty, after standardising: numpy's lstsq
    knows no ridge."""
    mean, std = x.mean(0), x.std(0)
    x, x_new, centre = (x - mean) / std, (x_new - mean) / std, y.mean(0)
    rows = np.concatenate([x, np.sqrt(chosen * len(x)) * np.eye(x.shape[1])])
    right = np.concatenate([y - centre, np.zeros((x.shape[1], y.shape[1]))])
    return x_new @ np.linalg.lstsq(rows, right, rcond=None)[0] + centre


@pytest.mark.parametrize("rows,columns", [(40, 12), (20, 50)])
def test_the_regression_is_least_squares_on_the_augmented_system(rows, columns):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows + 7, columns)) * random.uniform(0.1, 9, columns) + 5
    y = 4 * random.normal(size=(rows + 7, 6))
    y[:, :3] += x[:, :3]
    x, x_new, y, y_new, errors = x[7:], x[:7], y[7:], y[:7], []
    for chosen in ridge.LAMBDAS:
        expected = augmented(x, y, x_new, chosen)
        found = ridge.predict(*map(torch.from_numpy, (x, y, x_new)), chosen).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
        errors.append(((expected - y_new) ** 2).mean())
    best = ridge.choose(
        *map(torch.from_numpy, (x, y, x_new)),
        lambda guess: float(((guess.numpy() - y_new) ** 2).mean()),
    )
    assert best == ridge.LAMBDAS[int(np.argmin(errors))] and 0 < np.argmin(errors) < len(errors) - 1


def test_nobody_is_in_two_parts():
    subjects = [f"p{i % 37}" for i in range(400)]
    part = probe_split.part_people(subjects, "shards")
    for name in set(subjects):
        assert len({p for p, s in zip(part, subjects, strict=True) if s == name}) == 1
    assert 0.2 < np.mean(part == 2) < 0.3 and 0.1 < np.mean(part == 1) < 0.2
    assert (probe_split.part_people(subjects[::-1], "shards")[::-1] == part).all()
    with pytest.raises(UserError, match="40 clips in shards are of 2 people"):
        probe_split.part_people(["a", "b"] * 20, "shards")


def test_joints_are_those_that_bodies_are_measured_on(bodies):
    body = bodies["anny"]
    assert list(ANNY.joint_names) == body.joint_names
    assert tuple(ANNY.keypoints) == BODY_KEYPOINTS == tuple(body.keypoint_names)
    assert ANNY.index_keypoints() == body.keypoint_index.tolist()
    for side in ("left_hand", "right_hand"):
        assert ANNY.parts[side][0] == f"wrist.{side[0].upper()}"


def test_a_split_holds_each_crops_joints_in_its_cameras_frame(people, split):
    assert (
        len(set(split.clip)) == 24 and len(split.places) == 96 and split.joints.shape == (96, 21, 3)
    )
    again = probe.read_split(str(people["body"]), 24, "body", STORE)
    assert (again.places == split.places).all() and (again.part == split.part).all()
    reader = probe_split.open_reader("body", STORE)
    for row in (0, 50):
        shard, index, crop = split.places[row]
        clip, _, labels, known = reader.usable(split.paths[shard], index)
        rotation = np.asarray(clip.crops[crop].Rt)[:, :3]
        camera = np.array([rotation @ point for point in labels["joints"][labels["instant"][crop]]])
        np.testing.assert_allclose(
            split.joints[row], camera[ANNY.index_keypoints()] - camera[0], atol=1e-6
        )
    hands = probe.read_split(str(people["hand"]), 12, "hand", STORE)
    assert hands.joints.shape[1] == 20
    gone = {reader.clip(split.paths[s], i)[0].subject for s, i, _ in split.places[:4].tolist()}
    less = probe.read_split(str(people["body"]), 20, "body", STORE, gone)
    assert not gone & {reader.clip(less.paths[s], i)[0].subject for s, i, _ in less.places.tolist()}
    with pytest.raises(UserError, match=r"probe.clips=25, but .* has 24 clips"):
        probe.read_split(str(people["body"]), 25, "body", STORE)


def test_a_left_hand_is_read_as_a_right_one_in_a_mirror(people, monkeypatch):
    split = probe.read_split(str(people["hand"]), 24, "hand", STORE)
    reader, seen = probe_split.open_reader("hand", STORE), []
    kinds = [reader.clip(split.paths[s], i)[0].crops[c].kind for s, i, c in split.places.tolist()]
    left = kinds.index("left_hand")
    probe.features(
        encoders.Frozen(lambda images: seen.append(images) or images, 64), split, "hand", ONE
    )
    shard, index, crop = split.places[left].tolist()
    clip, members = reader.clip(split.paths[shard], index)
    image = reader.image(split.paths[shard], members, crop)[:, ::-1].astype(np.float32) / 255
    shown = denormalise(torch.cat(seen)[left]).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown, image, atol=0.01)
    _, _, labels, _ = reader.usable(split.paths[shard], index)
    points = labels["joints"][labels["instant"][crop]][ANNY.index_part("left_hand")]
    points = points @ np.asarray(clip.crops[crop].Rt)[:, :3].T
    np.testing.assert_allclose(split.joints[left], (points - points[0]) * [-1, 1, 1], atol=1e-6)


def test_rows_whose_error_is_known(split):
    """The mean pose against SciPy, and features that hold the joints themselves."""
    got = probe.score(split, None)
    mean, test = split.joints[split.part < 2].mean(0), split.joints[split.part == 2]
    p = mean - mean.mean(0)
    for true, pa, error in zip(test, got["pa_mpjpe"], got["mpjpe"], strict=True):
        q = true - true.mean(0)
        rotated = Rotation.align_vectors(q, p)[0].apply(p)
        rotated *= (rotated * q).sum() / (p * p).sum()
        assert pa == pytest.approx(np.linalg.norm(rotated - q, axis=1).mean() * 1000, abs=1e-6)
        assert error == pytest.approx(np.linalg.norm(mean - true, axis=1).mean() * 1000, abs=1e-6)
    assert got["lambda"] is None
    told = probe.score(split, torch.from_numpy(split.joints).flatten(1).float())
    assert told["mpjpe"].mean() < 0.25 * got["mpjpe"].mean() and told["lambda"] in ridge.LAMBDAS


def test_ranks_share_the_crops(split):
    encoder = encoders.random(small_model(), 0, ONE.device)
    whole, parts = probe.features(encoder, split, "body", ONE), []
    assert whole.shape == (96, 16 * 32)
    for rank in range(5):
        processes = Processes(rank, 5, ONE.device)
        processes.sum = lambda tensor: parts.append(tensor.clone()) or tensor
        probe.features(encoder, split, "body", processes)
    assert torch.allclose(sum(parts), whole, atol=1e-5)
    assert [int(part.any(1).sum()) for part in parts] == [20, 19, 19, 19, 19]


def test_pooling_averages_tokens_of_each_cell():
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    assert probe.pooled(maps)[0, :2].tolist() == [(0 + 1 + 8 + 9) / 4, (2 + 3 + 10 + 11) / 4]


def test_a_timm_model_gives_its_own_features(tmp_path, split):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    settings = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 1000,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 1000,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    images = torch.rand(2, 3, 224, 224)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        expected = model.forward_features((images - 0.5) / 0.5)[:, 1:]
    for spec in (str(tmp_path), f"vit_tiny_patch16_224:{tmp_path / 'model.safetensors'}"):
        encoder = encoders.from_timm(spec, ONE.device)
        found = encoder((images - mean) / std)
        assert encoder.size == 224 and found.shape == (2, 192, 14, 14)
        assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-4)
    for spec in (
        str(tmp_path / "nowhere"),
        "vit_tiny_patch16_224:" + str(tmp_path / "nowhere.pth"),
    ):
        with pytest.raises(UserError, match="neither a folder"):
            encoders.from_timm(spec, ONE.device)
    with pytest.raises(UserError, match="timm cannot load it"):
        encoders.from_timm(f"vit_small_patch16_224:{tmp_path / 'model.safetensors'}", ONE.device)


def config_of(shards, *more):
    file, *rest = words(
        "run", shards, "data.workers=0", "log.probe_every=4", "probe.clips=24", *more
    )
    return parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained_on")
    write_shards(folder, [make_clip(i, size=56) for i in range(40)], 20)
    return folder


def test_a_run_in_training_logs_its_rows(people, shards):
    trainer = make_trainer(config_of(shards, f"probe.shards={people['body']}"), ONE)
    line = trainer.task.probe(trainer.shares)
    rows = {name.removeprefix("probe/") for name in line}
    errors = {
        f"{key}{row}" for row in ("", "_constant", "_random") for key in ("pa_mpjpe", "mpjpe")
    }
    assert rows == errors | {"lambda", "lambda_random"}
    # Untrained weights are a random encoder of the seed; the rows that stay are not computed again.
    with torch.no_grad():
        trainer.model.encoder.blocks[0].mlp.fc2.weight.mul_(3)
    again = trainer.task.probe(trainer.shares)
    assert again["probe/pa_mpjpe"] != line["probe/pa_mpjpe"]
    assert all(
        again[name] == line[name] for name in line if name.endswith(("_constant", "_random"))
    )


def test_what_is_trained_on_is_no_probe(people, shards, tmp_path):
    with pytest.raises(UserError, match="log.probe_every=4, but probe.shards is not set"):
        config_of(shards)
    with pytest.raises(UserError, match="is the shard .* of source 'all', which is trained on"):
        make_trainer(config_of(people["body"], f"probe.shards={people['body']}"), ONE)
    # Other bytes and another shard, but a clip of the same key.
    (tmp_path / "more").mkdir()
    write_shards(tmp_path / "more", [make_clip(i, size=48) for i in range(39, 60)], 21)
    with pytest.raises(UserError, match="clip clip00039 of .*more.* is also in .*trained_on"):
        make_trainer(config_of(shards, f"probe.shards={tmp_path / 'more'}"), ONE)


def test_the_command_prints_a_row_an_encoder(people, tmp_path, capsys):
    torch.manual_seed(1)
    path, model = tmp_path / "a.safetensors", CrossCompletion(small_model())
    weights.save_model(model, path)
    command = ["probe", str(path), f"shards={people['body']}", "clips=24", "device=cpu"]
    assert probe.main(command[1:]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "24 clips" in lines[0] and "96 body crops" in lines[0]
    warning = lines.pop(1)  # a file that was saved without a word on what it saw
    assert (
        warning.startswith("warning: what pre-training saw is unknown: leakage cannot be excluded")
        and str(path) in warning
    )
    assert [line.split("  ")[0].strip() for line in lines[2:]] == [
        "mean pose",
        "random encoder",
        str(path),
    ]
    split = probe.read_split(str(people["body"]), 24, "body", STORE)
    expected = probe.score(
        split, probe.features(encoders.of_network(model.eval()), split, "body", ONE)
    )
    assert (
        f"{expected['pa_mpjpe'].mean():.1f} +-" in lines[4]
        and lines[4].split()[-1] == f"{expected['lambda']:.3g}"
    )
    assert finish(start(command, processes=2, command="pretrain")).splitlines()[-3:] == lines[2:]
    with pytest.raises(UserError, match="shards is not set"):
        probe.main([str(path)])
    # A run of before weights said what they saw, whose manifest has the probe's shards.
    place, paths = (
        tmp_path / "run" / "checkpoints" / "step-00000002",
        find_shards(str(people["body"])),
    )
    place.mkdir(parents=True)
    weights.save_model(model, place / "model.safetensors")
    record = {
        "shards": [p.rsplit("/", 1)[-1] for p in paths],
        "digests": [read_index(p).digest for p in paths],
        "counts": [8, 8, 5],
    }
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"sources": {"all": record}}))
    with pytest.raises(
        UserError, match="shard-000000.tar is a shard of which .* was trained on 8 clips"
    ):
        probe.main([str(place), *command[2:]])

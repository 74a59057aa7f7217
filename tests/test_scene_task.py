"""Everybody in an image at once: anchors, targets, decoding, training and resuming."""

import json
import shutil

import numpy as np
import pytest
import torch
from drawn_scenes import write_scenes
from runs import ROOT, apart, finish, outcome, start

import finetune
from data.bodies.models import open_model
from data.format.labels import HIDDEN, OUTSIDE, SEEN
from data.loading.frame_build import open_frame_loader
from data.loading.frames import TAGS
from data.sampling.seen import Seen
from engine.checkpoint import checkpoints
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate
from finetune.evaluation.scene.truth import open_frames
from finetune.heads.base import pose_body
from finetune.means import flatten_columns
from finetune.scene.anchors import ORDER, choose_joints, draw_heat, place_anchors, token_centres
from finetune.scene.decode import to_span, turn_to_ray
from finetune.scene.find import find_people
from finetune.scene.judge import name_measures, sum_errors
from finetune.scene.losses import pair_people
from finetune.scene.network import SceneAnswer
from finetune.scene.people import make_found
from finetune.scene.predictor import ScenePredictor
from finetune.train import make_trainer, replay, train

TINY = [
    "model.encoder.width=32",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "scene.side=64",
    "scene.width=32",
    "scene.heads=2",
    "scene.depth=1",
    "scene.token_proj_dim=4",
    "scene.queries=6",
    "data.rules.people_max=4",
    "coarse_vertices=32",
    "batch=4",
    "optim.warmup=2",
    "log.every=2",
    "log.val_every=4",
    "log.val_frames=2",
    "log.images_every=0",
    "log.wandb=off",
    "data.val_clips=2",
    "data.workers=1",
    "device=cpu",
    "precision=float32",
]


def config_of(run, shards, *more):
    words = [f"run={run}", f"data.shards={shards}", *TINY, *more]
    path = ROOT / "configs/finetune/scene_tiny.yaml"
    return parse(FinetuneConfig, [str(path), *words], "finetune train")


def task_of(run, shards, *more, rank=0, world=1):
    trainer = make_trainer(
        config_of(run, shards, *more), Processes(rank, world, torch.device("cpu"))
    )
    return trainer.task, trainer.loader


def take_batch(task, loader, step):
    for _, arrays in loader.batches(step, step + 1):
        task.prepare_step(step, None)
        task.to_device(arrays)
        return {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, bodies):
    """12 scenes of two people, two frames each."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 12, bodies["anny"])


def see(*names, hidden=()):
    from data.bodies.anny_layout import ANNY

    visible = torch.full((1, 1, 104), OUTSIDE, dtype=torch.uint8)
    for name in names:
        visible[0, 0, ANNY.joint_names.index(name)] = SEEN
    for name in hidden:
        visible[0, 0, ANNY.joint_names.index(name)] = HIDDEN
    joint, there = choose_joints(visible)
    return ANNY.joint_names[int(joint)] if there else None


def test_the_anchor_is_the_head_or_what_is_seen_first():
    assert sorted(ORDER) == list(range(104))
    assert see("head", "neck01", "root") == "head"
    assert see("neck01", "root", hidden=["head"]) == "head"
    assert see("root", "wrist.L", hidden=["neck01"]) == "root"
    assert see("finger2-3.R", hidden=["neck01", "spine02"]) == "finger2-3.R"
    assert see(hidden=["spine02", "wrist.L"]) == "spine02"
    assert see() is None


def test_two_people_in_one_token_have_a_place_each():
    pixel = torch.tensor([[[9.0, 9], [10, 14], [12, 12], [40, 9], [-1, 5], [9, 9]]])
    depth = torch.tensor([[3.0, 2, 4, 1, 1, 1]])
    there = torch.tensor([[True] * 5 + [False]])
    anchors = place_anchors(there, pixel, torch.zeros(1, 6).long(), depth, (4, 6), 8)
    # The third in a token, who is outside and who is not there are not asked for.
    assert anchors.there.tolist() == [[True, True, False, True, False, False]]
    assert anchors.token[0, [0, 1, 3]].tolist() == [7, 7, 11]
    assert anchors.slot[0, [0, 1, 3]].tolist() == [1, 0, 0]
    heat = draw_heat(anchors, (4, 6))
    assert heat.sum() == 3 and heat[0, 7].tolist() == [1, 1] and heat[0, 11].tolist() == [1, 0]


def answer_truly(truth, body, patch, grid, queries=6):
    """The SceneAnswer of a network that knows everything."""
    anchors, count = truth.anchors, len(truth.K)
    heat = 20 * draw_heat(anchors, grid) - 10
    blank = {
        "token": torch.zeros(count, queries).long(),
        "slot": torch.zeros(count, queries).long(),
        "centre": torch.zeros(count, queries, 2),
        "coarse_span": torch.zeros(count, queries),
        "span": torch.zeros(count, queries),
        "offset": torch.zeros(count, queries, 2),
        "confidence": torch.full((count, queries), -9.0),
        "anchor": torch.zeros(count, queries, 104),
        "pose": torch.eye(3)[:, :2].T.flatten().expand(count, queries, 104, 6).clone(),
        "shape": torch.zeros(count, queries, 6),
        "face": torch.zeros(count, queries, 52),
        "embedding": torch.zeros(count, queries, 4),
    }
    pairs = pair_people(anchors.there)
    image, query, place = pairs.image, pairs.query, pairs.place
    found = truth.take_parameters(body, image, place)
    K, pixel = truth.K[image], anchors.pixel[image, place]
    root = turn_to_ray(found.pose[:, 0], K, pixel)
    pose = torch.cat([root[:, None], found.pose[:, 1:]], 1)
    centre = token_centres(anchors.token[image, place], grid[1], patch)
    joint = anchors.joint[image, place]
    values = {
        "token": anchors.token[image, place],
        "slot": anchors.slot[image, place],
        "centre": centre,
        "span": to_span(truth.depth[image, place], K, patch),
        "offset": (pixel - centre) / patch,
        "confidence": torch.full((len(image),), 9.0),
        "anchor": torch.nn.functional.one_hot(joint, 104).float(),
        "pose": flatten_columns(pose),
        "shape": body.shape_space.to_free(found.shape),
        "face": truth.frames.face[image, place],
    }
    for name, value in values.items():
        blank[name][image, query] = value
    return SceneAnswer(heat, **blank)


def test_true_answers_give_the_labelled_meshes(shards):
    """Of cut, turned and mirrored images; to a millimetre, and all measures are perfect."""
    task, loader = task_of("none", shards, "data.augment.rotation_deg=25", "data.workers=0")
    module, body, patch = task.step_module, task.body, task.model.patch
    seen = set()
    for step in range(4):
        batch = take_batch(task, loader, step)
        truth = module.tell(batch)
        grid = tuple(side // patch for side in module.size)
        answer = answer_truly(truth, body, patch, grid)
        found = find_people(answer, truth.K, body, patch, 0.5)
        pairs = pair_people(truth.anchors.there)
        true = pose_body(body, truth.take_parameters(body, pairs.image, pairs.place))
        assert len(found.image) == len(pairs.image) > 0
        assert torch.allclose(found.bodies.vertices, true.vertices, atol=1e-3)
        # A mirrored body's rig is not quite the mirror's: 6 mm at the neck.
        apart = (found.bodies.joints - truth.frames.joints[truth.bodies]).abs().amax((1, 2))
        flipped = batch["numbers"][found.image, 4] > 0
        assert (apart < torch.where(flipped, 8e-3, 1e-3)).all()
        # The points of the mesh fall on the labels in the image.
        flat = found.bodies.joints @ truth.K[found.image].mT
        flat = flat[..., :2] / flat[..., 2:]
        assert torch.allclose(flat, truth.frames.joint_points[truth.bodies], atol=0.3)
        measures = name_measures(sum_errors(found, truth, body, patch).tolist())
        assert measures["val/f1"] == 1 and measures["val/mpjpe"] < 1
        assert measures["val/translation"] < 1
        people = make_found(found, truth.K, body)
        assert sum(map(len, people)) == len(found.image)
        seen |= set(batch["numbers"][:, 4].tolist())
        total = module_losses(task, answer, truth)
        for name in ("offset", "depth", "rotation", "joints", "vertices", "keypoints_2d", "face"):
            assert total[name].abs().max() < 1e-3, name
    assert seen == {0, 1}


def module_losses(task, answer, truth):
    from finetune.scene.losses import compare_scene

    answer.coarse_span = answer.span
    return compare_scene(answer, truth, task.step_module.body, task.model.patch)


def test_a_true_answer_twice_is_one_person(shards):
    task, loader = task_of("none", shards, "data.workers=0")
    batch = take_batch(task, loader, 0)
    truth = task.step_module.tell(batch)
    patch = task.model.patch
    grid = tuple(side // patch for side in task.step_module.size)
    answer = answer_truly(truth, task.body, patch, grid)
    count = int(truth.anchors.there[0].sum())
    # A neighbouring token says the same of the first person, less surely.
    for name in ("span", "anchor", "pose", "shape", "face", "centre", "offset"):
        getattr(answer, name)[0, count] = getattr(answer, name)[0, 0]
    answer.centre[0, count, 0] += patch
    answer.offset[0, count, 0] -= 1
    answer.confidence[0, count] = 2.0
    found = find_people(answer, truth.K, task.body, patch, 0.5)
    assert (found.image == 0).sum() == count
    # Somebody behind that person, in the same token, looks smaller and stays.
    answer.span[0, count] = answer.span[0, 0] + 0.4
    found = find_people(answer, truth.K, task.body, patch, 0.5)
    assert (found.image == 0).sum() == count + 1


def test_neighbouring_slots_show_one_scene(shards):
    share = {}
    for wanted in (0, 1):
        task, loader = task_of("none", shards, f"scene.pair_share={wanted}", "data.workers=0")
        same = []
        for step in range(6):
            batch = take_batch(task, loader, step)
            track = batch["track"]
            for k in range(0, len(track), 2):
                mine, other = (set(track[k + i].tolist()) - {0} for i in (0, 1))
                same.append(bool(mine & other))
                index = batch["tags"][k : k + 2, TAGS.index("index")]
                assert not wanted or index[0] != index[1]
        share[wanted] = np.mean(same)
    assert share[1] == 1 and share[0] < 0.5


def test_ranks_and_parts_give_the_loss_of_the_whole(shards):
    """The same gradient however a batch is divided; every weight has one."""
    task, loader = task_of("none", shards, "data.workers=0")
    batch = take_batch(task, loader, 1)
    loss, meters = task.compute_loss(task.step_module, batch)
    loss.backward()
    whole = {name: p.grad.clone() for name, p in task.model.named_parameters()}
    assert [n for n, g in whole.items() if not g.abs().max() > 0 and n != "no_ray"] == []
    task.model.zero_grad()
    sums = 0
    for rank in (0, 1):
        config, order = task.config, task.frame_order
        part_loader = open_frame_loader(order, config.data, config.sizes_at(0), rank, 2, 0)
        part = take_batch(task, part_loader, 1)
        assert len(part["tags"]) == 2
        piece, more = task.compute_loss(task.step_module, part)
        piece.backward()
        sums = sums + more
        assert torch.equal(part["pixels"], batch["pixels"][2 * rank : 2 * rank + 2])
    assert torch.allclose(sums, meters, rtol=1e-4)
    for name, p in task.model.named_parameters():
        assert torch.allclose(
            p.grad, whole[name], atol=1e-5 + 1e-3 * float(whole[name].abs().max())
        )


def test_frames_without_people_still_train(shards):
    task, loader = task_of("none", shards, "data.workers=0")
    batch = take_batch(task, loader, 0)
    batch["present"] = torch.zeros_like(batch["present"])
    loss, _ = task.compute_loss(task.step_module, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in task.model.parameters())


def test_people_of_keypoints_alone_are_learnt_from(shards):
    """Points of a true answer that lie where they are labelled cost nothing; without a camera."""
    task, loader = task_of("none", shards, "data.workers=0")
    batch = take_batch(task, loader, 0)
    batch["body_known"] = torch.zeros_like(batch["body_known"])
    batch["camera_known"] = torch.zeros_like(batch["camera_known"])
    found = task.step_module(batch)
    assert found["bodies"].sum() == 0 and found["people"].sum() > 0
    assert (found["keypoints_2d"][found["people"] > 0] > 0).all()
    assert found["rotation"].abs().max() == 0
    loss, _ = task.compute_loss(task.step_module, batch)
    loss.backward()
    assert task.model.answers["pose"].weight.grad.abs().max() > 0


RUN = [
    "steps=6",
    "checkpoint.every=2",
    "log.val_every=6",
    "scene.late_side=80",
    "scene.late_steps=3",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    """A run that nobody disturbed, with larger images in its last three steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    more = [*RUN, "log.images_every=6", "log.images=2"]
    assert train(config_of(folder, shards, *more)) == 0
    return folder


def test_a_run_resumes_exactly(run, tmp_path, shards):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"val/recall", "loss/heat", "loss/joints"} <= set(lines[-1])
    assert (run / "images" / "step-00000006.png").is_file()
    for step in (2, 4):  # before and after the images grew
        stopped = tmp_path / f"stopped{step}"
        shutil.copytree(run, stopped)
        for later in range(step + 2, 7, 2):
            shutil.rmtree(stopped / "checkpoints" / f"step-{later:08d}")
        assert checkpoints.newest(stopped).name == f"step-{step:08d}"
        more = [*RUN, "log.images_every=6", "log.images=2"]
        assert train(config_of(stopped, shards, *more)) == 0
        assert outcome(run) == outcome(stopped)


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_end_where_one_does(run, tmp_path, shards, parallel):
    more = [f"run={tmp_path / 'two'}", f"data.shards={shards}", *TINY, *RUN, f"parallel={parallel}"]
    words = ["configs/finetune/scene_tiny.yaml", *more]
    finish(start(words, processes=2, command="finetune train"))
    name, weights, _, lines = outcome(run)
    other_name, other, _, other_lines = outcome(tmp_path / "two")
    assert name == other_name
    for line, there in zip(lines, other_lines, strict=True):
        assert line["loss/total"] == pytest.approx(there["loss/total"], rel=1e-4)
    found = [
        {n: np.frombuffer(v, np.float32) for n, v in each.items()} for each in (weights, other)
    ]
    assert apart(*found) < 1e-5


def test_a_step_is_replayed(run, capsys, tmp_path):
    out = tmp_path / "batch.png"
    assert replay([str(run), "step=2", f"out={out}"]) == 0
    losses = {
        line["step"]: line["loss/total"]
        for line in map(json.loads, (run / "log.jsonl").read_text().splitlines())
    }
    said = capsys.readouterr().out
    assert "step 2, slots 8 to 11" in said and out.is_file()
    mean = float(said.partition("mean loss ")[2].partition(",")[0])
    assert mean == pytest.approx(losses[2], rel=0.5)


def test_a_run_is_opened_and_finds_what_the_task_finds(run, shards, tmp_path):
    predictor = ScenePredictor(run, "cpu", threshold=0.0)
    assert predictor.side == 80
    task, _ = task_of(tmp_path / "other", shards, f"init={run}", "init_head=true", *RUN)
    state = task.model.state_dict()
    assert all(torch.equal(state[n], v) for n, v in predictor.model.state_dict().items())
    (size, batch), *_ = task.take_val([0])
    task.step_module.size = size
    task.model.eval()
    answer, truth = task.step_module.look(batch)
    wanted = find_people(answer, truth.K, task.body, task.model.patch, 0.0)
    width, height = batch["size"][0].int().tolist()
    image = batch["pixels"][0, :height, :width].numpy()
    found = predictor(image, batch["K"][0].numpy())
    assert len(found) == len(wanted.image)
    # Images are scaled by OpenCV here and by torch there.
    for one, score in zip(found, wanted.score.tolist(), strict=True):
        assert one.score == pytest.approx(score, abs=0.05)
        assert one.embedding.shape == (32,)
        assert np.allclose(one.person.intrinsics, batch["K"][0].numpy(), atol=1e-3)
    two = predictor.find_in([image, image[:, ::-1]], [batch["K"][0].numpy(), None])
    assert [one.score for one in two[0]] == pytest.approx([one.score for one in found], abs=1e-4)
    # A copy of the weights' file alone is enough.
    copy = tmp_path / "scene.safetensors"
    shutil.copy(predictor.checkpoint, copy)
    assert ScenePredictor(copy, "cpu").side == 80
    for place in (run, copy):
        with pytest.raises(UserError, match="ScenePredictor opens it"):
            finetune.load(place, "cpu")


def test_other_networks_and_keys_are_refused(shards, tmp_path):
    with pytest.raises(UserError, match="is no network for whole images"):
        ScenePredictor("body", "cpu")
    with pytest.raises(UserError, match="scene.queries=6 is below data.rules.people_max=9"):
        config_of("none", shards, "data.rules.people_max=9")
    with pytest.raises(UserError, match="a part of the batch has 3 of them"):
        config_of("none", shards, "batch=3")
    with pytest.raises(UserError, match="late_side=96 and scene.late_steps=0"):
        config_of("none", shards, "scene.late_side=96")


def test_a_run_is_evaluated_on_the_frames_that_it_left_out(run, shards, capsys):
    assert evaluate([str(run), "scene.least_score=0", "examples=1"]) == 0
    assert "everybody at once" in capsys.readouterr().out
    found = json.loads((run / "evaluation/scenes.json").read_text())
    assert (found["frames"], found["step"]) == (2, 6)
    assert found["rows"][0]["people"] == 4
    # Whoever it answers with is judged, right or wrong.
    predictor, frames = (
        ScenePredictor(run, "cpu", threshold=0.0),
        open_frames(str(shards), Seen(), 99),
    )
    left_out = [one for one in frames.read(open_model("anny"), 0.1) if one.scene == "scene-11"]
    told = sum(len(predictor(one.image, one.K)) for one in left_out)
    assert found["rows"][0]["found"] + found["rows"][0]["false"] == told > 0
    with pytest.raises(UserError, match="finds people without boxes"):
        evaluate([str(run), "scene.perfect_finder=true"])


def test_whom_nobody_labelled_is_no_error_to_find(shards):
    """Tokens that the labels tell nothing of: neither heat nor confidence nor precision."""
    task, loader = task_of("none", shards, "data.workers=0")
    batch = take_batch(task, loader, 0)
    patch = task.model.patch
    grid = tuple(side // patch for side in task.step_module.size)
    alone = {**batch, "present": torch.zeros_like(batch["present"])}
    ignored = {**alone, "ignore": torch.full_like(batch["ignore"], 255)}
    truths = [task.step_module.tell(each) for each in (batch, alone, ignored)]
    answer = answer_truly(truths[0], task.body, patch, grid)
    found = find_people(answer, truths[0].K, task.step_module.body, patch, 0.5)
    for truth, wanted in zip(truths[1:], (len(found.image), 0), strict=True):
        losses = module_losses(task, answer, truth)
        assert (losses["heat"].sum() > 1) == (losses["confidence"].sum() > 1) == (wanted > 0)
        sums = sum_errors(found, truth, task.step_module.body, patch)
        assert sums[:3].tolist() == [0, wanted, 0]


def test_a_few_frames_are_learnt_within_seconds(tmp_path, shards):
    """A small network finds everybody in eight frames that it saw 45 times each."""
    keys = ["model.encoder.width=48", "model.encoder.depth=2", "scene.side=96", "scene.width=64"]
    keys += [
        "steps=90",
        "optim.lr=6e-2",
        "optim.warmup=10",
        "data.augment.flip=false",
        "data.workers=0",
    ]
    keys += ["data.augment.colour=0", "data.augment.whole_share=1", "model.encoder.heads=3"]
    trainer = make_trainer(config_of("none", shards, *keys), Processes(0, 1, torch.device("cpu")))
    task = trainer.task
    steps = [
        (step, {k: v.copy() for k, v in rows.items()}) for step, rows in task.loader.batches(0, 2)
    ]
    for step in range(90):
        number, arrays = steps[step % 2]
        task.prepare_step(number, None)
        trainer.update(step, arrays)
    task.model.eval()
    sums, body, patch = 0, task.step_module.body, task.model.patch
    for number, arrays in steps:
        task.prepare_step(number, None)
        answer, truth = task.step_module.look(task.to_device(arrays))
        sums = sums + sum_errors(find_people(answer, truth.K, body, patch, 0.5), truth, body, patch)
    measures = name_measures(sums.tolist())
    assert measures["val/f1"] > 0.95
    # The mean body at the mean place is off by 130 mm and more.
    assert measures["val/mpjpe"] < 90 and measures["val/depth"] < 0.08

"""Crops that are labelled each in its own way train together: what is labelled counts as it would
in a crop that has everything, what is not counts nothing."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from clips import rewrite
from runs import ROOT, finetune_words

from data.__main__ import main as data_main
from data.bodies.anny_layout import ANNY
from data.format.joint_sets import find_joint_set
from data.format.labels import Joints, Keypoints, Labels, pack_labels
from data.loading.crops import assume_camera
from data.loading.partial_crops import list_point_names
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from finetune import losses
from finetune.config import FinetuneConfig
from finetune.given import tell_known
from finetune.heads.base import Prediction
from finetune.train import make_trainer

ANY = "data.rules.labels=any"
NAMES = list(ANNY.keypoints)
JOINTS = ANNY.index_keypoints()


def save(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def members_of(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def label_anew(folder, out, make, cameras=True):
    """A copy of shards of synthetic humans whose labels are make(old arrays, crops of the json)."""
    shutil.copytree(folder, out)
    for path in sorted(out.glob("*.tar")):
        members = members_of(path)

        def change(name, data, members=members):
            if name.endswith("labels.npz"):
                old = dict(np.load(io.BytesIO(data)))
                crops = json.loads(members[name.replace("labels.npz", "json")])["crops"]
                return save(pack_labels(make(old, crops)))
            if name.endswith(".json") and not cameras:
                clip = json.loads(data)
                for crop in clip["crops"]:
                    crop.pop("K", None)
                    crop.pop("Rt", None)
                return json.dumps(clip).encode()
            return data

        rewrite(path, change)
        for index in out.glob(path.name + ".*"):
            index.unlink()
    return out


def keypoints_of(old, crops, confidence=1.0):
    """COCO's 17 in each crop, where anny has them: pixels and confidence."""
    names = find_joint_set("coco17").joints
    points, weights = np.zeros((len(crops), 17, 2)), np.zeros((len(crops), 17))
    for number, crop in enumerate(crops):
        joints = old["joints"][old["instant"][number]][JOINTS]
        K, Rt = np.array(crop["K"]), np.array(crop["Rt"])
        camera = joints @ Rt[:, :3].T + Rt[:, 3]
        pixels = camera @ K.T
        for place, name in enumerate(names):
            if name in NAMES:
                points[number, place] = (pixels[:, :2] / pixels[:, 2:])[NAMES.index(name)]
                weights[number, place] = confidence
    return Keypoints("coco17", points, weights)


def only_keypoints(old, crops):
    labels = Labels(np.arange(len(crops)), keypoints_of(old, crops))
    labels.visible = old["visible"]
    return labels


def only_joints(old, crops):
    """Joints of another set in the camera's axes, from a place that nobody knows."""
    names = find_joint_set("lsp14").joints
    points, weights = np.zeros((len(crops), 14, 3)), np.zeros((len(crops), 14))
    for number, crop in enumerate(crops):
        Rt = np.array(crop["Rt"])
        joints = old["joints"][old["instant"][number]][JOINTS] @ Rt[:, :3].T
        for place, name in enumerate(names):
            if name in NAMES:
                points[number, place] = joints[NAMES.index(name)] + [7.0, -3.0, 40.0]
                weights[number, place] = 1
    labels = Labels(np.arange(len(crops)), joints=Joints("lsp14", points, weights), frame="root")
    labels.visible = old["visible"]
    return labels


@pytest.fixture(scope="module")
def photos(tmp_path_factory, people):
    """The synthetic humans again as photographs: 2D keypoints, and no cameras."""
    out = tmp_path_factory.mktemp("photos") / "shards"
    return label_anew(people["body"], out, only_keypoints, cameras=False)


def trainer_of(run, shards, *more):
    file, *rest = finetune_words(run, "body", shards, "data.workers=0", *more)
    config = parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")
    return make_trainer(config, Processes(0, 1, torch.device("cpu")))


def first_batch(trainer):
    for _, arrays in trainer.loader.batches(0, 1):
        return {name: value.clone() for name, value in trainer.task.to_device(arrays).items()}
    raise AssertionError("no batch")


def truth_of(run, shards, *more):
    trainer = trainer_of(run, shards, "data.val_clips=0", *more)
    return trainer.task.step_module.tell_truth(first_batch(trainer))


def anything_like(truth):
    """A prediction that is wrong by centimetres."""
    torch.manual_seed(0)
    mesh = truth.mesh
    moved = [p + 0.1 * torch.randn_like(p) for p in (mesh.vertices, mesh.joints, mesh.keypoints)]
    return Prediction(*moved, mesh.parameters)


def label_twice(tmp_path, people, make):
    """(truth of synthetic humans, of the same slots by other labels), and which keypoints these
    have."""
    other = label_anew(people["body"], tmp_path / "other", make)
    sure = truth_of(tmp_path / "a", people["body"])
    found = truth_of(tmp_path / "b", other, ANY, "init_head=false")
    return sure, found


def test_keypoints_of_another_set_count_as_those_of_the_mesh(tmp_path, people, monkeypatch):
    # Without a body model nobody knows a mean body: that of the same people.
    monkeypatch.setattr("finetune.tasks.mesh.sample_labels", sample_from(people["body"]))
    sure, found = label_twice(tmp_path, people, only_keypoints)
    given = found.given
    assert torch.equal(sure.seen.images, found.seen.images) and sure.seen.flip.any()
    assert torch.allclose(sure.K, found.K, atol=1e-4)
    assert given.present.tolist() == [[False, False, True]] * len(given.present)
    known = given.weights_2d > 0
    coco = [name in find_joint_set("coco17").joints for name in NAMES]
    assert known.tolist() == [coco] * len(known)
    true = losses.project_points(sure.mesh.keypoints, sure.K)
    # Bodies are no exact mirror images of themselves.
    assert (given.points_2d - true)[known & ~sure.seen.flip[:, None]].abs().max() < 0.01
    assert (given.points_2d - true)[known].abs().max() < 0.3
    answer = anything_like(sure)
    here = losses.project_points(answer.keypoints, sure.K)
    apart = ((here - true).abs() / sure.size).mean(2)
    terms = {term.name: term for term in losses.TERMS}
    loss = losses.compute_terms(tuple(terms.values()), answer, found)
    wanted = (apart * known).sum(1) / len(NAMES)
    assert torch.allclose(loss.pop("keypoints_2d"), wanted, atol=0.01)
    assert all(not value.any() for value in loss.values())
    # What lies where nobody labelled it changes nothing.
    before = losses.compute_terms((terms["keypoints_2d"],), answer, found)
    answer.keypoints[:, ~torch.tensor(coco)] += 1
    after = losses.compute_terms((terms["keypoints_2d"],), answer, found)
    assert torch.equal(before["keypoints_2d"], after["keypoints_2d"])


def test_joints_from_an_unknown_place_count_about_what_is_labelled(tmp_path, people, monkeypatch):
    monkeypatch.setattr("finetune.tasks.mesh.sample_labels", sample_from(people["body"]))
    sure, found = label_twice(tmp_path, people, only_joints)
    given = found.given
    assert given.present.tolist() == [[False, True, False]] * len(given.present)
    known = given.weights_3d > 0
    assert known.sum(1).tolist() == [13] * len(known)  # LSP's 14 without the top of the head
    answer = anything_like(sure)
    loss = losses.compute_terms(losses.TERMS, answer, found)
    # The pelvis is not among LSP's joints: both are moved to the mean of those that are.
    here, there = answer.keypoints[:, known[0]], sure.mesh.keypoints[:, known[0]]
    apart = (here - here.mean(1, keepdim=True)) - (there - there.mean(1, keepdim=True))
    wanted = apart.abs().sum((1, 2)) / (3 * len(NAMES))
    assert torch.allclose(loss.pop("joints"), wanted, atol=5e-3)
    assert all(not value.any() for value in loss.values())


def sample_from(folder):
    """data.loading.build.sample_labels, of these shards whatever the run reads."""
    from data.config import CropDataConfig
    from data.loading.build import open_crop_order, sample_labels

    def sample(order, config, count, skip, choice):
        config = CropDataConfig(shards=str(folder), val_clips=0)
        return sample_labels(open_crop_order(config, 8, 0), config, count)

    return sample


def sources(people, photos):
    return [
        "data.shards=",
        f"data.sources.made.shards={people['body']}",
        "data.sources.made.weight=2",
        f"data.sources.photos.shards={photos}",
        ANY,
    ]


def test_a_mix_trains_and_its_losses_are_logged_by_source(tmp_path, people, photos):
    keys = [*sources(people, photos), "batch=24", "steps=40", "optim.lr=0.1", "optim.warmup=4"]
    trainer = trainer_of(tmp_path, "", *keys)
    lines = []
    for step, arrays in trainer.loader.batches(0, 40):
        trainer.update(step, arrays)
        lines.append(trainer.take_losses())
    assert lines[0]["loss/rotation"] == lines[0]["loss/rotation/made"]
    assert {f"loss/keypoints_2d/{name}" for name in ("made", "photos")} <= lines[0].keys()
    assert not {"loss/rotation/photos", "loss/vertices/photos", "loss/joints/photos"} & set(
        lines[0]
    )
    share = np.mean([line["loss/keypoints_2d/photos"] < 10 for line in lines])
    assert share == 1
    for name in ("loss/keypoints_2d/photos", "loss/keypoints_2d/made"):
        first, last = (np.mean([line[name] for line in part]) for part in (lines[:5], lines[-5:]))
        assert last < 0.8 * first, name
    assert trainer.task.val is not None  # of synthetic humans: their errors are known in 3D


def test_the_loss_and_its_gradient_do_not_depend_on_how_a_batch_is_spread(tmp_path, people, photos):
    trainer = trainer_of(tmp_path, "", *sources(people, photos), "batch=12")
    task, batch = trainer.task, first_batch(trainer)
    weight = task.model.head.queries
    found = []
    for parts in ([slice(0, 12)], [slice(0, 1), slice(1, 5), slice(5, 12)]):
        weight.grad, total, sums = None, 0.0, 0
        for part in parts:
            loss, meters = task.compute_loss(
                task.step_module, {name: value[part] for name, value in batch.items()}
            )
            loss.backward()
            total, sums = total + float(loss), sums + meters
        found.append((total, weight.grad.clone(), sums))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)
    assert torch.allclose(found[0][2], found[1][2], rtol=1e-5)
    # A crop without a mesh adds its keypoints alone.
    rows = ~batch["present"][:, 0].bool()
    terms = task.step_module(batch)
    only = task.weights["keypoints_2d"] * terms["keypoints_2d"][rows]
    assert torch.allclose(task._weigh(terms)[rows], only)
    assert rows.any() and not rows.all()


def test_names_are_matched_with_sides_dropped_in_crops_of_hands():
    whole = find_joint_set("coco_wholebody133").joints
    body = list_point_names("coco_wholebody133", "body")
    assert whole[body["left_hip"]] == "left_hip"
    left = list_point_names("coco_wholebody133", "left_hand")
    assert whole[left["thumb_1"]] == "left_hand_thumb_1" or whole[left["thumb_1"]] == "left_thumb_1"
    hand = list_point_names("hand21", "right_hand")
    assert set(hand) == set(find_joint_set("hand21").joints)
    assert list_point_names("anny", "body")["left_knee"] == ANNY.joint_names.index("lowerleg01.L")
    assert list_point_names("nobody7", "body") == {}


def test_a_term_is_known_where_a_crop_holds_one_of_its_parts():
    present = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert tell_known(present, ("mesh",)).tolist() == [True, False, False, False]
    assert tell_known(present, ("mesh", "keypoints")).tolist() == [True, False, True, False]
    assert tell_known(present, ()).all()


def test_a_camera_that_nobody_knows_is_as_prediction_assumes_it():
    assert np.allclose(
        assume_camera(100), [[100 * 2**0.5, 0, 50], [0, 100 * 2**0.5, 50], [0, 0, 1]]
    )


def test_a_real_photograph_and_synthetic_humans_train_together(tmp_path, people, samples):
    keys = ["annotations=person_keypoints_one.json", "images=.", "size=64"]
    out = tmp_path / "coco"
    words = [f"root={samples / 'coco_keypoints'}", f"out={out}", *keys]
    assert data_main(["labels", "coco", *words]) == 0
    trainer = trainer_of(tmp_path / "run", "", *sources(people, out))
    for step, arrays in trainer.loader.batches(0, 2):
        trainer.update(step, arrays)
    line = trainer.take_losses()
    assert 0 < line["loss/keypoints_2d/photos"] < 5
    assert "loss/rotation/photos" not in line and np.isfinite(line["loss/total"])

"""Labels that name SMPL, SMPL-X and MANO are learnt from: targets, training, answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from body_standins import make_body, write_npz
from labelled_family import make_clip, write_shards
from runs import finetune_words

from data.bodies.body_files import VARIABLE
from data.bodies.models import LabelChoice, open_model
from data.config import CropDataConfig
from data.format.clip import encode
from data.loading.build import open_crop_order, sample_labels
from data.loading.crop_labels import find_label_kind
from data.loading.crops import CropRules
from data.loading.reader import BadSample, NoPair
from data.loading.validation import val_crops
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import evaluate
from finetune.heads.base import pose_body
from finetune.inference.predictor import Predictor
from finetune.means import plain_view
from finetune.people import unmirror
from finetune.referee.config import RefereeConfig
from finetune.referee.kinds import KINDS
from finetune.referee.rows import Asked
from finetune.referee.synthetic import _read_arrays, list_crops
from finetune.train import train
from finetune.verb_config import EvaluateConfig
from finetune.views import Targets

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("smpl", "smplx", "mano")
VERTICES = {"smpl": 60, "smplx": 80, "mano": 778}
FILES = {
    "smpl": "smpl/SMPL_NEUTRAL.npz",
    "smplx": "smplx/SMPLX_NEUTRAL.npz",
    "mano": "mano/MANO_RIGHT.npz",
}


@dataclasses.dataclass
class Family:
    """Files of bodies, and shards of each with the joints of their crops in the cameras."""

    files: Path
    shards: dict
    joints: dict


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    files, shards, joints = tmp_path_factory.mktemp("bodies"), {}, {}
    for name in NAMES:
        arrays = make_body(name, vertices=VERTICES[name], shapes=20 if name == "smplx" else None)
        write_npz(files / FILES[name], arrays)
        left = None
        if name == "mano":
            left = make_body(name, vertices=778, seed=1)
            write_npz(files / "mano/MANO_LEFT.npz", left)
        shards[name] = tmp_path_factory.mktemp(f"labelled_{name}")
        joints[name] = write_shards(shards[name], name, arrays, left)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(files))
        yield Family(files, shards, joints)


def data_of(folder, name, **given):
    kind = "hand" if name == "mano" else "body"
    return CropDataConfig(shards=str(folder), rules=CropRules(crops=kind), **given)


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_the_labelled_bodies_in_their_cameras(family, name):
    """Joints of the target are those that were posed without this project, crop by crop."""
    body, data = open_model(name), data_of(family.shards[name], name, val_clips=2)
    order = open_crop_order(data, 1, 0)
    arrays = val_crops(order, data, 2, choice=body.label_choice)
    assert len(arrays["tags"]) == 4
    batch = {key: torch.from_numpy(values) for key, values in arrays.items()}
    view = plain_view(batch, 32)
    labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
    found = unmirror(pose_body(body, Targets(body)(labels, view)), view.flip, body)
    keys = sorted(family.joints[name])[-2:]
    told = np.concatenate([family.joints[name][key] for key in keys])
    flipped = 0
    for row, joints in enumerate(found.joints.numpy()):
        # Clips come in an order of their own.
        near = min(np.abs(joints - true).max() for true in told)
        flipped += int(view.flip[row])
        if name != "mano" or not view.flip[row]:
            assert near < 2e-5
        else:
            # A left hand is the right one's mirror image, whose bones are others here.
            assert min(np.abs(joints[0] - true[0]).max() for true in told) < 2e-5
    assert flipped == (2 if name == "mano" else 0)
    if name == "mano":
        right = found.parameters.pose[~view.flip]
        assert right.shape == (2, 16, 3, 3) and found.keypoints.shape[1] == 21


def test_left_hands_are_read_by_their_own_file(family):
    """All three ways of saying a left hand's pose give its rotations, in a mirror."""
    body, data = open_model("mano"), data_of(family.shards["mano"], "mano", val_clips=0)
    order = open_crop_order(data, 1, 0)
    arrays = sample_labels(order, data, 24, choice=body.label_choice)
    labels = {key: torch.from_numpy(values) for key, values in arrays.items()}
    view = plain_view(labels, 32)
    codings = labels["finger_coding"][view.flip]
    assert set(codings.tolist()) == {0.0, 1.0, 2.0}
    labels["pose"] = axis_angle_to_matrix(labels["pose"])
    found = body.read_labels(labels, view.flip)
    left = open_model("mano", "left")
    vertices, joints = left(found.pose, found.translation, found.shape)
    told = np.concatenate(list(family.joints["mano"].values()))
    Rt = labels["Rt"]
    in_camera = joints @ Rt[:, :, :3].transpose(1, 2) + Rt[:, None, :, 3]
    for points in in_camera[view.flip].numpy():
        assert min(np.abs(points - true).max() for true in told) < 2e-5


def read(name, clip, variant="neutral"):
    data = encode(clip)["labels.npz"]
    return find_label_kind(name).read(data, len(clip.crops), variant)


def test_labels_that_do_not_fit_are_told_or_passed_over():
    arrays = make_body("smpl", vertices=30)
    clip, _ = make_clip("smpl", 0, arrays, variant="female")
    with pytest.raises(NoPair):
        read("smpl", clip)
    assert read("smpl", clip, "female")["known"].all()
    clip.labels.body.variant = ""
    assert read("smpl", clip)["root_is_transl"].all()
    with pytest.raises(BadSample, match="labels are of body model 'smpl', not of smplx"):
        read("smplx", clip)
    with pytest.raises(BadSample, match="not of anny|labels.npz"):
        read("anny", clip)
    clip.labels.body.known["pose"] = np.array([True, False])
    assert read("smpl", clip)["known"].tolist() == [True, False]
    clip.labels.body.parameters["scale"] = np.full((2, 1), 0.9, np.float32)
    with pytest.raises(BadSample, match=r"scale is 0\.900"):
        read("smpl", clip)
    del clip.labels.body.parameters["scale"]
    clip.labels.body.parameters["betas"] = np.zeros(400, np.float32)
    with pytest.raises(BadSample, match="betas has 400 numbers, SMPL at most 300"):
        read("smpl", clip)
    clip.labels.body.parameters["pose"] = np.zeros((2, 23, 3), np.float32)
    with pytest.raises(BadSample, match=r"pose of smpl is \(23, 3\)"):
        read("smpl", clip)
    clip.labels.frame = "root"
    with pytest.raises(NoPair):
        read("smpl", clip)
    clip.labels.body = None
    with pytest.raises(NoPair):
        read("smpl", clip)


def words_of(family, name, run, *more):
    kind = "hand" if name == "mano" else "body"
    words = finetune_words(
        run,
        kind,
        family.shards[name],
        f"body={name}",
        "steps=2",
        "checkpoint.every=2",
        "log.val_every=2",
        "data.workers=0",
        *more,
    )
    return [str(ROOT / words[0]), *words[1:]]


@pytest.mark.parametrize("name", NAMES)
def test_training_evaluation_and_prediction_with_a_users_body(family, tmp_path, name):
    run = tmp_path / "run"
    more = ["body_betas=6"] if name == "smpl" else []
    if name == "mano":
        more = ["data.augment.part_share=0.5"]
    config = parse(FinetuneConfig, words_of(family, name, run, *more), "finetune train")
    train(config)
    predictor = Predictor(run, "cpu")
    assert predictor.body.name == name and predictor.step == 2
    betas = len(predictor.body.shape_space.names)
    assert betas == {"smpl": 6, "smplx": 10, "mano": 10}[name]
    image = np.full((90, 80, 3), 90, np.uint8)
    sides = ["left"] if name == "mano" else None
    (person,) = predictor(image, sides=sides)
    assert person.vertices.shape == (VERTICES[name], 3) and person.shape.shape == (betas,)
    assert np.isfinite(person.vertices).all()
    words = EvaluateConfig(run=str(run), out=str(tmp_path / "out"), clips=2, device="cpu")
    rows = {row["key"]: row["values"] for row in evaluate(words, "test")["rows"]}
    assert rows.keys() == {"model", "turned", "mean"}
    # The referee's labelled people, judged by the same keypoints.
    config = RefereeConfig(run=str(run), samples=["none"], synthetic=str(family.shards[name]))
    asked = Asked(predictor, KINDS[predictor.body.kind])
    arrays = _read_arrays(config, [asked])
    crops = list_crops(asked, arrays, 2)
    assert len(crops) == 2 and all(np.isfinite(crop.joints).all() for crop in crops)


def test_labels_of_another_body_make_no_run(family, tmp_path):
    config = parse(
        FinetuneConfig,
        [*words_of(family, "smpl", tmp_path / "run"), f"data.shards={family.shards['smplx']}"],
        "finetune train",
    )
    with pytest.raises(UserError, match="labels are of body model 'smplx', not of smpl"):
        train(config)
    with pytest.raises(UserError, match="body=anny has 6 shape numbers of its own"):
        open_model("anny", betas=3)
    assert open_model("anny").label_choice == LabelChoice()


def test_betas_that_are_left_out_are_zero(family):
    few, all_of_them = open_model("smplx", betas=4), open_model("smplx")
    pose, place = 0.3 * torch.ones(1, 55, 3), torch.zeros(1, 3)
    shape, face = torch.ones(1, 4), torch.ones(1, 3)
    whole = torch.cat([shape, torch.zeros(1, 6)], 1)
    one, other = few(pose, place, shape, face), all_of_them(pose, place, whole, face)
    assert torch.allclose(one[0], other[0], atol=1e-6)
    assert len(few.coarse(20).shape_space.names) == 4
    with pytest.raises(ValueError, match="10 numbers of shape, smplx has 4"):
        few(pose, place, whole)

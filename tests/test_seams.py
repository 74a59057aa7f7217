"""A body model and a head that somebody adds, one file each, go all the way: training, evaluation,
prediction, files and images."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import ROOT, finetune_words
from safetensors import safe_open

import data.bodies
import finetune.heads
from data.bodies.models import BODIES, open_model
from data.loading.build import open_crop_order
from data.loading.validation import val_crops
from engine.checkpoint import checkpoints
from engine.config.parser import parse, save
from engine.distributed.process_group import Processes
from engine.errors import UserError
from finetune import export, losses
from finetune.config import FinetuneConfig
from finetune.evaluation.judge import Judge
from finetune.heads.base import HEADS
from finetune.people import crop_people
from finetune.predict import Predictor
from finetune.train import make_trainer
from finetune.views import Targets, view
from finetune.viz import draw
from pretrain import header, weights
from pretrain.files import read_metadata

BODY = '''
"""Three balls: a pelvis and two legs, with two unbounded shape parameters, as SMPL's betas are."""

import torch

from data.bodies.anny import ANNY
from data.bodies.base import BodyModel, BodyParameters, ShapeSpace, pair_sides
from data.bodies.models import BODIES, refuse_variant
from engine.geometry import axis_angle_to_matrix

LABELLED = [ANNY.joint_names.index(name) for name in ("root", "upperleg01.L", "upperleg01.R")]
BALL = torch.cat([torch.eye(3), -torch.eye(3)])
FACES = torch.tensor(
    [[0, 1, 2], [0, 2, 4], [0, 4, 5], [0, 5, 1], [3, 2, 1], [3, 4, 2], [3, 5, 4], [3, 1, 5]]
)


class Balls(BodyModel):
    name, kind, variant = "toy_balls", "body", ""

    def __init__(self, rows=None):
        super().__init__()
        self.joint_names = ["pelvis", "left_leg", "right_leg"]
        self.parents = [-1, 0, 0]
        self.keypoint_names = ["pelvis", "left_hip", "right_hip"]
        self.shape_space = ShapeSpace(("height", "girth"))
        self.expression_names = []
        rest = torch.tensor([[0, 0, 0], [0.15, 0, -0.5], [-0.15, 0, -0.5]])
        faces = torch.cat([FACES + 6 * ball for ball in range(3)])
        ids = torch.arange(18) if rows is None else rows
        for name, values in (
            ("rest", rest),
            ("faces", faces if rows is None else None),
            ("vertex_ids", ids),
            ("mirror", pair_sides(self.joint_names, "left", "right")),
            ("keypoint_mirror", pair_sides(self.keypoint_names, "left", "right")),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(self, pose, translation, shape, expression=None):
        rotation = pose if pose.ndim == 4 else axis_angle_to_matrix(pose)
        with torch.autocast(pose.device.type, enabled=False):
            rest = self.rest * (1 + 0.1 * shape[:, :1, None])
            joints = rest @ rotation[:, 0].transpose(1, 2)
            legs = rotation[:, :1] @ rotation[:, 1:]
            whole = torch.cat([rotation[:, :1], legs], 1)
            size = 0.2 * (1 + 0.1 * shape[:, 1:, None, None])
            balls = size * BALL.to(shape.device) @ whole.transpose(2, 3) + joints[:, :, None]
            vertices = balls.flatten(1, 2)[:, self.vertex_ids]
            return vertices + translation[:, None], joints + translation[:, None]

    def keypoints(self, vertices, joints):
        return joints

    def coarse(self, count):
        return Balls(torch.arange(0, 18, 2))

    def read_labels(self, labels, flip):
        shape = 4 * labels["shape"][:, :2] - 2
        return BodyParameters(self.name, labels["pose"][:, LABELLED], shape, labels["root"])


@BODIES.register("toy_balls")
def open_balls(variant=""):
    refuse_variant("toy_balls", variant)
    return Balls()
'''
HEAD = '''
"""Points alone, as offsets from the mean mesh, and how sure it is of each keypoint."""

import torch
from torch import nn

from finetune.crop_camera import describe_camera
from finetune.heads.base import HEADS, Head, Prediction, pose_body
from finetune.means import place_means


@HEADS.register("toy_points")
class PointHead(Head):
    has_parameters = False

    def __init__(self, config, head, body):
        super().__init__()
        self.points = len(body.joint_names) + len(body.vertex_ids)
        self.keypoints = len(body.keypoint_names)
        width = config.encoder.width + 3
        self.offsets = nn.Linear(width, 3 * self.points + 1 + self.keypoints)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, features, K, size, means, body):
        mean = place_means(means, K, size, body.shape_space, body.name)
        start = pose_body(body, mean)
        known = torch.cat([features.mean(1), describe_camera(K, size)], 1)
        answer = self.offsets(known).float()
        moved = answer[:, : 3 * self.points].unflatten(1, (self.points, 3))
        joints = len(body.joint_names)
        shift = answer[:, None, 3 * self.points, None] * start.joints[:, :1]
        found_joints = start.joints + moved[:, :joints] + shift
        vertices = start.vertices + moved[:, joints:][:, body.vertex_ids] + shift
        unsure = nn.functional.softplus(answer[:, -self.keypoints :])
        keypoints = body.keypoints(vertices, found_joints)
        return Prediction(vertices, found_joints, keypoints, None, unsure)
'''


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """Both files are found as modules of their packages while the tests run."""
    files = ((data.bodies, "toy_balls", BODY), (finetune.heads, "toy_points", HEAD))
    folders = []
    for package, name, text in files:
        folders.append(tmp_path_factory.mktemp(name))
        (folders[-1] / f"{name}.py").write_text(text)
        package.__path__.append(str(folders[-1]))
    yield
    for (package, name, _), folder in zip(files, folders, strict=True):
        package.__path__.remove(str(folder))
        sys.modules.pop(f"{package.__name__}.{name}", None)
    BODIES.pop("toy_balls", None)
    HEADS.pop("toy_points", None)


def config_of(run, people, *words):
    file, *rest = finetune_words(
        run, "body", people["body"], "steps=6", "checkpoint.every=3", "data.workers=0", *words
    )
    return parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")


CASES = [
    ("body=toy_balls",),
    ("body=toy_balls", "head.name=toy_points"),
    ("head.name=toy_points",),
]


@pytest.mark.parametrize("words", CASES, ids=["body", "both", "head"])
def test_one_file_each_goes_all_the_way(added, people, tmp_path, words):
    run = tmp_path / "run"
    config = config_of(run, people, *words, "optim.lr=0.03", "optim.warmup=0", "steps=12")
    trainer = make_trainer(config, Processes(0, 1, torch.device("cpu")))
    terms = losses.OF_POINTS if "head.name=toy_points" in words else losses.TERMS
    names = [term.name for term in terms]
    lines = []
    _, arrays = next(trainer.loader.batches(0, 1))
    for step in range(12):  # the same crops, so that they are learnt
        trainer.update(step, {name: values.copy() for name, values in arrays.items()})
        lines.append(trainer.take_losses())
    assert set(lines[0]) >= {f"loss/{name}" for name in (*names, "total")}
    assert {name for name in lines[0] if name.startswith("loss/")} == {
        f"loss/{name}" for name in (*names, "total")
    }
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["loss/total"] < lines[0]["loss/total"]
    assert 0 < trainer.task.evaluate(trainer.shares)["val/pa_mpjpe"] < 1000

    run.mkdir()
    save(config, run / "config.yaml", "finetune train")
    model = trainer.model
    head = header.make_header(model.config, trainer.task.seen, model.roles)
    step = checkpoints.save(
        run,
        12,
        lambda path: weights.write_safetensors(model.state_dict(), path, head),
        {"none": torch.zeros(1)},
        {"step": 12},
    )
    metadata = read_metadata(step / "model.safetensors")
    wanted = header.Roles("mesh", config.head.name, config.body_model)
    assert header.read_roles(metadata, ()) == wanted
    with safe_open(step / "model.safetensors", "pt") as file:
        assert ("head.queries" in file.keys()) == (terms == losses.TERMS)  # noqa: SIM118 - no dict
    with pytest.raises(UserError, match="is of a fine-tuning run"):
        weights.read(step)

    predictor = Predictor(run, "cpu")
    order = open_crop_order(config.data, 1, 0)
    batch = {
        name: torch.from_numpy(values) for name, values in val_crops(order, config.data, 2).items()
    }
    judge = Judge(predictor, None, True)
    judge.add(batch)
    for row in judge.values.values():
        for metric, (errors,) in row.items():
            assert np.isfinite(errors).all() and len(errors) == len(batch["tags"]), metric
    check_files(tmp_path, predictor, batch, judge, terms)


def check_files(folder, predictor, batch, judge, terms):
    """People on the image and in files, with what they have and without what they lack."""
    (people,) = judge.found
    image = batch["pixels"][0].numpy()
    (person,) = predictor(image, None, batch["K"][0].numpy())
    body = predictor.body
    assert person.vertices.shape == (len(body.vertex_ids), 3)
    assert (person.pose is None) == (person.shape is None) == (terms == losses.OF_POINTS)
    assert np.abs(draw.overlay(image, [person]).astype(int) - image).max() > 20
    assert isinstance(draw.sheet(image, person, ["found", "true"], judge.truth[0][0]), Image.Image)

    export.save_glb(str(folder / "a.glb"), people)
    export.save_numbers(str(folder / "a"), people, body.keypoint_names, body.joint_names)
    known, arrays = json.loads((folder / "a.json").read_text()), np.load(folder / "a.npz")
    assert not {"track", "time_s"} & known["people"][0].keys()
    assert ("pose" in known["people"][0]) == ("body/pose" in arrays) == (terms == losses.TERMS)
    for number, one in enumerate(people):
        one.track, one.time_s = 7, 0.04 * number
    export.save_numbers(str(folder / "b"), people)
    known, arrays = json.loads((folder / "b.json").read_text()), np.load(folder / "b.npz")
    assert [one["track"] for one in known["people"]] == [7] * len(people)
    assert arrays["body/time_s"].tolist() == [0.04 * number for number in range(len(people))]


def test_unbounded_shapes_are_their_own(added):
    space, free = open_model("toy_balls").shape_space, torch.tensor([[-30.0, 0.5]])
    assert torch.equal(space.to_parameters(free), free) and torch.equal(space.to_free(free), free)
    bounded = open_model("anny").shape_space
    shape = torch.linspace(0.01, 0.99, 6)[None]
    assert torch.allclose(bounded.to_parameters(bounded.to_free(shape)), shape, atol=1e-6)
    assert bounded.to_parameters(torch.tensor([-200.0, 200.0])).tolist() == [0.0, 1.0]
    assert bounded.to_free(torch.tensor([0.0, 1.0])).isfinite().all()


def test_a_mirrored_person_is_mirrored_back(added, people):
    """A prediction under a mirror gives the person that it gives without one."""
    body = open_model("toy_balls")
    config = config_of("run", people)
    arrays = val_crops(open_crop_order(config.data, 1, 0), config.data, 2)
    batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
    from engine.geometry import axis_angle_to_matrix
    from finetune.heads.base import pose_body

    found = []
    for flip in (0.0, 1.0):
        batch["numbers"][:, 4] = flip
        seen = view(batch, 32)
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        target = Targets(body)(labels, seen)
        found.append(crop_people(pose_body(body, target), seen, body, batch))
    for one, other in zip(*found, strict=True):
        assert np.allclose(one.pose, other.pose, atol=1e-5)
        assert np.allclose(one.translation, other.translation, atol=1e-5)
        # Joint by joint the mirrored mesh has the other side's numbers.
        assert np.allclose(one.joints, other.joints[[0, 2, 1]], atol=1e-5)


@pytest.mark.parametrize(
    "words, said",
    [
        (("body=toy_bals",), "body=toy_bals is none of"),
        (
            ("head.name=points",),
            "head.name=points is none of dense, keypoints, lens, model_based, model_free",
        ),
        (("body=anny_hand",), "body=anny_hand is a hand, data.rules.crops=body"),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_told(people, tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        make_trainer(
            config_of(tmp_path / "run", people, *words), Processes(0, 1, torch.device("cpu"))
        )


def test_weights_from_before_the_names_are_known_by_their_tensors():
    assert header.read_roles({}, ["head.queries"]) == header.Roles("mesh", "model_based", "")
    assert header.read_roles({}, ["encoder.blocks.0.norm1.weight"]) is None
    roles = header.Roles("mesh", "model_based", "anny")
    header.check_roles({}, roles, ROOT)
    with pytest.raises(UserError, match="is of body 'anny_hand', its run's config names 'anny'"):
        header.check_roles({"body": "anny_hand"}, roles, ROOT)

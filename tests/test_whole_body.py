"""Hands joined into the bodies they belong to: one mesh with fingers."""

import json

import numpy as np
import pytest
import torch
import trimesh
from networks import make_run
from PIL import Image

from data.bodies.base import BodyParameters
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from finetune.__main__ import main
from finetune.evaluation.fingers import find_hand_parts
from finetune.heads.base import pose_body
from finetune.inference.fingers import JoiningRules, blend_share, find_twist, join_hands
from finetune.people import make_people

K = torch.tensor([[600.0, 0, 200], [0, 600, 200], [0, 0, 1]])


@pytest.fixture(scope="module")
def body(bodies):
    return bodies["anny"]


@pytest.fixture(scope="module")
def hand(bodies):
    return bodies["anny_hand"]


@pytest.fixture(scope="module")
def truth(body):
    """A body two metres before the camera, upright there, with bent fingers."""
    random = torch.Generator().manual_seed(3)
    pose = 0.2 * torch.randn(1, len(body.joint_names), 3, generator=random)
    matrices = axis_angle_to_matrix(pose)
    matrices[:, 0] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # z up to y down
    place = torch.tensor([[0.0, 0.0, 2.5]])
    return BodyParameters("anny", matrices, torch.full((1, 6), 0.5), place)


def is_finger(name):
    return name.startswith(("finger", "metacarpal"))


def see_body(body, truth, wrist_off_deg=20.0):
    """The person that a network finds which knows no fingers and is off at the wrists."""
    pose = truth.pose.clone()
    off = axis_angle_to_matrix(torch.deg2rad(torch.tensor([0.0, wrist_off_deg, 0.0])))
    for joint, name in enumerate(body.joint_names):
        if is_finger(name):
            pose[:, joint] = torch.eye(3)
        if name.startswith("wrist"):
            pose[:, joint] = pose[:, joint] @ off
    found = pose_body(body, BodyParameters("anny", pose, truth.shape, truth.translation))
    (person,) = make_people(
        found, torch.tensor([False]), body, K[None], np.array([[0, 0, 400, 400]]), ["body"]
    )
    return person


def see_hand(body, hand, truth, side):
    """The person that a network of hands finds which errs in nothing."""
    _, joints = body(truth.pose, truth.translation, truth.shape)
    flip = torch.tensor([side == "left"])
    labels = {"pose": truth.pose, "shape": truth.shape, "joints": joints}
    given = hand.mirror_parameters(hand.read_labels(labels, flip), flip)
    found = pose_body(hand, given)
    (person,) = make_people(
        found, flip, hand, K[None], np.array([[0, 0, 60, 60]]), [f"{side}_hand"]
    )
    low, high = person.keypoints_2d.min(0), person.keypoints_2d.max(0)
    person.box = np.concatenate([low, high]).astype(np.float32)
    return person


def hand_rows(body, side):
    return [
        joint
        for joint, name in enumerate(body.joint_names)
        if is_finger(name) and name.endswith(f".{side[0].upper()}")
    ]


@pytest.mark.parametrize("sides", [("left",), ("right",), ("left", "right")])
def test_hands_that_err_in_nothing_make_the_true_body(body, hand, truth, sides):
    alone = see_body(body, truth)
    hands = [see_hand(body, hand, truth, side) for side in sides]
    (whole,) = join_hands([alone, *hands], body, hand)
    true = pose_body(body, truth)
    assert whole.hands == sides and alone.hands == ()
    for side in ("left", "right"):
        rows = hand_rows(body, side)
        off = np.linalg.norm(whole.joints[rows] - true.joints[0, rows].numpy(), axis=1).max()
        before = np.linalg.norm(alone.joints[rows] - true.joints[0, rows].numpy(), axis=1).max()
        assert before > 0.02
        assert off < 1e-4 if side in sides else off == pytest.approx(before)
    if len(sides) == 2:
        parts = find_hand_parts(body, hand)
        for side in sides:
            rows = parts.vertices[side].numpy()
            off = np.linalg.norm(whole.vertices[rows] - true.vertices[0, rows].numpy(), axis=1)
            # Those at the edge also hang on the forearm, which twists with the wrist.
            assert np.median(off) < 1e-4 and off.max() < 0.02
        # What is written rebuilds the mesh, and the points on the image are those of the mesh.
        found = body(
            torch.from_numpy(whole.pose)[None],
            torch.from_numpy(whole.translation)[None],
            torch.from_numpy(whole.shape)[None],
        )[0][0]
        assert np.abs(found.numpy() - whole.vertices).max() < 1e-5
        flat = whole.keypoints @ K.numpy().T
        assert np.allclose(flat[:, :2] / flat[:, 2:], whole.keypoints_2d, atol=1e-2)


def test_a_hand_too_small_or_elsewhere_stays_on_its_own(body, hand, truth):
    alone, right = see_body(body, truth), see_hand(body, hand, truth, "right")
    longer = float(max(right.box[2:] - right.box[:2]))
    small = JoiningRules(least_px=longer + 1)
    assert join_hands([alone, right], body, hand, small) == [alone, right]
    right.keypoints_2d = right.keypoints_2d + 200
    assert join_hands([alone, right], body, hand) == [alone, right]
    # A wrist that a finder saw is believed rather than the body's own.
    there = [{"right": right.keypoints_2d[hand.keypoint_names.index("wrist")]}, {}]
    (whole,) = join_hands([alone, right], body, hand, wrists=there)
    assert whole.hands == ("right",)


def test_of_two_hands_at_a_wrist_the_nearer_is_taken(body, hand, truth):
    alone, right = see_body(body, truth), see_hand(body, hand, truth, "right")
    other = see_hand(body, hand, truth, "right")
    other.keypoints_2d = other.keypoints_2d + 5.0
    found = join_hands([alone, other, right], body, hand)
    assert [one.kind for one in found] == ["body", "right_hand"] and found[1] is other


def test_a_wrist_that_nobody_agrees_on_stays_and_the_fingers_come(body, hand, truth):
    alone = see_body(body, truth, wrist_off_deg=120.0)
    right = see_hand(body, hand, truth, "right")
    rules = JoiningRules(angle_deg=90.0, bend_deg=180.0)
    (whole,) = join_hands([alone, right], body, hand, rules)
    wrist = body.joint_names.index("wrist.R")
    forearm = body.joint_names.index("lowerarm02.R")
    facing = [one.pose[forearm] @ one.pose[wrist] for one in (whole, alone)]
    assert np.allclose(*facing, atol=1e-5)
    rows = hand_rows(body, "right")
    assert np.allclose(whole.pose[rows], truth.pose[0, rows].numpy(), atol=1e-5)
    (whole,) = join_hands([alone, right], body, hand, JoiningRules(bend_deg=5.0))
    bend = matrix_to_axis_angle(torch.from_numpy(whole.pose[wrist])).norm()
    assert float(torch.rad2deg(bend)) == pytest.approx(5, abs=0.1)


def test_the_forearm_twists_and_the_wrist_bends():
    axis = torch.nn.functional.normalize(torch.tensor([0.6, -0.3, 0.5]), dim=0)
    rotation = axis_angle_to_matrix(torch.tensor([1.1, 0.4, -0.8]))
    twist = find_twist(rotation, axis)
    bend = matrix_to_axis_angle(twist.T @ rotation)
    assert float(bend @ axis) == pytest.approx(0, abs=1e-5)
    assert torch.allclose(twist @ axis, axis, atol=1e-6)


def test_the_hand_counts_the_less_the_more_they_differ():
    shares = [blend_share(angle, 90.0) for angle in (0, 45, 60, 80, 90, 150)]
    assert shares[:2] == [1, 1] and shares[4:] == [0, 0]
    assert shares == sorted(shares, reverse=True) and 0 < shares[3] < shares[2] < 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """run= of a body and a hand that nobody trained."""
    folder = tmp_path_factory.mktemp("pair")
    return f"run={make_run(folder / 'body')},{make_run(folder / 'hand', 'hand', seed=1)}"


@pytest.mark.parametrize(
    ("key", "names", "told"),
    [
        ("join_hands=true", ["body-1"], "1 body with 1 hand"),
        ("join_hands=false", ["body-1", "left_hand-2"], "1 body and 1 hand"),
        ("hand_px=60", ["body-1", "left_hand-2"], "1 body and 1 hand"),
    ],
)
def test_predict_writes_one_mesh_with_fingers(
    pair, monkeypatch, tmp_path, capsys, key, names, told
):
    # Networks that nobody trained do not meet at a wrist by themselves.
    monkeypatch.setattr(
        "finetune.predict.JoiningRules", lambda least_px: JoiningRules(least_px, reach=1e9)
    )
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text(
        "image,x0,y0,x1,y1,side\na.png,20,10,90,110,\na.png,90,30,140,80,left\n"
    )
    words = [str(tmp_path / "a.png"), pair, f"boxes={tmp_path}/boxes.csv", f"out={tmp_path}/out"]
    assert main(["predict", *words, key, "device=cpu"]) == 0
    assert f"a.png: {told}: " in capsys.readouterr().out
    people = json.loads((tmp_path / "out/a.json").read_text())["people"]
    assert [one["name"] for one in people] == names
    assert people[0].get("hands") == (["left"] if len(names) == 1 else None)
    with np.load(tmp_path / "out/a.npz") as arrays:
        assert np.allclose(arrays["body/pose"][0], people[0]["pose"], atol=1e-5)
    scene = trimesh.load(tmp_path / "out/a.glb")
    assert set(scene.geometry) == set(names)


def test_fingers_are_measured_on_labelled_clips(pair, people, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("finetune.evaluation.fingers.LEAST_SEEN", 0.0)
    body, hand = pair.removeprefix("run=").split(",")
    shard = str(sorted(people["body"].glob("*.tar"))[-1])
    words = [shard, f"body={body}", f"hand={hand}", "device=cpu", "clips=3"]
    assert main(["fingers", *words, "hand_px=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "hands in" in lines[0] and len(lines) == 5 and "[" in lines[2]
    with pytest.raises(UserError, match="no hand there is at least 500 px"):
        main(["fingers", *words, "hand_px=500"])

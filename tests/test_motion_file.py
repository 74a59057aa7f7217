"""One recorded motion for all people: files of predict, read by a reader that knows their names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from moving import make_take, make_track

from data.bodies.models import open_model
from data.bodies.smpl_layout import SMPL
from data.format.index import read_index
from data.people import make
from data.people.actions.sampling import sample_stretch
from data.people.config import Domain, PeopleConfig, population
from data.people.motion import even_times
from data.people.recorded import amass, retarget
from data.people.recorded.folder import Recordings, mark_recording, read_track
from data.people.recorded.predicted import _take_anny, read_predicted
from data.people.recorded.turns import unit
from data.people.rig import Rig
from data.people.skeleton import Skeleton
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.animation.formats.npz import write_npz

ROOT = Path(__file__).resolve().parent.parent
EASY = str(ROOT / "configs/data/people_body_easy.yaml")
TO_CAMERA = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # z up to y down, seen from the front
RATE_HZ = 25.0
LIMBS = [
    (f"{a}.{side}", f"{b}.{side}")
    for side in "LR"
    for a, b in (
        ("upperleg01", "lowerleg01"),
        ("lowerleg01", "foot"),
        ("upperarm01", "lowerarm01"),
        ("lowerarm01", "wrist"),
    )
]


@pytest.fixture(scope="module")
def body():
    return open_model("anny").coarse(64)


@pytest.fixture(scope="module")
def figure(body):
    """(rig, skeleton) of a middle adult."""
    shape = torch.full((1, len(body.shape_space.names)), body.shape_space.mean)
    rest = body.read_rest(shape)[1][0].numpy().astype(np.float64)
    feet = np.array([rest[list(body.joint_names).index(f"foot.{side}")] for side in "LR"])
    soles = np.stack([feet + [0, 0.05, -0.07], feet + [0, -0.2, -0.07]], 1)
    skeleton = Skeleton(body.joint_names, body.parents, rest, soles)
    return Rig(body.joint_names, rest), skeleton


@pytest.fixture(scope="module")
def known(figure):
    """What somebody does who walks and sits, (T, 104, 3, 3) and (T, 3)."""
    times_s = np.arange(50) / RATE_HZ
    found = sample_stretch(np.random.default_rng(2), times_s, *figure, ["walk", "sit"])
    return found.rotations, found.root


@pytest.fixture(scope="module")
def file(body, known, tmp_path_factory):
    """An NPZ of a video with two people, one of whom is in few frames."""
    rotations, root = known
    pose = rotations.copy()
    pose[:, 0] = TO_CAMERA @ pose[:, 0]
    track = make_track(body, frames=tuple(range(50)))
    track.pose, track.times = pose.astype(np.float32), np.arange(50) / RATE_HZ
    track.translation = (root @ TO_CAMERA.T + [0, 0, 4]).astype(np.float32)
    track.shape = np.full(len(body.shape_space.names), body.shape_space.mean, np.float32)
    take = make_take(make_track(body, name="body-2"), track, frames=50)
    stem = tmp_path_factory.mktemp("predicted") / "clip"
    return str(write_npz(take, stem)[0])


def test_the_chain_of_joints_is_that_of_the_body_model(body):
    names, parents = list(body.joint_names), list(body.parents)
    figure = _take_anny(names)
    assert len(figure.joints) == 10 + 2 * 14
    for joint, parent in zip(figure.joints[1:], figure.parents[1:], strict=True):
        assert parents[joint] == figure.joints[parent]
    assert {"pelvis", "chest", "head", "left_hip", "right_toes"} < set(figure.roles)


def test_motions_of_predict_come_back(file, known, figure):
    rig, skeleton = figure
    track = read_predicted(file)
    assert track.rate_hz == pytest.approx(RATE_HZ) and len(track.root) == 50
    assert track.leg == pytest.approx(skeleton.leg_m, rel=0.02)
    times_s = np.arange(50) / RATE_HZ
    fitted = retarget.fit_rest(track, rig)
    pose = retarget.put_on_rig(track, fitted, rig, times_s, skeleton.leg_m)
    still = np.zeros((50, 3))
    found, _ = skeleton.find_joints(pose.rotations, still)
    true, _ = skeleton.find_joints(known[0], still)
    for start, end in LIMBS:
        a, b = (skeleton.index[name] for name in (start, end))
        cos = (unit(found[:, b] - found[:, a]) * unit(true[:, b] - true[:, a])).sum(-1)
        assert np.rad2deg(np.arccos(np.clip(cos, -1, 1))).max() < 6, (start, end)
    moved, truly = pose.root[:, :2], known[1][:, :2]
    np.testing.assert_allclose(moved - moved[0], truly - truly[0], atol=0.03)


def write_smpl(path, **other):
    """A file of predict with SMPL, and the rotations (F, 24, 3, 3) in it."""
    rng = np.random.default_rng(0)

    names, parents = list(SMPL.joint_names), list(SMPL.parents)
    turns = torch.from_numpy(rng.normal(0, 0.3, (6, len(names), 3)))

    pose = axis_angle_to_matrix(turns).numpy()
    frames, places = [pose[:, 0]], [rng.normal(0, 1, (6, 3))]
    for joint in range(1, len(names)):
        parent = parents[joint]
        offset = amass.OFFSETS[joint] if joint < 22 else np.array([0.08, 0, 0])
        places.append(places[parent] + frames[parent] @ offset)
        frames.append(frames[parent] @ pose[:, joint])
    about = {"format": 1, "tracks": [{"name": "p", "kind": "body", "body": "smpl"}]}
    about["tracks"][0]["joint_names"] = names
    arrays = {
        "about": json.dumps(about),
        "p/times": np.arange(6) / 30,
        "p/pose": pose,
        "p/joints": np.stack(places, 1),
    }
    np.savez(path, **{**arrays, **other})
    return np.stack(frames, 1)


def test_smpl_is_read_as_it_is(tmp_path):
    frames = write_smpl(tmp_path / "a.npz")
    track = read_track(str(tmp_path / "a.npz"))
    for role, joint in amass.ROLES.items():
        turned = TO_CAMERA.T @ frames[:, joint]
        np.testing.assert_allclose(track.rotations[role], turned, atol=1e-5)
    leg = np.linalg.norm(amass.OFFSETS[4]) + np.linalg.norm(amass.OFFSETS[7])
    assert track.leg == pytest.approx(leg, rel=1e-5)


def test_the_longest_stretch_without_a_gap_is_taken(tmp_path):
    times = np.array([0, 1, 10, 11, 12, 13]) / 30
    write_smpl(tmp_path / "a.npz", **{"p/times": times})
    track = read_predicted(str(tmp_path / "a.npz"))
    assert len(track.root) == 4 and track.rate_hz == pytest.approx(30)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"about": "{"}, "is no file of predict, or is damaged"),
        ({"about": json.dumps({"format": 9, "tracks": []})}, "of format 9, and this version reads"),
        ({"about": json.dumps({"format": 1, "tracks": []})}, "holds no whole body"),
        ({"p/times": np.zeros(6)}, "in no two frames one after the other"),
        ({"p/times": np.arange(5)}, r"p/times is \(5,\) and has to be finite \(6,\)"),
        ({"p/joints": np.full((6, 24, 3), np.nan)}, "p/joints is .* and has to be finite"),
    ],
)
def test_files_of_predict_that_are_none_are_told(tmp_path, other, words):
    write_smpl(tmp_path / "a.npz", **other)
    with pytest.raises(UserError, match=words):
        mark_recording(str(tmp_path / "a.npz"))


def test_everybody_moves_by_the_file(file, tmp_path):
    config = PeopleConfig(out="none", motion=file, domain=Domain(actions_share=1.0))
    make.mark_folders(config)
    assert len(config.motion_mark) == 16
    assert population(config) != population(PeopleConfig(out="none", domain=config.domain))
    sets = [f"out={tmp_path}/set", "device=cpu", "clips=2", "size=64", "cameras=2", "gap_s=0.2"]
    assert make.main([EASY, f"motion={file}", *sets]) == 0
    assert len(read_index(f"{tmp_path}/set/shard-000000.tar")) == 2
    with pytest.raises(UserError, match="motion=None|motion_mark"):
        make.main([EASY, *sets])


def test_a_clip_that_is_longer_than_the_motion_is_told(file, figure):
    recordings = Recordings(file, figure[0])
    take = recordings.draw(np.random.default_rng(0), even_times(3, 0.5), 0.8, 5.0)
    assert len(take.times_s) == 3
    with pytest.raises(UserError, match=r"motion=.*clip.npz: it takes 1.96 s, a clip 2"):
        recordings.draw(np.random.default_rng(0), even_times(3, 1.0), 0.8, 5.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".", "a folder; domain.recorded= takes one"),
        ("none.bvh", "no such file"),
        ("a.fbx", "files that end on .bvh, .npz"),
        ("empty.bvh", "does not begin with HIERARCHY|is no BVH file"),
        ("empty.npz", r"is empty \(0 bytes\)"),
    ],
)
def test_paths_that_hold_no_motion_are_told(tmp_path, name, words):
    if not name.startswith((".", "none")):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=words):
        make.mark_folders(PeopleConfig(out="none", motion=str(tmp_path / name)))


def test_a_file_and_a_folder_are_refused_together():
    config = PeopleConfig(out="none", motion="a.bvh", domain=Domain(recorded="b"))
    with pytest.raises(UserError, match="motion=a.bvh and domain.recorded=b both say how people"):
        config.check()

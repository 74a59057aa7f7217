"""Protocols of bodies: their files and their numbers.

The references are plain loops over frames with roma's alignment and scipy's rotations.
"""

import pickle

import numpy as np
import pytest
import roma
import torch
from body_standins import make_body, pose_by_loops, write_npz
from scipy import integrate
from scipy.spatial.transform import Rotation

from data.bodies.body_files import VARIABLE
from engine.errors import UserError
from finetune.evaluation.protocols import PROTOCOLS, Frames
from finetune.evaluation.protocols.threedpw_challenge import write_sequence
from finetune.verb_config import ScoreConfig

ORIENTED = [0, 1, 2, 4, 5, 16, 17, 18, 19]


def make_frames(count=9, joints=24, seed=0, spread=0.05) -> tuple[Frames, Frames]:
    random = np.random.default_rng(seed)
    true = random.normal(0, 0.3, (count, joints, 3)) + (0, 0, 4)
    turn = Rotation.random(rng=random).as_matrix()
    found = 0.9 * true @ turn + random.normal(0, spread, true.shape)
    return Frames(found, name="pred"), Frames(true, name="truth")


def numbers(name: str, found: Frames, true: Frames) -> dict[str, float]:
    return {value.key: value.value for value in PROTOCOLS.find(name)().score(found, true).values}


def align(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(moved points, rotation) of one frame, by roma."""
    x, y = torch.from_numpy(found), torch.from_numpy(true)
    turn, shift, scale = roma.rigid_points_registration(x, y, compute_scaling=True)
    return (scale * x @ turn.T + shift).numpy(), turn.numpy()


def errors_of(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.array([np.linalg.norm(f - t, axis=1) for f, t in zip(found, true, strict=True)])


@pytest.mark.parametrize("name", ["3dpw", "h36m_p1", "h36m_p2", "mpi_inf_3dhp"])
def test_joints_about_the_pelvis_and_aligned(name):
    found, true = make_frames(joints=17 if name == "mpi_inf_3dhp" else 14)
    random = np.random.default_rng(5)
    found.pelvis, true.pelvis = random.normal(size=(2, 9, 3))
    mine = numbers(name, found, true)
    rooted = found.joints - found.pelvis[:, None], true.joints - true.pelvis[:, None]
    plain = 1000 * errors_of(*rooted)
    moved = [align(f, t)[0] for f, t in zip(*rooted, strict=True)]
    assert mine["MPJPE"] == pytest.approx(np.mean([frame.mean() for frame in plain]), abs=1e-8)
    wanted = 1000 * errors_of(np.array(moved), rooted[1]).mean()
    assert mine["Reconstruction Error"] == pytest.approx(wanted, abs=1e-6)
    if name == "mpi_inf_3dhp":
        plain = plain.ravel()
        assert mine["3DPCK"] == pytest.approx(100 * np.mean(plain < 150), abs=1e-9)
        areas = [100 * np.mean(plain < limit) for limit in np.linspace(0, 150, 31)]
        assert mine["3DAUC"] == pytest.approx(np.mean(areas), abs=1e-9)


def test_pck_does_not_count_what_lies_on_the_limit():
    true = Frames(np.zeros((1, 17, 3)), name="truth")
    found = Frames(np.zeros((1, 17, 3)), name="pred")
    found.joints[0, :, 0] = 0.001 * np.where(np.arange(17) < 8, 150, 149)
    assert numbers("mpi_inf_3dhp", found, true)["3DPCK"] == pytest.approx(100 * 9 / 17)


def test_degenerate_predictions_are_told():
    found, true = make_frames(joints=14)
    found.joints[3] = 0.2
    scores = PROTOCOLS.find("3dpw")().score(found, true)
    assert np.isnan(scores.values[1].value) and np.isfinite(scores.values[0].value)
    assert scores.notes == [
        "In 1 of 9 frames all predicted joints lie in one point: their scale is 0 / 0, and "
        "numbers after the alignment are NaN or noise, as the script's."
    ]
    found.joints[3] = true.joints[3]
    found.joints[..., 2] = 4  # in a plane
    moved = [align(f, t)[0] for f, t in zip(found.joints, true.joints, strict=True)]
    wanted = 1000 * errors_of(np.array(moved), true.joints).mean()
    mine = numbers("3dpw", found, true)
    assert mine["Reconstruction Error"] == pytest.approx(wanted, abs=1e-6)


def test_meshes_and_accelerations_come_beside_3dpw():
    found, true = make_frames(joints=14)
    random = np.random.default_rng(3)
    found.vertices, true.vertices = random.normal(size=(2, 9, 30, 3))
    found.pelvis, true.pelvis = random.normal(size=(2, 9, 3))
    true.sequence = np.array([0] * 4 + [1] * 2 + [2] * 3)
    mine = numbers("3dpw", found, true)
    about = found.vertices - found.pelvis[:, None], true.vertices - true.pelvis[:, None]
    assert mine["pve"] == pytest.approx(1000 * errors_of(*about).mean())
    gaps = (found.joints - found.pelvis[:, None]) - (true.joints - true.pelvis[:, None])
    errors = []
    for first, last in ((0, 4), (6, 9)):  # the middle one is too short
        for t in range(first + 1, last - 1):
            second = gaps[t - 1] - 2 * gaps[t] + gaps[t + 1]
            errors.append(np.linalg.norm(second, axis=1).mean())
    assert mine["accel"] == pytest.approx(1000 * np.mean(errors))


def reference_angles(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    turns = Rotation.from_matrix((found @ true.swapaxes(-1, -2)).reshape(-1, 3, 3))
    return np.degrees(turns.magnitude()).reshape(found.shape[:2])


def with_rotations(found: Frames, true: Frames, seed=1) -> None:
    random = np.random.default_rng(seed)
    for frames in (found, true):
        turns = Rotation.random(len(found) * 9, rng=random).as_matrix()
        frames.rotations = turns.reshape(-1, 9, 3, 3)


def test_the_challenge_equals_a_reference():
    found, true = make_frames(spread=0.08)
    with_rotations(found, true)
    found.joints[5] = 1.5  # all in one point: moved to the mean of the truth
    mine = numbers("3dpw_challenge", found, true)
    f, t = found.joints - found.joints[:, :1], true.joints - true.joints[:, :1]
    plain = 1000 * errors_of(f, t)
    moved, turns = [], []
    for row in range(9):
        if row == 5:
            moved.append(np.tile(t[row].mean(0), (24, 1)))
            turns.append(np.eye(3))
        else:
            points, turn = align(f[row], t[row])
            moved.append(points)
            turns.append(turn)
    major = plain[:, [1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21]]
    limits = np.arange(200.0)
    shares = [np.mean(major <= limit) for limit in limits]
    area, uncertainty = integrate.quad(lambda x: np.interp(x, limits / 199, shares), 0, 1)
    turned = np.array(turns)[:, None] @ found.rotations
    wanted = {
        "MPJPE": plain.mean(),
        "MPJPE_PA": 1000 * errors_of(np.array(moved), t).mean(),
        "PCK": 100 * np.mean(major <= 50),
        "AUC": area,
        "MPJAE": reference_angles(found.rotations, true.rotations).mean(),
        "MPJAE_PA": reference_angles(turned, true.rotations).mean(),
    }
    assert mine.keys() == wanted.keys()
    for key, value in wanted.items():
        most = max(uncertainty, 1e-6) if key == "AUC" else 1e-5
        assert mine[key] == pytest.approx(value, abs=most), key


def write_challenge(folder, random, frames=6):
    """A sequence of two people in both folders, with the predictions equal to the truth."""
    cameras = np.tile(np.eye(4), (frames, 1, 1))
    cameras[:, :3, :3] = Rotation.random(frames, rng=random).as_matrix()
    cameras[:, :3, 3] = random.normal(size=(frames, 3))
    poses = random.normal(0, 0.5, (2, frames, 72))
    joints = random.normal(0, 0.4, (2, frames, 24, 3))
    valid = np.ones((2, frames))
    valid[0, 2] = 0
    points = random.random((2, frames, 3, 18))
    points[1, 4] = 0
    tree = {
        "poses": list(poses),
        "jointPositions": list(joints.reshape(2, frames, 72)),
        "cam_poses": cameras,
        "campose_valid": list(valid),
        "poses2d": list(points),
    }
    (folder / "truth" / "test").mkdir(parents=True)
    (folder / "truth" / "test" / "walk.pkl").write_bytes(pickle.dumps(tree))
    people = []
    for person in range(2):
        turn = cameras[:, :3, :3]
        seen = joints[person] @ turn.swapaxes(1, 2) + cameras[:, None, :3, 3]
        chained = np.zeros((frames, 9, 3, 3))
        for row in range(frames):
            local = Rotation.from_rotvec(poses[person, row].reshape(24, 3)).as_matrix()
            for place, joint in enumerate(ORIENTED):
                whole, at = np.eye(3), joint
                parents = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17]
                while at >= 0:
                    whole, at = local[at] @ whole, parents[at]
                chained[row, place] = turn[row] @ whole
        people.append(Frames(seen, rotations=chained))
    write_sequence(str(folder / "pred"), "test", "walk", people)
    return ScoreConfig(str(folder / "pred"), str(folder / "truth"), "3dpw_challenge")


def test_files_of_the_challenge(tmp_path):
    config = write_challenge(tmp_path, np.random.default_rng(0))
    scores = PROTOCOLS.find("3dpw_challenge")().score_files(config)
    mine = {value.key: value.value for value in scores.values}
    assert scores.frames == 10  # of 12: one camera did not fit, in one frame nobody was found
    for key in ("MPJPE", "MPJPE_PA", "MPJAE"):
        assert mine[key] == pytest.approx(0, abs=1e-4), key
    assert mine["PCK"] == 100 and mine["AUC"] == 1
    path = tmp_path / "pred" / "test" / "walk.pkl"
    tree = pickle.loads(path.read_bytes())
    tree["jointPositions"] = np.array(tree["jointPositions"])[:, :5]
    path.write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError, match=r"shape \(2, 5, 24, 3\), the truth asks for \(2, 6, 24, 3"):
        PROTOCOLS.find("3dpw_challenge")().score_files(config)
    path.rename(tmp_path / "pred" / "test" / "run.pkl")
    with pytest.raises(UserError, match="run.pkl is in one of them alone"):
        PROTOCOLS.find("3dpw_challenge")().score_files(config)


def reference_jitter(joints: np.ndarray) -> float:
    still = [0, 7, 8, 10, 11, 20, 21, 22, 23]
    found = []
    for t in range(len(joints) - 3):
        third = joints[t + 3] - 3 * joints[t + 2] + 3 * joints[t + 1] - joints[t]
        third[still] = 0
        found += list(np.linalg.norm(third, axis=1) * 27000)
    return np.mean(found) / 10


def test_emdb_equals_a_reference():
    found, true = make_frames()
    with_rotations(found, true)
    random = np.random.default_rng(2)
    found.vertices, true.vertices = random.normal(size=(2, 9, 40, 3))
    true.sequence = np.array([0] * 5 + [1] * 4)
    mine = numbers("emdb", found, true)
    lists: dict[str, list[float]] = {key: [] for key in ("MPJPE", "MPJPE_PA", "MVE", "MVE_PA")}
    turned = []
    for row in range(9):
        hips = [frames.joints[row, 1:3].mean(0) for frames in (found, true)]
        f, t = found.joints[row] - hips[0], true.joints[row] - hips[1]
        v, w = found.vertices[row] - hips[0], true.vertices[row] - hips[1]
        x, y = torch.from_numpy(f), torch.from_numpy(t)
        turn, shift, scale = roma.rigid_points_registration(x, y, compute_scaling=True)
        turn, shift, scale = turn.numpy(), shift.numpy(), scale.item()
        turned.append(turn @ found.rotations[row])
        for key, a, b in (
            ("MPJPE", f, t),
            ("MPJPE_PA", scale * f @ turn.T + shift, t),
            ("MVE", v, w),
            ("MVE_PA", scale * v @ turn.T + shift, w),
        ):
            lists[key].append(1000 * np.linalg.norm(a - b, axis=1).mean())
    for key, values in lists.items():
        assert mine[key] == pytest.approx(np.mean(values), rel=1e-6), key
        assert mine[f"{key} std"] == pytest.approx(np.std(values), rel=1e-5), key
    angles = reference_angles(np.array(turned), true.rotations).mean(1)
    assert mine["MPJAE_PA"] == pytest.approx(angles.mean(), abs=1e-5)
    jitters = [reference_jitter(found.joints[:5]), reference_jitter(found.joints[5:])]
    assert mine["Jitter"] == pytest.approx(np.mean(jitters), rel=1e-9)


def test_files_of_emdb_are_posed_by_the_users_smpl(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    random, count = np.random.default_rng(0), 6
    neutral, female = make_body("smpl", seed=1), make_body("smpl", "female", seed=2)
    write_npz(tmp_path / "bodies" / "smpl" / "SMPL_NEUTRAL.npz", neutral)
    write_npz(tmp_path / "bodies" / "smpl" / "SMPL_FEMALE.npz", female)
    pose, betas = random.normal(0, 0.4, (count, 72)), random.normal(size=10)
    trans = random.normal(size=(count, 3))
    cameras = np.tile(np.eye(4), (count, 1, 1))
    cameras[:, :3, :3] = Rotation.random(count, rng=random).as_matrix()
    good = np.array([1, 1, 0, 1, 1, 1], bool)
    tree = {
        "gender": "female",
        "name": "P0_walk",
        "emdb1": True,
        "emdb2": False,
        "n_frames": count,
        "good_frames_mask": good,
        "camera": {"extrinsics": cameras},
        "smpl": {
            "poses_root": pose[:, :3],
            "poses_body": pose[:, 3:],
            "trans": trans,
            "betas": betas,
        },
    }
    (tmp_path / "emdb" / "P0" / "walk").mkdir(parents=True)
    path = tmp_path / "emdb" / "P0" / "walk" / "P0_walk_data.pkl"
    path.write_bytes(pickle.dumps(tree))
    (tmp_path / "pred").mkdir()
    guess = random.normal(0, 0.4, (count, 72))
    np.savez(tmp_path / "pred" / "P0_walk.npz", pose=guess, betas=np.zeros(10))
    config = ScoreConfig(str(tmp_path / "pred"), str(tmp_path / "emdb"), "emdb")
    scores = PROTOCOLS.find("emdb")().score_files(config)
    mine = {value.key: value.value for value in scores.values}
    errors = []
    for row in np.flatnonzero(good):
        world = pose_by_loops(female, pose[row].reshape(24, 3), betas, trans[row])
        vertices, joints = (points @ cameras[row, :3, :3].T for points in world)
        v, j = pose_by_loops(neutral, guess[row].reshape(24, 3), np.zeros(10), np.zeros(3))
        hips = joints[1:3].mean(0), j[1:3].mean(0)
        errors.append(
            [
                np.linalg.norm(j - hips[1] - joints + hips[0], axis=1).mean(),
                np.linalg.norm(v - hips[1] - vertices + hips[0], axis=1).mean(),
            ]
        )
    wanted = 1000 * np.mean(errors, 0)
    assert (mine["MPJPE"], mine["MVE"]) == pytest.approx(wanted, abs=0.01)
    assert scores.frames == 5
    np.savez(tmp_path / "pred" / "P0_walk.npz", pose=guess[:4], betas=np.zeros(10))
    with pytest.raises(UserError, match="holds 4 frames, .* 6"):
        PROTOCOLS.find("emdb")().score_files(config)
    config.split = "emdb2"
    with pytest.raises(UserError, match="1 sequences, none of emdb2"):
        PROTOCOLS.find("emdb")().score_files(config)


def test_files_of_spin(tmp_path):
    random = np.random.default_rng(0)
    rows, count = random.normal(0, 0.3, (5, 17, 3)), 5
    labelled = np.zeros((count, 24, 4))
    # SPIN writes Human3.6M's 17 joints into these of the 24 places, about the pelvis.
    places = [14, 3, 4, 5, 2, 1, 0, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6]
    labelled[:, places, :3] = rows - rows[:, :1]
    labelled[:, places, 3] = 1
    names = [f"images/S9_Walk.{camera}_{i:06d}.jpg" for i, camera in enumerate([1, 60457274] * 2)]
    names.append("images/S9_Walk.60457274_000009.jpg")
    np.savez(tmp_path / "truth.npz", S=labelled, imgname=np.array(names))
    np.savez(tmp_path / "pred.npz", pred_joints=rows + 7.0)
    config = ScoreConfig(str(tmp_path / "pred.npz"), str(tmp_path / "truth.npz"), "h36m_p1")
    for name, frames in (("h36m_p1", 5), ("h36m_p2", 3), ("mpi_inf_3dhp", 5)):
        scores = PROTOCOLS.find(name)().score_files(config)
        assert scores.frames == frames
        assert [value.value for value in scores.values[:2]] == pytest.approx([0, 0], abs=1e-9)
    np.savez(tmp_path / "pred.npz", pred_joints=rows[:3])
    with pytest.raises(UserError, match="of 3 frames, .* the truth of 5"):
        PROTOCOLS.find("h36m_p1")().score_files(config)
    labelled[2, 18, 3] = 0
    np.savez(tmp_path / "truth.npz", S=labelled)
    with pytest.raises(UserError, match="1 of 5 rows lack some of the 14 joints, .* row 2"):
        PROTOCOLS.find("h36m_p1")().score_files(config)


def test_3dpw_regresses_joints_of_gendered_meshes(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    random = np.random.default_rng(0)
    bodies = {"m": make_body("smpl", "male", seed=1), "f": make_body("smpl", "female", seed=2)}
    for short, long in (("m", "MALE"), ("f", "FEMALE")):
        write_npz(tmp_path / "bodies" / "smpl" / f"SMPL_{long}.npz", bodies[short])
    matrix = random.random((17, 90)) ** 4
    matrix /= matrix.sum(1, keepdims=True)
    np.save(tmp_path / "regressor.npy", matrix)
    pose, shape = random.normal(0, 0.3, (4, 72)), random.normal(size=(4, 10))
    genders = np.array(["m", "f", "m", "f"])
    np.savez(tmp_path / "truth.npz", pose=pose, shape=shape, gender=genders)
    found = random.normal(0, 0.5, (4, 90, 3))
    np.savez(tmp_path / "pred.npz", vertices=found)
    config = ScoreConfig(
        str(tmp_path / "pred.npz"),
        str(tmp_path / "truth.npz"),
        "3dpw",
        regressor=str(tmp_path / "regressor.npy"),
    )
    mine = {v.key: v.value for v in PROTOCOLS.find("3dpw")().score_files(config).values}
    order, errors, meshes = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10], [], []
    for row in range(4):
        body = bodies[genders[row]]
        vertices, _ = pose_by_loops(body, pose[row].reshape(24, 3), shape[row], np.zeros(3))
        f, t = matrix @ found[row], matrix @ vertices
        errors.append(np.linalg.norm((f - f[0] - t + t[0])[order], axis=1).mean())
        meshes.append(np.linalg.norm(found[row] - f[0] - vertices + t[0], axis=1).mean())
    assert mine["MPJPE"] == pytest.approx(1000 * np.mean(errors), abs=0.01)
    assert mine["pve"] == pytest.approx(1000 * np.mean(meshes), abs=0.01)
    config.regressor = ""
    with pytest.raises(UserError, match="regressor= is not set"):
        PROTOCOLS.find("3dpw")().score_files(config)

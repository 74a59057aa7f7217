"""FreiHAND's and HO-3D's protocols: their files and their numbers.

The references are written from the definitions with scipy and plain loops, a frame at a time.
"""

import json

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from engine.errors import UserError
from finetune.__main__ import main
from finetune.evaluation.protocols import PROTOCOLS, Frames

V = 60  # vertices of the tests' meshes


def make_frames(count: int = 7, seed: int = 0, spread: float = 0.02) -> tuple[Frames, Frames]:
    """Predicted and true frames that differ by some centimetres, a rotation and a scale."""
    random = np.random.default_rng(seed)
    true = Frames(
        random.normal(0, 0.05, (count, 21, 3)) + (0, 0, 0.6),
        random.normal(0, 0.05, (count, V, 3)) + (0, 0, 0.6),
        name="truth",
    )
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    found = Frames(
        1.1 * true.joints @ turn + random.normal(0, spread, true.joints.shape),
        1.1 * true.vertices @ turn + random.normal(0, spread, true.vertices.shape),
        name="pred",
    )
    return found, true


def align_by_scipy(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """One frame's alignment with scale, reflections allowed."""
    a, b = true - true.mean(0), found - found.mean(0)
    size = np.linalg.norm(a) + 1e-8
    a, b = a / size, b / (np.linalg.norm(b) + 1e-8)
    turn, scale = orthogonal_procrustes(a, b)
    return b @ turn.T * scale * size + true.mean(0)


def align_all(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.stack([align_by_scipy(t, f) for t, f in zip(true, found, strict=True)])


def reference_pair(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Mean in cm and area under the curve: a curve for each point, then the mean over points."""
    limits = np.linspace(0, 0.05, 100)
    means, areas = [], []
    for point in range(true.shape[1]):
        errors = [
            np.sqrt(np.square(f[point] - t[point]).sum()) for f, t in zip(found, true, strict=True)
        ]
        means.append(np.mean(errors))
        shares = [np.mean([error <= limit for error in errors]) for limit in limits]
        areas.append(np.trapezoid(shares, limits) / 0.05)
    return 100 * float(np.mean(means)), float(np.mean(areas))


def reference_f(found: np.ndarray, true: np.ndarray, limit: float) -> float:
    scores = []
    for f, t in zip(found, true, strict=True):
        a = np.mean(cKDTree(t).query(f)[0] < limit)
        b = np.mean(cKDTree(f).query(t)[0] < limit)
        scores.append(2 * a * b / (a + b) if a + b else 0.0)
    return float(np.mean(scores))


def numbers(name: str, found: Frames, true: Frames) -> dict[str, float]:
    return {value.key: value.value for value in PROTOCOLS.find(name)().score(found, true).values}


@pytest.mark.parametrize("seed, spread", [(0, 0.02), (1, 0.004), (2, 0.0)])
def test_freihand_equals_a_reference_frame_by_frame(seed, spread):
    found, true = make_frames(seed=seed, spread=spread)
    mine = numbers("freihand", found, true)
    joints = np.stack(
        [align_by_scipy(t, f) for t, f in zip(true.joints, found.joints, strict=True)]
    )
    mesh = np.stack(
        [align_by_scipy(t, f) for t, f in zip(true.vertices, found.vertices, strict=True)]
    )
    wanted = {}
    for key, points, truth in (
        ("xyz", found.joints, true.joints),
        ("xyz_al", joints, true.joints),
        ("mesh", found.vertices, true.vertices),
        ("mesh_al", mesh, true.vertices),
    ):
        wanted[f"{key}_mean3d"], wanted[f"{key}_auc3d"] = reference_pair(points, truth)
    for mm in (5, 15):
        wanted[f"f_score_{mm}"] = reference_f(found.vertices, true.vertices, mm / 1000)
        wanted[f"f_al_score_{mm}"] = reference_f(mesh, true.vertices, mm / 1000)
    assert mine.keys() == wanted.keys()
    for key, value in wanted.items():
        assert mine[key] == pytest.approx(value, abs=1e-9), key


def test_a_mirrored_hand_is_forgiven_as_the_script_does():
    _, true = make_frames()
    found = Frames(true.joints * (-1, 1, 1), true.vertices * (-1, 1, 1), name="pred")
    assert numbers("freihand", found, true)["xyz_al_mean3d"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["point", "line", "plane"])
def test_degenerate_predictions_give_what_the_script_gives(kind):
    found, true = make_frames()
    keep = {"point": 0, "line": 1, "plane": 2}[kind]
    found.joints[..., keep:] = 0.3
    true.joints[3, :, 2] = 0.5  # and a true hand in a plane
    mine = numbers("freihand", found, true)
    joints = np.stack(
        [align_by_scipy(t, f) for t, f in zip(true.joints, found.joints, strict=True)]
    )
    wanted = reference_pair(joints, true.joints)
    assert (mine["xyz_al_mean3d"], mine["xyz_al_auc3d"]) == pytest.approx(wanted, abs=1e-9)
    notes = PROTOCOLS.find("freihand")().score(found, true).notes
    assert bool(notes) == (kind == "point")


def test_ho3d_also_scales_by_one_bone():
    found, true = make_frames(seed=4)
    found.joints[2, 4] = found.joints[2, 0]  # a bone of no length keeps the scale
    errors = []
    for f, t in zip(found.joints, true.joints, strict=True):
        length = np.linalg.norm(f[4] - f[0])
        factor = np.linalg.norm(t[4] - t[0]) / (length if length else 1)
        errors.append(np.linalg.norm((f - f[0]) * factor + t[0] - t, axis=1))
    mine = numbers("ho3d", found, true)
    assert mine["xyz_scale_trans_al_mean3d"] == pytest.approx(100 * np.mean(errors), abs=1e-9)
    plain = numbers("freihand", found, true)
    assert mine["xyz_procrustes_al_auc3d"] == plain["xyz_al_auc3d"]


def test_exact_hands_round_as_ho3ds_script_rounds_them():
    """An error of 0 counts at the first threshold, one of 1e-17 does not."""
    _, true = make_frames(20)
    found = Frames(true.joints, name="pred")
    scores = PROTOCOLS.find("ho3d")().score(found, Frames(true.joints, name="truth"))
    errors = []
    for joints in true.joints:
        bone = np.sqrt(np.square(joints[4] - joints[0]).sum())
        scaled = joints / bone * bone
        errors.append(np.linalg.norm(scaled - scaled[0] + joints[0] - joints, axis=1))
    first = np.mean(np.array(errors) <= 0)
    assert 0.1 < first < 0.9
    mine = {value.key: value.value for value in scores.values}
    assert mine["xyz_scale_trans_al_auc3d"] == pytest.approx(1 - (1 - first) / 2 / 99, abs=1e-12)


def test_a_mesh_that_is_not_manos_is_moved_by_the_joints():
    found, true = make_frames()
    found.vertices = found.vertices[:, :40]
    mine = numbers("freihand", found, true)
    assert mine["mesh_mean3d"] == -100 and mine["mesh_al_auc3d"] == -1
    moved = []
    for row in range(len(true)):
        f, t, v = found.joints[row], true.joints[row], found.vertices[row]
        size = np.linalg.norm(t - t.mean(0)) + 1e-8
        unit = (f - f.mean(0)) / (np.linalg.norm(f - f.mean(0)) + 1e-8)
        turn, scale = orthogonal_procrustes((t - t.mean(0)) / size, unit)
        shift = t.mean(0) - f.mean(0)
        moved.append((v - v.mean(0)) @ turn.T * scale * size + shift + v.mean(0))
    wanted = reference_f(np.stack(moved), true.vertices, 0.015)
    assert mine["f_al_score_15"] == pytest.approx(wanted, abs=1e-12)


def write_files(folder, found: Frames, true: Frames) -> list[str]:
    (folder / "evaluation_xyz.json").write_text(json.dumps(true.joints.tolist()))
    (folder / "evaluation_verts.json").write_text(json.dumps(true.vertices.tolist()))
    value = [found.joints.tolist(), found.vertices.tolist()]
    (folder / "pred.json").write_text(json.dumps(value))
    return ["score", str(folder / "pred.json"), f"truth={folder}", "protocol=freihand"]


def test_the_command_prints_the_scripts_digits(tmp_path, capsys):
    found, true = make_frames()
    out = tmp_path / "scores.json"
    assert main([*write_files(tmp_path, found, true), f"out={out}"]) == 0
    printed = capsys.readouterr().out
    wanted = reference_pair(found.joints, true.joints)
    assert f"xyz_mean3d      {wanted[0]:.6f}".split() == printed.splitlines()[1].split()[:2]
    written = json.loads(out.read_text())
    assert written["frames"] == 7 and written["values"][1]["value"] == pytest.approx(wanted[1])


def test_files_that_do_not_fit_are_told_in_one_sentence(tmp_path):
    found, true = make_frames()
    words = write_files(tmp_path, found, true)
    few = Frames(found.joints[:5], found.vertices[:5])
    write_files(tmp_path, few, true)
    with pytest.raises(UserError, match="predictions of 5 frames, .* the truth of 7"):
        main(words)
    found.joints[4, 2, 1] = np.nan
    write_files(tmp_path, found, true)
    with pytest.raises(UserError, match="joints of 1 of 7 frames hold NaN .* frame 4"):
        main(words)
    (tmp_path / "pred.json").write_text("[[], [], []]")
    with pytest.raises(UserError, match="list of 3, not"):
        main(words)
    (tmp_path / "pred.json").write_text(json.dumps([[[[0, 0, 0]] * 20], [[[0, 0, 0]] * 778]]))
    with pytest.raises(UserError, match=r"shape \(1, 20, 3\), not frames x 21 x 3"):
        main(words)
    with pytest.raises(UserError, match="protocol=freihnd is none of .*did you mean 'freihand'"):
        main([*words[:3], "protocol=freihnd"])
    with pytest.raises(UserError, match="truth= is not set"):
        main([words[0], words[1], words[3]])


def test_submissions_are_read_back(tmp_path):
    found, _ = make_frames()
    for name, turn in (("freihand", (1, 1, 1)), ("ho3d", (1, -1, -1))):
        path = tmp_path / f"{name}.json"
        PROTOCOLS.find(name)().write(str(path), found)
        joints, vertices = json.loads(path.read_text())
        assert np.allclose(np.array(joints) * turn, found.joints, atol=6e-6)
        assert np.allclose(np.array(vertices) * turn, found.vertices, atol=6e-6)

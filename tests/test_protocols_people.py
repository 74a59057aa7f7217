"""AGORA's and EHF's protocols: their files and their numbers, against plain loops."""

import pickle

import numpy as np
import pytest
import roma
import torch
import trimesh
from body_standins import make_body
from old_pickles import write_old
from scipy.spatial.transform import Rotation
from test_labelled_bodies import agora_table

from data.bodies.body_files import VARIABLE
from engine.errors import UserError
from finetune.evaluation.protocols import PROTOCOLS
from finetune.evaluation.scoring.matching import match_people
from finetune.verb_config import ScoreConfig

V = 6890
SMPLX = 10475


def make_person(random, centre, joints=24, vertices=V):
    return {
        "joints": centre + random.normal(0, 40, (joints, 2)),
        "allSmplJoints3d": random.normal(0, 0.3, (joints, 3)),
        "verts": random.normal(0, 0.3, (vertices, 3)),
    }


def near(random, person, pixels, metres):
    return {
        "joints": person["joints"] + random.normal(0, pixels, person["joints"].shape),
        "allSmplJoints3d": person["allSmplJoints3d"]
        + random.normal(0, metres, person["allSmplJoints3d"].shape),
        "verts": person["verts"] + random.normal(0, metres, person["verts"].shape),
    }


def write_files(folder, images):
    """A data frame and predictions of {image: (people, flags, predictions)}."""
    (folder / "pred").mkdir(parents=True)
    columns = {
        name: []
        for name in ("imgPath", "isValid", "occlusion", "kid")
        + ("gt_joints_2d", "gt_joints_3d", "gt_verts")
    }
    for name, (people, flags, predictions) in images.items():
        columns["imgPath"].append(f"{name}.png")
        for key in ("isValid", "occlusion", "kid"):
            columns[key].append([flag[key] for flag in flags])
        columns["gt_joints_2d"].append([one["joints"] for one in people])
        columns["gt_joints_3d"].append([one["allSmplJoints3d"] for one in people])
        columns["gt_verts"].append([one["verts"] for one in people])
        for number, one in enumerate(predictions):
            path = folder / "pred" / f"{name}_personId_{number}.pkl"
            kept = one | {"joints": one["joints"][:24]}
            path.write_bytes(pickle.dumps(kept))
    write_old(folder / "truth" / "validation_0.pkl", agora_table(columns))
    return ScoreConfig(str(folder / "pred"), str(folder / "truth"), "agora")


def flag(valid=True, occlusion=10.0, kid=False):
    return {"isValid": valid, "occlusion": occlusion, "kid": kid}


def test_agora_counts_and_errors_of_smpl(tmp_path):
    random = np.random.default_rng(0)
    people = [make_person(random, (400 * i, 300)) for i in range(6)]
    guesses = [near(random, one, 2, 0.02) for one in people]
    far = make_person(random, (9000, 9000))
    images = {
        # Two found, one of them by the nearer of two; the other is a false positive.
        "a_b_1": (
            people[:2],
            [flag(), flag(kid=True)],
            [*guesses[:2], near(random, people[0], 20, 0.5)],
        ),
        # One missed, one hidden beyond 90 %, whose prediction counts as wrong; one is not valid.
        "a_b_2": (
            people[2:5],
            [flag(), flag(occlusion=95.0), flag(valid=False)],
            [far, guesses[3]],
        ),
        "a_b_3": (people[5:], [flag()], []),  # nobody was predicted
    }
    config = write_files(tmp_path, images)
    body = np.sort(random.choice(V, 500, replace=False))
    (tmp_path / "indices").mkdir()
    np.save(tmp_path / "indices" / "body_verts_smpl.npy", body)
    with pytest.raises(UserError, match="indices= is not set"):
        PROTOCOLS.find("agora")().score_files(config)
    config.indices = str(tmp_path / "indices")
    scores = PROTOCOLS.find("agora")().score_files(config)
    mine = {value.key: value.value for value in scores.values}
    joints, meshes = [], []
    for person, guess in zip(people[:2], guesses[:2], strict=True):
        hips = [one["allSmplJoints3d"][1:3].mean(0) for one in (guess, person)]
        offsets = guess["allSmplJoints3d"] - hips[0] - person["allSmplJoints3d"] + hips[1]
        joints.append(np.linalg.norm(offsets, axis=1).mean())
        offsets = (guess["verts"] - hips[0] - person["verts"] + hips[1])[body]
        meshes.append(np.linalg.norm(offsets, axis=1).mean())
    # Valid: 2 + 2 + 1, found 2; wrong: 1 in the first image, both of the second.
    assert scores.frames == 5
    f1 = round(2 / (2 + 0.5 * (3 + 3)), 2)
    wanted = {
        "precision": 0.4,
        "recall": 0.4,
        "f1": f1,
        "body-MPJPE": round(1000 * np.mean(joints), 1),
        "body-MVE": round(1000 * np.mean(meshes), 1),
        "kid-body-MPJPE": round(1000 * joints[1], 1),
        "kid_f1": round(1 / (1 + 0.5 * 3), 2),
    }
    wanted["body-NMJE"] = round(wanted["body-MPJPE"] / f1, 1)
    wanted["body-NMVE"] = round(wanted["body-MVE"] / f1, 1)
    wanted["kid-body-NMJE"] = round(wanted["kid-body-MPJPE"] / wanted["kid_f1"], 1)
    for key, value in wanted.items():
        assert mine[key] == pytest.approx(value, abs=1e-9), key
    assert "fullbody-MVE" not in mine


def test_agora_of_smplx_has_hands_and_face(tmp_path):
    random = np.random.default_rng(1)
    people = [make_person(random, (500 * i, 300), 127, SMPLX) for i in range(2)]
    guess = near(random, people[0], 2, 0.02)
    config = write_files(tmp_path, {"x_y_0": (people, [flag(), flag()], [guess])})
    folder = tmp_path / "indices"
    folder.mkdir()
    parts = {name: random.choice(SMPLX, 50) for name in ("body", "left", "right", "face")}
    np.save(folder / "body_verts_smplx.npy", parts["body"])
    np.save(folder / "SMPL-X__FLAME_vertex_ids.npy", parts["face"])
    hands = {"left_hand": parts["left"], "right_hand": parts["right"]}
    (folder / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands))
    config.indices = str(folder)
    mine = {v.key: v.value for v in PROTOCOLS.find("agora")().score_files(config).values}
    wanted = {}
    for name, root, rows, vertices in (
        ("lhand", 20, [20, *range(25, 40)], parts["left"]),
        ("rhand", 21, [21, *range(40, 55)], parts["right"]),
        ("face", 12, [12, *range(76, 127)], parts["face"]),
        ("body", None, list(range(22)), parts["body"]),
    ):
        roots = []
        for one in (guess, people[0]):
            points = one["allSmplJoints3d"]
            roots.append(points[1:3].mean(0) if root is None else points[root])
        for kind, key, chosen in (("MPJPE", "allSmplJoints3d", rows), ("MVE", "verts", vertices)):
            offsets = (guess[key] - roots[0] - people[0][key] + roots[1])[chosen]
            error = 1000 * np.linalg.norm(offsets, axis=1).mean()
            # The missed person counts with 0 for hands and face, as the script has it.
            wanted[f"{name}-{kind}"] = round(error if name == "body" else error / 2, 1)
    for kind in ("MPJPE", "MVE"):
        full = wanted[f"body-{kind}"]
        full += sum(wanted[f"{part}-{kind}"] / 3 for part in ("lhand", "rhand", "face"))
        wanted[f"fullbody-{kind}"] = full
    for key, value in wanted.items():
        assert mine[key] == pytest.approx(value, abs=0.05 + 1e-9 if "full" in key else 1e-9), key
    assert mine["f1"] == 0.67
    assert mine["fullbody-NMJE"] == pytest.approx(mine["fullbody-MPJPE"] / 0.67, abs=0.051)


def test_agora_without_any_match_says_what_is_undefined(tmp_path):
    random = np.random.default_rng(2)
    person, far = make_person(random, (0, 0)), make_person(random, (5000, 0))
    config = write_files(tmp_path, {"i_0_0": ([person], [flag()], [far])})
    (tmp_path / "body_verts_smpl.npy").write_bytes(b"")
    np.save(tmp_path / "body_verts_smpl.npy", np.arange(10))
    config.indices = str(tmp_path)
    scores = PROTOCOLS.find("agora")().score_files(config)
    mine = {value.key: value.value for value in scores.values}
    assert mine["f1"] == 0 and np.isnan(mine["body-NMJE"])
    assert "divides by 0" in scores.notes[1]
    (tmp_path / "pred" / "other_personId_0.pkl").write_bytes(pickle.dumps(far))
    with pytest.raises(UserError, match="1 images such as other.png are none of the 1"):
        PROTOCOLS.find("agora")().score_files(config)


def test_matching_takes_the_nearest_pairs_first():
    random = np.random.default_rng(3)
    true = [np.array([100.0 * i, 0]) + random.normal(0, 20, (24, 2)) for i in range(3)]
    found = [true[1] + 1, true[1] + 3, true[2] + 2]
    matching = match_people(found, true, np.array([True, True, True]))
    assert matching.partner.tolist()[1:] == [0, 2]
    ignored = match_people(found[:1], true, np.array([True, False, True]))
    assert ignored.partner.tolist() == [-1 if i else ignored.partner[0] for i in range(3)]
    assert match_people([], true, np.ones(3, bool)).partner.tolist() == [-1, -1, -1]
    assert match_people(found, [], np.zeros(0, bool)).false_positives == 3


def test_ehf_equals_loops(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    random = np.random.default_rng(0)
    body = make_body("smplx", vertices=SMPLX, shapes=20)
    body["posedirs"] = np.zeros((SMPLX, 3, 486), np.float32)
    (tmp_path / "bodies" / "smplx").mkdir(parents=True)
    np.savez_compressed(tmp_path / "bodies" / "smplx" / "SMPLX_NEUTRAL.npz", **body)
    turn = Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687]).as_matrix()
    (tmp_path / "ehf").mkdir()
    (tmp_path / "pred").mkdir()
    true, found = [], []
    for name in ("01", "02"):
        world = random.normal(0, 0.4, (SMPLX, 3)).astype(np.float32)
        mesh = trimesh.Trimesh(world, [[0, 1, 2]], process=False)
        mesh.export(tmp_path / "ehf" / f"{name}_align.ply")
        true.append(world @ turn.T)
        found.append(0.9 * true[-1] + random.normal(0, 0.02, (SMPLX, 3)) + (0, 0, 3))
        np.save(tmp_path / "pred" / f"{name}.npy", found[-1])
    config = ScoreConfig(str(tmp_path / "pred"), str(tmp_path / "ehf"), "ehf")
    folder = tmp_path / "indices"
    folder.mkdir()
    left, right, face = (random.choice(SMPLX, 40, replace=False) for _ in range(3))
    np.save(folder / "SMPL-X__FLAME_vertex_ids.npy", face)
    hands = {"left_hand": left, "right_hand": right}
    (folder / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands))
    scores = PROTOCOLS.find("ehf")().score_files(config)
    assert len(scores.values) == 2 and "indices= is not set" in scores.notes[0]
    config.indices = str(folder)
    mine = {v.key: v.value for v in PROTOCOLS.find("ehf")().score_files(config).values}
    regressor = body["J_regressor"]
    wanted: dict[str, list[float]] = {}
    for f, t in zip(found, true, strict=True):
        for key, rows, root in (
            ("All", np.arange(SMPLX), 0),
            ("Left", left, 20),
            ("Right", right, 21),
            ("Face", face, 12),
        ):
            a, b = f - (regressor @ f)[root], t - (regressor @ t)[root]
            plain = np.linalg.norm((a - b)[rows], axis=1).mean()
            x, y = torch.from_numpy(f[rows]), torch.from_numpy(t[rows])
            r, s, c = roma.rigid_points_registration(x, y, compute_scaling=True)
            moved = torch.linalg.vector_norm(c * x @ r.T + s - y, dim=1).mean().item()
            wanted.setdefault(f"MPVPE ({key})", []).append(1000 * plain)
            wanted.setdefault(f"PA MPVPE ({key})", []).append(1000 * moved)
    for prefix in ("MPVPE", "PA MPVPE"):
        sides = wanted.pop(f"{prefix} (Left)"), wanted.pop(f"{prefix} (Right)")
        wanted[f"{prefix} (Hands)"] = [np.mean(sides)]
    assert mine.keys() == wanted.keys()
    for key, values in wanted.items():
        assert mine[key] == pytest.approx(np.mean(values), abs=1e-3), key
    (tmp_path / "pred" / "02.npy").unlink()
    with pytest.raises(UserError, match="holds 1 meshes, and none called 02.npy; the truth has 2"):
        PROTOCOLS.find("ehf")().score_files(config)

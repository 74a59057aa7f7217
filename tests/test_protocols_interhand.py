"""InterHand2.6M's protocol, against loops over samples and joints."""

import json

import numpy as np
import pytest

from engine.errors import UserError
from finetune.evaluation.protocols import PROTOCOLS
from finetune.verb_config import ScoreConfig

KINDS = ["right", "left", "interacting", "interacting", "right", "interacting"]


def write_files(folder, random):
    """Annotations of six images of two cameras; (ids, true joints in mm, valid)."""
    turns = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in range(2)]
    centres = random.normal(0, 500, (2, 3))
    world = random.normal(0, 60, (6, 42, 3))
    valid = (random.random((6, 42)) < 0.8).astype(int)
    valid[:, [20, 41]] = [[1, 0], [0, 1], [1, 1], [1, 0], [1, 1], [1, 1]]
    images, notes, frames = [], [], {}
    for row, kind in enumerate(KINDS):
        images.append({"id": 100 + row, "capture": 0, "camera": f"cam{row % 2}", "frame_idx": row})
        frames[str(row)] = {"world_coord": world[row].tolist()}
        notes.append(
            {
                "id": 7 * row + 3,
                "image_id": 100 + row,
                "joint_valid": valid[row].reshape(42, 1).tolist(),
                "hand_type": kind,
                "hand_type_valid": int(row != 4),
            }
        )
    camera = {
        "campos": {f"cam{i}": centres[i].tolist() for i in range(2)},
        "camrot": {f"cam{i}": turns[i].tolist() for i in range(2)},
    }
    for name, value in (
        ("data", {"images": images, "annotations": notes}),
        ("camera", {"0": camera}),
        ("joint_3d", {"0": frames}),
    ):
        (folder / f"InterHand2.6M_test_{name}.json").write_text(json.dumps(value))
    seen = np.array([(turns[r % 2] @ (world[r] - centres[r % 2]).T).T for r in range(6)])
    return [note["id"] for note in notes], seen, valid


def test_interhand_equals_loops(tmp_path):
    random = np.random.default_rng(0)
    ids, true, valid = write_files(tmp_path, random)
    found = true + random.normal(0, 20, true.shape)
    hands = np.array([[0.9, 0.1], [0.6, 0.7], [0.8, 0.9], [0.5, 0.9], [0.1, 0.1], [0.7, 0.6]])
    mixed = random.permutation(6)
    np.savez(
        tmp_path / "pred.npz",
        annot_id=np.array(ids)[mixed],
        joints=found[mixed] / 1000,
        hands=hands[mixed],
    )
    config = ScoreConfig(str(tmp_path / "pred.npz"), str(tmp_path), "interhand")
    scores = PROTOCOLS.find("interhand")().score_files(config)
    mine = {value.key: value.value for value in scores.values}
    lists = {"single": [[] for _ in range(42)], "interacting": [[] for _ in range(42)]}
    apart = []
    for row, kind in enumerate(KINDS):
        f, t, v = found[row], true[row], valid[row].copy()
        v[:21] *= v[20]
        v[21:] *= v[41]
        if kind == "interacting" and v[20] and v[41]:
            apart.append(np.linalg.norm((f[41] - f[20]) - (t[41] - t[20])))
        for joint in range(42):
            root = 20 if joint < 21 else 41
            if v[joint]:
                error = np.linalg.norm((f[joint] - f[root]) - (t[joint] - t[root]))
                lists["interacting" if kind == "interacting" else "single"][joint].append(error)
    for key, found_errors in lists.items():
        means = [np.mean(errors) for errors in found_errors if errors]
        assert mine[f"MPJPE {key}"] == pytest.approx(np.mean(means), abs=1e-9)
    every = [a + b for a, b in zip(lists["single"], lists["interacting"], strict=True)]
    assert mine["MPJPE all"] == pytest.approx(np.mean([np.mean(e) for e in every if e]), abs=1e-9)
    assert mine["MRRPE"] == pytest.approx(np.mean(apart), abs=1e-9)
    # Right: rows 0, 2, 5; row 1 shows one hand, row 3 is undecided, row 4 is not labelled.
    assert mine["Handedness accuracy"] == pytest.approx(3 / 5)


def test_missing_predictions_and_splits_are_told(tmp_path):
    random = np.random.default_rng(0)
    ids, true, _ = write_files(tmp_path, random)
    np.savez(tmp_path / "pred.npz", annot_id=np.array(ids[:4]), joints=true[:4] / 1000)
    config = ScoreConfig(str(tmp_path / "pred.npz"), str(tmp_path), "interhand")
    with pytest.raises(UserError, match="4 predictions of 4 annotations; .* has 6, of which 2"):
        PROTOCOLS.find("interhand")().score_files(config)
    (tmp_path / "InterHand2.6M_val_data.json").write_text("{}")
    with pytest.raises(UserError, match="annotations of test, val: split= names one"):
        PROTOCOLS.find("interhand")().score_files(config)


def test_single_hands_alone_have_no_interacting_numbers(tmp_path):
    random = np.random.default_rng(0)
    ids, true, _ = write_files(tmp_path, random)
    path = tmp_path / "InterHand2.6M_test_data.json"
    data = json.loads(path.read_text())
    data["annotations"] = data["annotations"][:1]
    path.write_text(json.dumps(data))
    np.savez(tmp_path / "pred.npz", annot_id=np.array(ids[:1]), joints=true[:1] / 1000)
    config = ScoreConfig(str(tmp_path / "pred.npz"), str(tmp_path), "interhand")
    scores = PROTOCOLS.find("interhand")().score_files(config)
    assert [value.key for value in scores.values] == ["MPJPE all", "MPJPE single"]
    assert "have no sample and are left out" in scores.notes[0]

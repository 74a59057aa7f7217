"""The referee's arithmetic, against numbers known by construction."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data.sources.cameras import Camera
from engine.errors import UserError
from finetune.heads.base import Prediction
from finetune.referee import judge, rows, scores, tables, takes
from finetune.referee.kinds import KINDS
from finetune.referee.rows import BESIDE, Answer, name_rows
from finetune.referee.truth import (
    FOUND,
    JUDGED,
    Seen,
    keep_hands,
    load_truth,
    save_truth,
    shrink_mask,
    truth_name,
)

# A person who stands upright, faces -y (world, z up), in metres, in the order of JUDGED.
WORLD = np.array(
    [[0.2, 0, 1.4], [-0.2, 0, 1.4], [0.25, 0, 1.1], [-0.25, 0, 1.1], [0.25, -0.1, 0.85]]
    + [[-0.25, -0.1, 0.85], [0.1, 0, 0.9], [-0.1, 0, 0.9], [0.1, 0, 0.5], [-0.1, 0, 0.5]]
    + [[0.1, 0.05, 0.1], [-0.1, 0.05, 0.1]]
)
BODY = KINDS["body"]
HIPS = BODY.roots


def make_camera(name, angle):
    """A camera that looks at the person from 4 m, ``angle`` about the vertical from the front."""
    centre = np.array([4 * np.sin(angle), -4 * np.cos(angle), 1.0])
    forward = (np.array([0, 0, 1.0]) - centre) / 4
    right = np.cross(forward, [0, 0, 1.0])
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[800.0, 0, 320], [0, 800, 360], [0, 0, 1]])
    Rt = np.concatenate([R, (-R @ centre)[:, None]], 1)
    return Camera(name, K, np.zeros(8), Rt, 640, 720)


def see(camera, noise=0.0, world=WORLD):
    local = world @ camera.Rt[:, :3].T + camera.Rt[:, 3]
    pixels = local @ camera.K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    pixels = pixels + noise * np.random.default_rng(0).normal(size=pixels.shape)
    keypoints = np.zeros((17, 3))
    keypoints[FOUND] = np.concatenate([pixels, np.full((12, 1), 0.9)], 1)
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    return Seen(0, box, 0.9, keypoints), local


def test_hits_count_what_is_near_by_the_box():
    seen, _ = see(make_camera("a", 0.0))
    side = (seen.box[2:] - seen.box[:2]).max()
    points = seen.joints[:, :2].copy()
    points[0, 0] += 0.15 * side
    points[1, 1] += 0.25 * side
    seen.keypoints[FOUND[2], 2] = 0.1
    hits = scores.hits(points, seen)
    assert hits[0].tolist()[:2] == [0, 0] and hits[1].tolist()[:2] == [1, 0]
    assert np.isnan(hits[:, 2]).all() and (hits[:, 3:] == 1).all()


def test_outlines_are_compared_cell_by_cell():
    seen, _ = see(make_camera("a", 0.0))
    drawn = np.zeros((64, 64), bool)
    assert np.isnan(scores.outline_iou(drawn, seen))
    seen.mask = np.zeros((64, 64), bool)
    seen.mask[:32] = True
    drawn[16:48] = True
    assert scores.outline_iou(drawn, seen) == pytest.approx(1 / 3)


def test_who_stands_and_who_does_not():
    camera = make_camera("a", 0.3)
    assert scores.is_standing(see(camera)[0])
    sitting = WORLD.copy()
    sitting[8:10] += [0, -0.4, 0.35]
    sitting[10:12] += [0, -0.4, 0.35]
    assert not scores.is_standing(see(camera, world=sitting)[0])
    hidden, _ = see(camera)
    hidden.keypoints[FOUND[11], 2] = 0.1
    assert not scores.is_standing(hidden)
    assert not scores.is_standing(see(camera, world=WORLD * [1, 1, -1] + [0, 0, 2])[0])


@pytest.mark.parametrize(("turn_deg", "right"), [(0, 1), (40, 1), (-40, 1), (50, 0), (180, 0)])
def test_facing_is_within_45_degrees(turn_deg, right):
    turn = cv2.Rodrigues(np.array([0, 0, np.deg2rad(turn_deg)]))[0]
    np.testing.assert_allclose(scores.front_of(WORLD), [0, -1, 0], atol=1e-9)
    assert scores.faces_right(scores.front_of(WORLD @ turn.T), scores.front_of(WORLD)) == right
    camera = make_camera("a", 0.0)
    seen, _ = see(camera)
    turned, _ = see(camera, world=WORLD @ turn.T)
    flat = scores.faces_right_flat(turned.joints[:, :2], seen)
    assert flat == (abs(turn_deg) < 90)
    side, _ = see(make_camera("a", np.pi / 2))
    assert np.isnan(scores.faces_right_flat(turned.joints[:, :2], side))


def test_alignment_is_that_of_scipy():
    scipy = pytest.importorskip("scipy.spatial")
    rng = np.random.default_rng(4)
    found = rng.normal(size=(12, 3))
    true = found + 0.2 * rng.normal(size=(12, 3))
    rotation, _ = scipy.transform.Rotation.align_vectors(true - true.mean(0), found - found.mean(0))
    turned = rotation.apply(found - found.mean(0))
    scale = (turned * (true - true.mean(0))).sum() / (turned**2).sum()
    by_scipy = np.linalg.norm(scale * turned + true.mean(0) - true, axis=1).mean()
    assert scores.joint_errors_mm(found, true, HIPS)[1] == pytest.approx(1000 * by_scipy)
    plain, fitted = scores.joint_errors_mm(1.1 * found + 5, found, HIPS)
    assert fitted < 1e-6 < plain
    unknown = np.where(np.arange(12)[:, None] < 7, np.nan, found)
    assert np.isnan(scores.joint_errors_mm(found, unknown, HIPS)).all()


def test_joints_of_several_cameras_meet_where_they_are():
    cameras = [make_camera(str(i), angle) for i, angle in enumerate((0.0, 0.8, 1.9))]
    views = [(camera, see(camera)[0].joints, 500.0) for camera in cameras]
    joints, pixels, shares = takes.triangulate_joints(views, 0.3)
    np.testing.assert_allclose(joints, WORLD, atol=1e-6)
    assert max(pixels) < 1e-3 and len(pixels) == 36
    noisy = [(camera, see(camera, 5.0)[0].joints, 500.0) for camera in cameras]
    joints, pixels, shares = takes.triangulate_joints(noisy, 0.3)
    assert np.abs(joints - WORLD).max() < 0.08
    assert np.allclose(np.array(pixels) / 500, shares)
    for _, points, _ in views[1:]:
        points[3, 2] = 0.1
    assert np.isnan(takes.triangulate_joints(views, 0.3)[0][3]).all()


def test_what_was_found_is_kept_and_read_again(tmp_path):
    seen, _ = see(make_camera("a", 0.0))
    masked, _ = see(make_camera("b", 1.0))
    masked.mask = np.random.default_rng(0).random((64, 64)) < 0.5
    masked.square = np.array([1.0, 2, 3, 4])
    path = tmp_path / "t.npz"
    save_truth(str(path), [seen, masked])
    first, second = load_truth(str(path))
    assert first.mask is None and (second.mask == masked.mask).all()
    np.testing.assert_array_equal(second.square, masked.square)
    np.testing.assert_array_equal(first.keypoints, seen.keypoints)
    save_truth(str(path), [])
    assert load_truth(str(path)) == []
    file = tmp_path / "v.mp4"
    file.write_bytes(b"x" * 100)
    names = {truth_name(str(file), frames, {"score": s}) for frames in ([0], [1]) for s in (1, 2)}
    file.write_bytes(b"y" * 100)
    names.add(truth_name(str(file), [0], {"score": 1}))
    assert len(names) == 5


def test_masks_shrink_to_cells_that_are_half_inside():
    inside = np.zeros((256, 256), bool)
    inside[:, :130] = True
    assert shrink_mask(inside)[:, :33].all() and not shrink_mask(inside)[:, 33:].any()
    assert shrink_mask(np.ones((100, 100), bool)).all()


def test_samples_are_listed_by_folder_and_takes_get_their_cameras(tmp_path):
    take = tmp_path / "take"
    take.mkdir()
    for name in ("a.mp4", "b.mp4", "c.jpg", "notes.txt"):
        (take / name).write_bytes(b"")
    cameras = [
        {"name": n, "size": [640, 720], "K": make_camera(n, a).K.tolist(), "distortion": []}
        | {"R": make_camera(n, a).Rt[:, :3].tolist(), "t": make_camera(n, a).Rt[:, 3].tolist()}
        for n, a in (("a", 0.0), ("b", 1.0))
    ]
    (take / "cameras.json").write_text(json.dumps({"cameras": cameras}))
    clips = takes.list_clips([str(tmp_path)])
    assert [clip.name for clip in clips] == ["take/a", "take/b", "take/c"]
    assert [clip.take for clip in clips] == ["take", "take", ""]
    assert clips[2].is_image and clips[0].camera is not None
    with pytest.raises(UserError, match="no such file or folder"):
        takes.list_clips([str(tmp_path / "nobody")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no video and no image"):
        takes.list_clips([str(tmp_path / "empty")])


def write_take(folder, names, known):
    """Empty videos of these names beside a calibration of the cameras that are known."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.mp4").touch()
    cameras = []
    for i, name in enumerate(known):
        Rt = make_camera(name, i).Rt
        camera = {"name": name, "size": [640, 720], "K": make_camera(name, i).K.tolist()}
        camera |= {"distortion": [], "R": Rt[:, :3].tolist(), "t": Rt[:, 3].tolist()}
        cameras.append(camera)
    (folder / "cameras.json").write_text(json.dumps({"cameras": cameras}))


def test_clips_and_takes_of_one_name_are_told_apart(tmp_path):
    for part in ("one", "two"):
        write_take(tmp_path / part / "take", ["a", "b"], ["a", "b"])
    (tmp_path / "one" / "face.jpg").touch()
    (tmp_path / "one" / "face.png").touch()
    clips = takes.list_clips([str(tmp_path)])
    assert [clip.name for clip in clips if clip.is_image] == ["face.jpg", "face.png"]
    assert len({clip.name for clip in clips}) == len(clips) == 6
    assert [clip.take for clip in clips if clip.take] == ["one/take"] * 2 + ["two/take"] * 2
    image = str(tmp_path / "one" / "face.jpg")
    with pytest.raises(UserError, match=f"samples=: {image} is named twice"):
        takes.list_clips([image, image])


def test_a_calibration_that_is_not_used_is_told(tmp_path, caplog, capsys):
    write_take(tmp_path / "take", ["a", "b"], ["left", "right"])
    (tmp_path / "take" / "calibration.toml").write_text("not = [a table")
    clips = takes.list_clips([str(tmp_path)])
    assert [clip.take for clip in clips] == ["", ""]
    said = caplog.text + capsys.readouterr().err
    assert "judged one by one" in said and "calibration.toml" in said
    assert "cameras.json is of the cameras left, right, the videos are a, b" in said


def test_a_calibration_of_another_size_names_the_video():
    clip = takes.SampleClip("take/a", "take/a.mp4", "take", make_camera("a", 0.0))
    with pytest.raises(UserError, match="take/a.mp4: camera a: the video is 320x360, .* 640x720"):
        takes.fit_camera(clip, 320, 360)


def judge_true_body(answers_of):
    """Three cameras of one take; ``answers_of(seen, local)`` gives {row: Answer}."""
    judged = []
    for i, angle in enumerate((0.0, 0.8, 1.9)):
        camera = make_camera(str(i), angle)
        seen, local = see(camera)
        clip = takes.SampleClip(f"take/{i}", f"/none/{i}.mp4", "take", camera)
        answers = answers_of(seen, local)
        judged.append(judge.score_person(BODY, clip, seen, answers, np.zeros((0, 3))))
    return judged


def test_the_true_body_is_right_in_every_row_and_table():
    titles = name_rows(["other"], BODY)
    judged = judge_true_body(
        lambda seen, local: dict.fromkeys(titles, Answer(local, seen.joints[:, :2], None))
    )
    found = judge.judge_takes(BODY, judged)
    results = tables.summarise(tables.Judged(BODY, titles, judged, found), "command", 7)
    row = results["groups"]["standing"]["rows"]["model"]
    assert row["pck_0.1"]["mean"] == row["facing"]["mean"] == row["pck_others"]["mean"] == 1
    assert row["mpjpe"]["mean"] < 1e-3 and row["pa_mpjpe"]["mean"] < 1e-3
    assert results["joints"]["model"][JUDGED[0]] == [1, 1]
    assert results["truth"]["take"]["instants"] == 1
    assert results["truth"]["take"]["median_px"] < 1e-3
    assert results["clips"]["take/1"]["people"] == results["clips"]["take/1"]["standing"] == 1
    text = tables.describe(json.loads(json.dumps(results)))
    assert "3 people in 3 clips" in text and "| mean pose, turned (best of 16) | 1.000" in text


def test_differences_are_paired_over_clips():
    rng = np.random.default_rng(1)
    titles = name_rows(["other"], BODY)
    people, values = [], []
    for i in range(40):
        seen, local = see(make_camera("a", 0.0))
        answers = dict.fromkeys(titles, Answer(local, seen.joints[:, :2], None))
        clip = takes.SampleClip(f"clip{i // 4}", f"/none/{i}.mp4")
        person = judge.score_person(BODY, clip, seen, answers, np.zeros((0, 3)))
        shared, gain = rng.normal(), 0.1 + 0.01 * rng.normal()
        person.values["model"]["iou"] = shared + gain
        person.values[f"{BESIDE}other"]["iou"] = shared if i else float("nan")
        people.append(person)
        values.append(gain if i else np.nan)
    results = tables.summarise(tables.Judged(BODY, titles, people, {}), "command", 7)
    entry = results["groups"]["all"]["differences"][f"{BESIDE}other"]["iou"]
    assert entry["mean"] == pytest.approx(np.nanmean(values)) and entry["people"] == 39
    # What all rows share cancels person by person: the interval is that of the gain alone.
    assert 0.09 < entry["low"] < entry["mean"] < entry["high"] < 0.11
    row = results["groups"]["all"]["rows"]["model"]["iou"]
    assert row["high"] - row["low"] > 0.2
    assert "the run minus it" in tables.describe(results)


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_the_mean_is_turned_to_what_fits_best(kind):
    rng = np.random.default_rng(3)
    joints = rng.normal(size=(1, len(KINDS[kind].joints), 3)) * 0.2 + [0.3, 0.1, 3.0]
    axes = [[0, 3, 0], [0, 0, 5]][: 2 if kind == "hand" else 1]
    turn = np.eye(3)
    for axis in axes:
        turn = cv2.Rodrigues(np.array(axis) * 2 * np.pi / 16)[0] @ turn
    middle = joints[0].mean(0)
    true = (joints[0] - middle) @ turn.T + middle
    K = np.array([[500.0, 0, 300], [0, 500, 200], [0, 0, 1]])
    pixels = true @ K.T
    seen = SimpleNamespace(joints=np.c_[pixels[:, :2] / pixels[:, 2:], np.ones(len(true))])
    mean = Prediction(*[torch.from_numpy(joints)] * 3)
    turns = rows.list_turns(KINDS[kind].spins)
    assert len(turns) == (256 if kind == "hand" else 16)
    found = rows.turn_best(mean, joints, K, [seen], turns)
    for points in (found.vertices, found.joints, found.keypoints):
        np.testing.assert_allclose(points[0].numpy(), true, atol=1e-9)


HAND = np.zeros((21, 3))
for finger in range(5):  # a flat right hand, seen from the back, fingers up, thumb to the left
    for joint in range(4):
        spread = 0.03 * (finger - 2) * (1 + 0.2 * joint)
        HAND[1 + 4 * finger + joint] = [spread, -0.04 - 0.025 * joint - 0.04 * (finger > 0), 0]


def see_hand(points, score=0.9, side="right"):
    pixels = points[:, :2] * 1000 + 300
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    keypoints = np.concatenate([pixels, np.full((21, 1), score)], 1)
    return Seen(0, box, score, keypoints, side=side)


def test_hands_are_judged_by_all_their_joints_and_by_the_palm():
    kind = KINDS["hand"]
    seen = see_hand(HAND)
    hits = scores.hits(seen.joints[:, :2] + [0.15 * seen.side_px, 0], seen)
    assert hits.shape == (2, 21) and not hits[0].any() and hits[1].all()
    assert kind.flat(seen.joints[:, :2], seen) == 1
    mirrored = see_hand(HAND * [-1, 1, 1])
    assert kind.flat(mirrored.joints[:, :2], seen) == 0
    upside_down = see_hand(HAND * [-1, -1, 1])
    assert kind.flat(upside_down.joints[:, :2], seen) == 1
    assert np.isnan(kind.flat(seen.joints[:, :2], see_hand(HAND * [0.05, 1, 1])))
    for turn_deg, right in ((0, 1), (40, 1), (50, 0), (180, 0)):
        turn = cv2.Rodrigues(np.array([0, np.deg2rad(turn_deg), 0]))[0]
        values = judge.compare_joints(kind, HAND @ turn.T + 2, HAND)
        assert values["facing"] == right
        assert values["pa_mpjpe"] < 1e-6 and (values["mpjpe"] < 1e-6) == (turn_deg == 0)


def test_hands_that_are_small_or_unsure_are_left_out_and_sides_are_kept(tmp_path):
    hands = [see_hand(HAND), see_hand(0.2 * HAND, side="left"), see_hand(HAND, 0.6)]
    assert hands[0].side_px > 48 > hands[1].side_px
    assert keep_hands(hands, 0.8, 48) == hands[:1]
    path = str(tmp_path / "t.npz")
    save_truth(path, hands)
    read = load_truth(path)
    assert [hand.side for hand in read] == ["right", "left", "right"]
    np.testing.assert_array_equal(read[1].joints, hands[1].joints)

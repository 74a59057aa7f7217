"""Readers of hand datasets, HaMeR's and 4D-Humans' rows and COCO-WholeBody, on small files made to
the published formats: by the whole command to a verified shard and back, and by ``--check``.

Each image has a red dot where the index finger's tip is, drawn from the test's own projection.
"""

import io
import json
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from test_label_core import write_zip
from test_labelled import clips_of

from data.format.joint_sets import find_joint_set, match_joint_sets
from data.format.verify import check_shard
from data.sources.label_shards import main
from engine.errors import UserError

RANDOM = np.random.default_rng(5)


def make_hand():
    """(21, 3) metres, half a metre ahead in OpenCV's axes: a wrist and five fingers upwards, in
    FreiHAND's order."""
    joints = [(0.0, 0.06, 0.5)]
    for finger in range(5):
        angle = -0.9 + 0.35 * finger
        for reach in (0.05, 0.08, 0.1, 0.125 - 0.006 * abs(finger - 2)):
            joints.append(
                (reach * np.sin(angle), 0.06 - reach * np.cos(angle), 0.5 + 0.2 * reach * angle)
            )
    return np.array(joints)


HAND = make_hand()
TIP = 8  # of the index finger
K = np.array([[480.0, 0, 112], [0, 500, 110], [0, 0, 1]])
# A joint that falls on a pixel's centre, in the data sets' convention 0.
HAND[TIP] = 0.5 * (56 - 112) / 480, 0.5 * (66 - 110) / 500, 0.5
# MANO's order from FreiHAND's, as HO-3D's scripts have it the other way round.
TO_FREIHAND = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


def project(points, K=K):
    return (points / points[:, 2:] @ K.T)[:, :2]


def save_image(path, tip, size=(224, 224)):
    """An image with a red dot at a pixel, whose first pixel is 0."""
    pixels = np.full((size[1], size[0], 3), 60, np.uint8)
    x, y = np.round(tip).astype(int).tolist()
    pixels[y - 1 : y + 2, x - 1 : x + 2] = 0, 0, 255
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def save_json(path, tree):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, default=lambda value: value.tolist()))


def cut(tmp_path, name, *words, code=0, root="root", check=True):
    """The clips of a data set, after both commands; what is stored is sound."""
    out = tmp_path / "out"
    root = f"root={tmp_path / root}"
    if check:
        assert main([name, "--check", root, f"out={tmp_path / 'check.png'}", *words]) == 0
    assert main([name, f"out={out}", root, "size=128", "box_min_px=10", *words]) == code
    for path in out.glob("*.tar"):
        assert check_shard(str(path)).problems == []
    return clips_of(out)


def check_dot(found, crop=0):
    """The dot, the 2D tip and the 3D tip through the crop's camera are at one place."""
    clip, images, labels, _ = found
    red = images[crop, ..., 0].astype(float) - images[crop, ..., 1]
    y, x = np.nonzero(red > 0.7 * red.max())
    dot = np.array([x.mean() + 0.5, y.mean() + 0.5])
    here = labels.at(crop)
    tip = match_joint_sets(here.keypoints.joint_set, "hand21")[TIP]
    np.testing.assert_allclose(here.keypoints.points[tip], dot, atol=1.2)
    if clip.crops[crop].K is not None:
        Rt = np.array(clip.crops[crop].Rt)
        joints = here.joints.points @ Rt[:, :3].T + Rt[:, 3]
        pixels = project(joints, np.array(clip.crops[crop].K))
        known = here.keypoints.confidence > 0
        np.testing.assert_allclose(pixels[known], here.keypoints.points[known], atol=0.05)


def write_freihand(root, annotations=2):
    """Two annotations with four images each; the second hand lies 3 cm to the right."""
    hands = [HAND + (0.03 * row, 0, 0) for row in range(annotations)]
    mano = [np.arange(61)[None] / 100 + row for row in range(annotations)]
    verts = [np.repeat(hand[:1], 778, 0) for hand in hands]
    for name, rows in (("K", [K] * annotations), ("xyz", hands), ("mano", mano), ("verts", verts)):
        save_json(root / f"training_{name}.json", rows)
    for number in range(4 * annotations):
        hand = hands[number % annotations]
        save_image(root / f"training/rgb/{number:08d}.jpg", project(hand)[TIP])


def test_freihand(tmp_path):
    write_freihand(tmp_path / "root")
    found = cut(tmp_path, "freihand", "vertices=true")
    assert len(found) == 8
    assert [clip.subject for clip, *_ in found[:3]] == [
        "freihand/training/00000000",
        "freihand/training/00000001",
        "freihand/training/00000000",
    ]
    for one in found[:2]:
        check_dot(one)
    clip, _, labels, _ = found[5]  # the third image of the second annotation
    assert clip.crops[0].kind == "right_hand" and clip.crops[0].image == "training/rgb/00000005.jpg"
    np.testing.assert_allclose(labels.joints.points[0], HAND + (0.03, 0, 0), atol=1e-6)
    assert labels.joints.joint_set == "hand21" and labels.vertices.shape == (1, 778, 3)
    body = labels.body
    assert (body.model, body.variant) == ("mano", "right")
    np.testing.assert_allclose(body.parameters["global_orient"], [[1, 1.01, 1.02]])
    np.testing.assert_allclose(
        body.parameters["hand_pose_from_mean"].ravel(), 1 + np.arange(3, 48) / 100
    )
    np.testing.assert_allclose(body.parameters["betas"], 1 + np.arange(48, 58) / 100)


def test_freihand_is_read_from_its_zip(tmp_path):
    write_freihand(tmp_path / "root")
    members = {
        path.relative_to(tmp_path / "root").as_posix(): path.read_bytes()
        for path in sorted((tmp_path / "root").rglob("*.*"))
    }
    write_zip(tmp_path / "FreiHAND_pub_v2.zip", members)
    found = cut(tmp_path, "freihand", "versions=1", root="FreiHAND_pub_v2.zip")
    assert len(found) == 2
    check_dot(found[1])


@pytest.mark.parametrize(
    "name, rows, words",
    [
        ("xyz", [[0.0] * 3], r"xyz is of shape \(3,\), not \(21, 3\)"),
        ("xyz", [HAND[:20]] * 2, r"xyz is of shape \(20, 3\), not \(21, 3\)"),
        ("mano", [[1]], "training_mano.json has 1 rows, training_K.json has 2"),
        ("K", {}, "is no FreiHAND list: a dict"),
    ],
)
def test_a_freihand_of_another_format_is_named(tmp_path, name, rows, words):
    write_freihand(tmp_path / "root")
    if words.startswith("xyz"):
        rows = [*rows, *rows][:2]
    save_json(tmp_path / "root" / f"training_{name}.json", rows)
    with pytest.raises(UserError, match=words):
        cut(tmp_path, "freihand", check=False)


def test_a_hand_of_nan_is_left_out_and_told(tmp_path, capsys):
    write_freihand(tmp_path / "root")
    nan = HAND.copy()
    nan[3, 1] = np.nan
    save_json(tmp_path / "root/training_xyz.json", [HAND, nan])
    assert len(cut(tmp_path, "freihand", code=1, check=False)) == 4
    said = capsys.readouterr().err
    assert "skipped 4 people, training/rgb/00000001.jpg (training/00000001), " in said


def write_ho3d(root, suffix):
    joints = np.zeros((21, 3))
    joints[np.argsort(TO_FREIHAND)] = HAND[np.argsort(np.argsort(TO_FREIHAND))]
    mano = np.empty((21, 3))
    for place, source in enumerate(TO_FREIHAND):
        mano[source] = HAND[place]
    gl = mano * (1, -1, -1)
    for frame in range(3):
        tree = {
            "camMat": K,
            "handPose": np.arange(48) / 50.0,
            "handBeta": np.arange(10) / 10.0,
            "handTrans": np.ones(3),
            "handJoints3D": gl,
            "objName": "003_cracker_box",
        }
        if frame == 1:
            tree["handPose"] = None
        path = root / f"train/ABF10/meta/{frame:04d}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(tree, protocol=2))
        save_image(root / f"train/ABF10/rgb/{frame:04d}{suffix}", project(HAND)[TIP])
    (root / "train.txt").write_text("ABF10/0000\nABF10/0001\nABF10/0002\n")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_ho3d(tmp_path, suffix):
    write_ho3d(tmp_path / "root", suffix)
    ((clip, images, labels, masks),) = cut(tmp_path, "ho3d")
    assert [crop.time_s for crop in clip.crops] == pytest.approx([0, 2 / 30], abs=1e-6)
    assert (clip.subject, clip.track) == ("ho3d/ABF", "ho3d/train/ABF10")
    check_dot((clip, images, labels, masks))
    assert labels.joints.joint_set == "mano21"
    back = labels.joints.points[0][match_joint_sets("mano21", "hand21")]
    np.testing.assert_allclose(back, HAND, atol=1e-6)
    parameters = labels.body.parameters
    np.testing.assert_allclose(parameters["translation"][0], HAND[0], atol=1e-6)
    # The wrist's axes turn with the camera's: half a turn about x comes after its rotation.
    vector = np.arange(3) / 50.0
    expected = np.diag([1.0, -1, -1]) @ cv2.Rodrigues(vector)[0]
    found = cv2.Rodrigues(parameters["pose"][0, 0].astype(float))[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(parameters["pose"][0, 1:].ravel(), np.arange(3, 48) / 50, atol=1e-6)


def test_the_evaluation_split_of_ho3d_has_the_wrist_and_a_box(tmp_path):
    root = tmp_path / "root"
    tree = {
        "camMat": K,
        "handJoints3D": HAND[0] * (1, -1, -1),
        "handBoundingBox": [20, 40, 180, 180],
    }
    for frame in range(2):
        path = root / f"evaluation/SM1/meta/{frame:04d}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(tree, protocol=2))
        save_image(root / f"evaluation/SM1/rgb/{frame:04d}.jpg", project(HAND)[TIP])
    (root / "evaluation.txt").write_text("SM1/0000\nSM1/0001\n")
    ((clip, _, labels, _),) = cut(tmp_path, "ho3d", "split=evaluation", "margin=1")
    assert clip.split == "evaluation" and len(clip.crops) == 2
    np.testing.assert_allclose(clip.crops[0].box, [20, 30, 180, 190])
    assert labels.joints is None and labels.keypoints is None
    np.testing.assert_allclose(labels.body.parameters["translation"], [HAND[0]] * 2, atol=1e-6)


def test_a_ho3d_pickle_that_executes_is_refused(tmp_path):
    write_ho3d(tmp_path / "root", ".png")
    bad = f"cos\nsystem\n(S'touch {tmp_path / 'executed'}'\ntR.".encode()
    (tmp_path / "root/train/ABF10/meta/0002.pkl").write_bytes(bad)
    with pytest.raises(UserError, match=r"0002\.pkl is refused: .*nothing in it was executed"):
        cut(tmp_path, "ho3d", check=False)
    assert not (tmp_path / "executed").exists()


def make_rig(count):
    """{name: (K, R, centre in metres)} of cameras around the world's origin, half a metre off."""
    out = {}
    for number in range(count):
        R = cv2.Rodrigues(np.array([0.1 * number, 0.5 * number, 0.05]))[0]
        out[f"4002{number}"] = K, R, -R.T @ np.array([0.0, 0, 0.5])
    return out


WORLD_HAND = HAND - (0, 0, 0.5)  # around the world's origin


def in_camera(points, R, centre):
    return (points - centre) @ R.T


def write_interhand(root, cameras=3, frames=(49638,)):
    rig = make_rig(cameras)
    # Each finger from its tip to its base, then the wrist.
    order = [*range(4, 0, -1), *range(8, 4, -1), *range(12, 8, -1), *range(16, 12, -1)]
    order += [*range(20, 16, -1), 0]
    right = WORLD_HAND[order]
    left = right + (0.04, 0, 0)
    world = np.concatenate([right, left]) * 1000
    valid = np.ones((42, 1), int)
    valid[21 + 5] = 0
    calibration = {
        "campos": {name: centre * 1000 for name, (_, _, centre) in rig.items()},
        "camrot": {name: R for name, (_, R, _) in rig.items()},
        "focal": {name: [480.0, 500.0] for name in rig},
        "princpt": {name: [112.0, 110.0] for name in rig},
    }
    joints = {"world_coord": world, "joint_valid": valid, "hand_type": "interacting"}
    fit = {"pose": np.arange(48) / 50, "shape": np.arange(10) / 10, "trans": [0.1, 0.2, 0.3]}
    images, annotations = [], []
    for number in range(len(rig) * len(frames)):
        name, frame = list(rig)[number // len(frames)], frames[number % len(frames)]
        file = f"Capture0/0390_dh/cam{name}/image{frame}.jpg"
        images.append(
            {
                "id": number,
                "file_name": file,
                "width": 224,
                "height": 224,
                "capture": 0,
                "subject": 7,
                "seq_name": "0390_dh",
                "camera": name,
                "frame_idx": frame,
            }
        )
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "bbox": [50, 50, 120, 120],
                "joint_valid": valid,
                "hand_type": "interacting",
                "hand_type_valid": 1,
            }
        )
        _, R, centre = rig[name]
        tip = project(in_camera(WORLD_HAND, R, centre))[TIP]
        save_image(root / "images/train" / file, tip)
    start = root / "annotations/train"
    save_json(
        start / "InterHand2.6M_train_data.json", {"images": images, "annotations": annotations}
    )
    save_json(start / "InterHand2.6M_train_camera.json", {"0": calibration})
    found = {str(frame): joints for frame in frames}
    save_json(start / "InterHand2.6M_train_joint_3d.json", {"0": found})
    hands = {"0": {str(frame): {"right": fit, "left": None} for frame in frames}}
    save_json(start / "InterHand2.6M_train_MANO_NeuralAnnot.json", hands)


def test_interhand(tmp_path):
    write_interhand(tmp_path / "root")
    found = cut(tmp_path, "interhand")
    assert [len(clip.crops) for clip, *_ in found] == [3, 3]
    (clip, images, labels, masks), (left, _, left_labels, _) = found
    assert {crop.kind for crop in clip.crops} == {"right_hand"}
    assert {crop.kind for crop in left.crops} == {"left_hand"}
    assert clip.subject == left.subject == "interhand/train/7"
    assert clip.licence == "CC-BY-NC-4.0"
    for crop in range(3):
        check_dot((clip, images, labels, masks), crop)
    # One instant, in metres in the world, whatever the cameras.
    assert labels.instant.tolist() == [0, 0, 0]
    back = labels.joints.points[0][match_joint_sets("interhand21", "hand21")]
    np.testing.assert_allclose(back, WORLD_HAND, atol=1e-6)
    assert left_labels.joints.confidence[0].tolist() == [1] * 5 + [0] + [1] * 15
    assert left_labels.body is None
    np.testing.assert_allclose(labels.body.parameters["transl"], [[0.1, 0.2, 0.3]])
    assert labels.body.parameters["hand_pose_from_mean"].shape == (1, 15, 3)


def test_an_annotation_of_no_image_of_interhand_is_named(tmp_path):
    write_interhand(tmp_path / "root")
    (path,) = (tmp_path / "root/annotations/train").glob("*_data.json")
    tree = json.loads(path.read_text())
    tree["annotations"][0]["image_id"] = 99999
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"_data\.json is no .* is of image 99999, which its"):
        cut(tmp_path, "interhand", check=False)


def test_many_cameras_make_several_clips_of_interhand(tmp_path):
    write_interhand(tmp_path / "root", cameras=3)
    found = cut(tmp_path, "interhand", "views=2", check=False)
    assert [[crop.camera for crop in clip.crops] for clip, *_ in found[:2]] == [
        ["40020", "40022"],
        ["40021"],
    ]


def test_instants_of_interhand_that_follow_each_other_make_a_clip(tmp_path):
    write_interhand(tmp_path / "root", frames=(9, 27, 45))
    found = cut(tmp_path, "interhand", check=False)
    assert [len(clip.crops) for clip, *_ in found] == [6, 6, 3, 3]
    clip, _, labels, _ = found[0]
    assert [round(crop.time_s, 3) for crop in clip.crops] == [0.1] * 3 + [0.3] * 3
    assert labels.instant.tolist() == [0, 0, 0, 1, 1, 1]
    assert clip.track == found[2][0].track == "interhand/train/0/0390_dh/right"
    for crop in range(6):
        check_dot(found[0], crop)


def write_dexycb(root, broken=False, seen=None):
    rig = make_rig(3)
    sequence = root / "20200709-subject-01/20200709_141754"
    calibration = root / "calibration"
    meta = {
        "serials": list(rig),
        "num_frames": 3,
        "extrinsics": "rig",
        "mano_sides": ["left"],
        "mano_calib": ["hand"],
    }
    sequence.mkdir(parents=True)
    (sequence / "meta.yml").write_text(yaml.safe_dump(meta))
    poses = {}
    for number, (serial, (_, R, centre)) in enumerate(rig.items()):
        color = {"fx": 480.0, "fy": 500.0, "ppx": 112.0, "ppy": 110.0}
        path = calibration / f"intrinsics/{serial}_640x480.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"color": color}))
        off = 0.05 * number if broken else 0.0
        to_world = np.concatenate([R.T, (centre + off)[:, None]], 1)
        poses[serial] = to_world.ravel().tolist()
        for frame in range(3):
            hand = in_camera(WORLD_HAND + (0.01 * frame, 0, 0), R, centre)
            pixels = project(hand)
            pose = np.arange(51)[None] / 100.0
            pose[0, :3] = cv2.Rodrigues(R @ cv2.Rodrigues(np.array([0.3, 0.2, 0.1]))[0])[0].ravel()
            seg = np.zeros((480, 640), np.uint8)
            x, y = pixels.mean(0).astype(int).tolist()
            seg[y - 5 : y + 5, x - 5 : x + 5] = 255
            seg[:10] = 3  # an object
            if frame == 1 or (seen and (serial, frame) not in seen):
                hand, pose = np.full((21, 3), -1.0), np.zeros((1, 51))
            path = sequence / serial / f"labels_{frame:06d}.npz"
            path.parent.mkdir(exist_ok=True)
            arrays = {"joint_3d": hand, "joint_2d": pixels, "pose_m": pose, "seg": seg}
            arrays["joint_3d"], arrays["joint_2d"] = hand[None], pixels[None]
            np.savez(path, **arrays)
            save_image(path.with_name(f"color_{frame:06d}.jpg"), pixels[TIP], (640, 480))
    path = calibration / "extrinsics_rig/extrinsics.yml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"master": next(iter(rig)), "extrinsics": poses}))
    path = calibration / "mano_hand/mano.yml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"betas": [0.1 * n for n in range(10)]}))


def test_dexycb(tmp_path):
    write_dexycb(tmp_path / "root")
    found = cut(tmp_path, "dexycb", "clip_crops=9")
    ((clip, images, labels, masks),) = found  # frame 1 has no label
    assert len(clip.crops) == 6 and labels.instant.tolist() == [0, 0, 0, 1, 1, 1]
    assert {crop.kind for crop in clip.crops} == {"left_hand"}
    assert clip.track == "dexycb/20200709-subject-01/20200709_141754"
    for crop in range(6):
        check_dot(found[0], crop)
    np.testing.assert_allclose(labels.joints.points[0], WORLD_HAND, atol=1e-5)
    body = labels.body
    assert (body.model, body.variant) == ("mano", "left")
    np.testing.assert_allclose(body.parameters["global_orient"][0], [0.3, 0.2, 0.1], atol=1e-5)
    np.testing.assert_allclose(body.parameters["hand_pca"][0], np.arange(3, 48) / 100, atol=1e-6)
    np.testing.assert_allclose(body.parameters["betas"], 0.1 * np.arange(10), atol=1e-6)
    # The hand's number is on 10 x 10 pixels, of a crop of so many; the object's is not counted.
    x0, _, x1, _ = clip.crops[0].box
    assert masks.shape == (6, 64, 64)
    assert abs(masks[0].mean() - 100 / (x1 - x0) ** 2) < 0.3 * masks[0].mean()


def test_cameras_of_dexycb_that_do_not_agree_are_worlds_of_their_own(tmp_path):
    write_dexycb(tmp_path / "root", broken=True)
    found = cut(tmp_path, "dexycb", check=False)
    assert [len(clip.crops) for clip, *_ in found] == [1] * 6
    for one in found:
        check_dot(one)
        assert np.array_equal(one[0].crops[0].Rt, np.eye(3, 4))


def test_an_instant_of_dexycb_seen_by_one_camera_is_in_the_same_world(tmp_path):
    write_dexycb(tmp_path / "root", seen={("40020", 0), ("40021", 0), ("40022", 2)})
    ((clip, images, labels, masks),) = cut(tmp_path, "dexycb", check=False)
    assert [crop.camera for crop in clip.crops] == ["40020", "40021", "40022"]
    for crop in range(3):
        check_dot((clip, images, labels, masks), crop)
    np.testing.assert_allclose(labels.joints.points[1], WORLD_HAND + (0.02, 0, 0), atol=1e-5)


def hand_rows(right):
    pixels = np.concatenate([project(HAND), np.ones((21, 1))], 1)
    pixels[20, 2] = 0
    return {
        "center": np.array([112.0, 110]),
        "scale": np.array([0.75, 0.5]),
        "right": np.array([float(right)]),
        "hand_pose": np.arange(48) / 50,
        "has_hand_pose": 1.0,
        "betas": np.arange(10) / 10,
        "has_betas": float(right),
        "keypoints_2d": pixels,
        "keypoints_3d": np.concatenate([HAND - HAND[0], np.ones((21, 1))], 1),
    }


def write_rows(root, rows, prefix, archive):
    """The rows as an npz, or as a tar of WebDataset."""
    root.mkdir()
    if not archive:
        names = [f"rgb/{number}.jpg" for number in range(len(rows))]
        arrays = {"imgname": np.array(names)}
        for field in rows[0]:
            arrays[prefix.get(field, field)] = np.stack([row[field] for row in rows])
        np.savez(root / "train.npz", **arrays)
        for name in names:
            save_image(root / name, project(HAND)[TIP])
        return
    save_image(root.parent / "a.jpg", project(HAND)[TIP])
    image = (root.parent / "a.jpg").read_bytes()
    detection = io.BytesIO()
    np.savez(detection, masks=np.zeros((1, 4, 4)))
    with tarfile.open(root / "000000.tar", "w") as file:
        for number, row in enumerate(rows):
            for suffix, data in (
                ("jpg", image),
                ("data.pyd", pickle.dumps([row])),
                ("detection.npz", detection.getvalue()),
            ):
                entry = tarfile.TarInfo(f"set/{number:06d}.{suffix}")
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))


HAMER_NAMES = {"keypoints_2d": "hand_keypoints_2d", "keypoints_3d": "hand_keypoints_3d"}


@pytest.mark.parametrize("archive", [False, True])
def test_hamer(tmp_path, archive):
    write_rows(tmp_path / "root", [hand_rows(True), hand_rows(False)], HAMER_NAMES, archive)
    found = cut(tmp_path, "hamer", "margin=1")
    assert [clip.crops[0].kind for clip, *_ in found] == ["right_hand", "left_hand"]
    for one in found:
        check_dot(one)
    clip, _, labels, _ = found[0]
    # The box's longer side is 0.75 times 200, around the centre.
    np.testing.assert_allclose(clip.crops[0].box, [37.5, 35.5, 187.5, 185.5])
    assert labels.frame == "root" and labels.keypoints.confidence[0, 20] == 0
    np.testing.assert_allclose(labels.joints.points[0], HAND - HAND[0], atol=1e-6)
    assert labels.body.parameters["pose"].shape == (1, 16, 3)
    assert found[1][2].body.variant == "left" and "betas" not in found[1][2].body.parameters


def test_a_hamer_tar_whose_pickle_executes_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    data = f"cos\nsystem\n(S'touch {tmp_path / 'executed'}'\ntR.".encode()
    with tarfile.open(tmp_path / "root/a.tar", "w") as file:
        entry = tarfile.TarInfo("0.data.pyd")
        entry.size = len(data)
        file.addfile(entry, io.BytesIO(data))
    with pytest.raises(UserError, match=r"a\.tar: 0\.data\.pyd is refused"):
        cut(tmp_path, "hamer", check=False)
    assert not (tmp_path / "executed").exists()


def test_an_image_name_that_climbs_is_refused(tmp_path):
    write_rows(tmp_path / "root", [hand_rows(True)], HAMER_NAMES, False)
    arrays = dict(np.load(tmp_path / "root/train.npz"))
    np.savez(tmp_path / "root/train.npz", **{**arrays, "imgname": np.array(["../../secret.jpg"])})
    with pytest.raises(UserError, match="climbs out of its folder"):
        cut(tmp_path, "hamer", check=False)


def body_rows():
    body = RANDOM.uniform(-0.5, 0.5, (44, 3))
    body[8] = 0  # the middle of the hips
    flat = body[:, :2] * 90 + (112, 110)
    flat[4] = 56, 66  # the right wrist, where the dot is
    body[4, :2] = (flat[4] - (112, 110)) / 90
    confidence = np.ones((44, 1))
    confidence[30] = 0
    return {
        "center": np.array([112.0, 110]),
        "scale": np.array([0.9, 0.9]),
        "body_pose": np.arange(72) / 72,
        "has_body_pose": 1.0,
        "betas": np.arange(10) / 10,
        "has_betas": 1.0,
        "keypoints_2d": np.concatenate([flat, confidence], 1),
        "keypoints_3d": np.concatenate([body, confidence], 1),
    }


@pytest.mark.parametrize("archive", [False, True])
def test_humans4d(tmp_path, archive):
    row = body_rows()
    rows = row
    if not archive:
        rows = {name: value for name, value in row.items() if "keypoints" not in name}
        for kind in ("2d", "3d"):
            whole = row[f"keypoints_{kind}"]
            rows[f"body_keypoints_{kind}"], rows[f"extra_keypoints_{kind}"] = whole[:25], whole[25:]
    write_rows(tmp_path / "root", [rows], {}, archive)
    ((clip, images, labels, masks),) = cut(tmp_path, "humans4d", "margin=1")
    assert clip.crops[0].kind == "body" and labels.frame == "root"
    names = find_joint_set("humans44").joints
    assert (
        names[4] == "right_wrist" and names[25] == "right_ankle_spin" and names[43] == "head_h36m"
    )
    np.testing.assert_allclose(
        labels.joints.points[0][:30], row["keypoints_3d"][:30, :3], atol=1e-6
    )
    assert labels.joints.confidence[0, 30] == 0
    scale = 128 / 180
    wrist = (np.array([56.5, 66.5]) - (112.5 - 90, 110.5 - 90)) * scale
    np.testing.assert_allclose(labels.keypoints.points[0, 4], wrist, atol=1e-4)
    red = images[0, ..., 0].astype(float) - images[0, ..., 1]
    y, x = np.nonzero(red > 0.7 * red.max())
    np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], wrist, atol=0.6)
    assert (labels.body.model, labels.body.variant) == ("smpl", "neutral")
    np.testing.assert_allclose(
        labels.body.parameters["pose"].ravel(), np.arange(72) / 72, atol=1e-6
    )


def write_wholebody(root, **changes):
    points = np.zeros((133, 3))
    points[:17] = np.concatenate([RANDOM.uniform(60, 160, (17, 2)), np.full((17, 1), 2)], 1)
    hand = np.concatenate([project(HAND), np.full((21, 1), 2)], 1)
    points[91:112], points[112:] = hand, hand + (5, 0, 0)
    annotation = {
        "id": 5,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [20, 20, 190, 190],
        "keypoints": points[:17].ravel(),
        "foot_kpts": points[17:23].ravel(),
        "face_kpts": points[23:91].ravel(),
        "lefthand_kpts": points[91:112].ravel(),
        "righthand_kpts": points[112:].ravel(),
        "foot_valid": False,
        "face_valid": False,
        "lefthand_valid": True,
        "righthand_valid": False,
        "lefthand_box": [25, 35, 145, 145],
        "righthand_box": [0, 0, 0, 0],
        **changes,
    }
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 224, "height": 224}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [annotation],
    }
    save_json(root / "annotations/coco_wholebody_val_v1.0.json", tree)
    save_image(root / "val2017/a.jpg", project(HAND)[TIP])
    return points


def test_coco_wholebody(tmp_path):
    points = write_wholebody(tmp_path / "root")
    body, hand = cut(tmp_path, "coco_wholebody")
    assert [clip.crops[0].kind for clip, *_ in (body, hand)] == ["body", "left_hand"]
    labels = body[2].keypoints
    assert labels.joint_set == "coco_wholebody133"
    # The right hand, the face and the feet do not count.
    assert labels.confidence[0].tolist() == [1] * 17 + [0] * 74 + [1] * 21 + [0] * 21
    box = np.array(body[0].crops[0].box)
    expected = (points[91:112, :2] + 0.5 - box[:2]) * 128 / (box[2] - box[0])
    np.testing.assert_allclose(labels.points[0, 91:112], expected, atol=1e-4)
    check_dot(hand)
    assert find_joint_set("coco_wholebody133").joints[91 + TIP] == "left_hand_index_tip"


def test_a_wholebody_of_another_format_is_named(tmp_path):
    write_wholebody(tmp_path / "root", face_kpts=[0.0] * 3)
    with pytest.raises(UserError, match="annotation 5 has 3 numbers of face_kpts, not 204"):
        cut(tmp_path, "coco_wholebody", check=False)

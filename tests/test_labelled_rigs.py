"""Readers of EHF, Panoptic, AIST++, HumanData and SPIN's files, made to the published formats."""

import json

import cv2
import numpy as np
import pytest
from body_scenes import (
    SIZE,
    K,
    body,
    check_keypoints,
    check_projection,
    clips_of,
    draw,
    find_dots,
    pose,
    save,
    to_pixels,
)
from old_pickles import write_old
from test_labelled_bodies import run

from data.format.joint_sets import find_joint_set, match_joint_sets
from data.sources.label_shards import main
from engine.errors import UserError

EHF_K = np.array([[1498.22426237, 0, 790.263706], [0, 1498.22426237, 578.90334], [0, 0, 1]])
EHF_CAMERA = pose(-2.98747896, 0.01172457, -0.05704687, t=(-0.03609917, 0.43416458, 2.37101226))


def write_ehf(root, rng, vertices=10475):
    """One image; three of the mesh's vertices and of OpenPose's joints have dots."""
    ahead = body(rng, vertices, (0, 0, 2.5))
    world = (ahead - EHF_CAMERA[:3, 3]) @ EHF_CAMERA[:3, :3]
    pixels = to_pixels(world, EHF_K, EHF_CAMERA)
    save(root / "01_img.jpg", draw(pixels, (1600, 1200)))
    rows = np.zeros((137, 3))
    rows[:3, :2], rows[:3, 2] = pixels[:3], 0.9
    rows[25:67] = 100, 200, 0.5  # both hands
    person = {
        "pose_keypoints_2d": rows[:25].ravel().tolist(),
        "hand_left_keypoints_2d": rows[25:46].ravel().tolist(),
        "hand_right_keypoints_2d": rows[46:67].ravel().tolist(),
        "face_keypoints_2d": rows[67:].ravel().tolist(),
    }
    (root / "01_2Djnt.json").write_text(json.dumps({"version": 1.1, "people": [person]}))
    head = f"""ply
format binary_little_endian 1.0
element vertex {vertices}
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
"""
    face = np.array([3], np.uint8).tobytes() + np.array([0, 1, 2], "<i4").tobytes()
    (root / "01_align.ply").write_bytes(head.encode() + world.astype("<f4").tobytes() + face)
    return world


def test_ehf_is_read_by_its_one_camera(tmp_path):
    world = write_ehf(tmp_path / "ehf", np.random.default_rng(0))
    ((clip, images, labels, _),) = run(tmp_path, "ehf")
    np.testing.assert_allclose(labels.vertices[0], world, atol=1e-5)
    crop = clip.crops[0]
    rt = np.array(crop.Rt)
    pixels = to_pixels(world[:3] @ rt[:, :3].T + rt[:, 3], np.array(crop.K))
    np.testing.assert_allclose(find_dots(images[0]), pixels, atol=0.6)
    check_keypoints(images, labels)
    points = labels.keypoints
    assert points.joint_set == "openpose137" and clip.split == "test"
    names = find_joint_set("openpose137").joints
    confidence = dict(zip(names, points.confidence[0].tolist(), strict=True))
    assert confidence["left_hand_wrist"] == confidence["right_hand_little_tip"] == 0.5
    assert confidence["left_heel"] == confidence["face_0"] == 0


def test_a_mesh_of_another_topology_is_told(tmp_path):
    write_ehf(tmp_path / "ehf", np.random.default_rng(0), 100)
    with pytest.raises(UserError, match=r"01_align\.ply is no mesh of SMPL-X: its vertices is of"):
        run(tmp_path, "ehf")
    (tmp_path / "ehf" / "01_align.ply").write_bytes(b"not a mesh")
    with pytest.raises(UserError, match=r"01_align\.ply is no PLY file"):
        run(tmp_path, "ehf")


def distort(points, lens):
    """Normalised points (n, 2) as OpenCV's lens k1, k2, p1, p2, k3 bends them."""
    x, y = points.T
    k1, k2, p1, p2, k3 = lens
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return np.column_stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ]
    )


def to_lens(joints, K, wc, lens):
    """(n, 2) pixels of a camera with a lens."""
    ahead = joints @ wc[:3, :3].T + wc[:3, 3]
    return distort(ahead[:, :2] / ahead[:, 2:], lens) @ K[:2, :2].T + K[:2, 2]


LENS = (-0.25, 0.1, 0.001, -0.002, 0.01)


def write_panoptic(root, rng):
    """A person at two instants by two cameras, and a third camera that looks away. Metres here,
    centimetres in the files."""
    cameras = {
        "00_00": pose(0.1, 0.2, 0, t=(0.2, 0.1, 3)),
        "00_01": pose(0.1, -0.9, 0.1, t=(0, 0.1, 3.5)),
        "00_02": pose(0, 3.0, 0, t=(0, 0, -4)),
    }
    folder = root / "171204_pose1"
    entries = []
    for name, wc in cameras.items():
        entries.append(
            {
                "name": name,
                "type": "hd",
                "resolution": SIZE,
                "K": K.tolist(),
                "distCoef": LENS,
                "R": wc[:3, :3].tolist(),
                "t": (wc[:3, 3:] * 100).tolist(),
            }
        )
    entries.append({**entries[0], "name": "01_01", "type": "vga"})
    (folder / "hdPose3d_stage1_coco19").mkdir(parents=True)
    path = folder / "calibration_171204_pose1.json"
    path.write_text(json.dumps({"calibDataSource": "x", "cameras": entries}))
    joints = {}
    for number in (0, 7, 30):
        joints[number] = body(rng, 19)
        rows = np.column_stack([joints[number] * 100, np.full(19, 0.8)])
        rows[5, 3] = -1
        scene = {
            "univTime": number * 33.37,
            "bodies": [{"id": 2, "joints19": rows.ravel().tolist()}],
        }
        where = folder / "hdPose3d_stage1_coco19" / f"body3DScene_{number:08d}.json"
        where.write_text(json.dumps(scene))
        for name, wc in cameras.items():
            image = draw(to_lens(joints[number], K, wc, LENS))
            save(folder / "hdImgs" / name / f"{name}_{number:08d}.jpg", image)
    return joints


def test_panoptic_gives_all_cameras_of_an_instant(tmp_path):
    joints = write_panoptic(tmp_path / "panoptic", np.random.default_rng(1))
    found = run(tmp_path, "panoptic", "frame_step=30")
    assert [clip.key for clip, *_ in found] == [
        "171204_pose1_2_00000000",
        "171204_pose1_2_00000030",
    ]
    for number, (clip, images, labels, _) in zip((0, 30), found, strict=True):
        assert [crop.camera for crop in clip.crops] == ["00_00", "00_01"]
        check_projection(clip, images, labels, atol=0.8)
        # One instant of joints, metres, for both cameras.
        assert labels.instant.tolist() == [0, 0] and labels.joints.points.shape == (1, 19, 3)
        known = labels.joints.confidence[0] > 0
        assert known.sum() == 18 and not known[5]
        np.testing.assert_allclose(labels.joints.points[0, known], joints[number][known], atol=1e-6)
    assert abs(found[1][0].crops[0].time_s - 1.0011) < 1e-4
    assert len(run_again(tmp_path, "panoptic", "cameras=00_01", "frame_step=1")) == 3
    with pytest.raises(UserError, match="cameras=00_09 is none of .*: 00_00, 00_01"):
        run_again(tmp_path, "panoptic", "cameras=00_09", folder="none")


def run_again(tmp_path, name, *words, folder="again"):
    """Another command into a folder of its own."""
    out = tmp_path / folder
    assert main([name, f"root={tmp_path / name}", f"out={out}", "licence=mine", *words]) == 0
    return clips_of(out)


def write_aist(root, rng, frames=121):
    """Two of nine cameras have frames; centimetres in the files."""
    name = "gBR_sBM_cAll_d04_mBR0_ch01"
    cameras = [pose(0.05, 0.3 * number, 0, t=(0.1, 0, 4)) for number in range(9)]
    entries = []
    for number, wc in enumerate(cameras):
        entries.append(
            {
                "name": f"c{number + 1:02d}",
                "size": SIZE,
                "matrix": K.tolist(),
                "rotation": cv2.Rodrigues(wc[:3, :3])[0].ravel().tolist(),
                "translation": (wc[:3, 3] * 100).tolist(),
                "distortions": LENS,
            }
        )
    (root / "cameras").mkdir(parents=True)
    (root / "cameras" / "setting1.json").write_text(json.dumps(entries))
    other = "gBR_sBM_cAll_d05_mBR0_ch02"
    (root / "cameras" / "mapping.txt").write_text(f"{name} setting1\n{other} setting1\n")
    (root / "ignore_list.txt").write_text(f"{other}\n")
    joints = np.stack([body(rng, 17) for _ in range(frames)])
    points = np.zeros((9, frames, 17, 3))
    for number, wc in enumerate(cameras):
        for frame in (0, 60, 120):
            points[number, frame, :, :2] = to_lens(joints[frame], K, wc, LENS)
            points[number, frame, :, 2] = 0.9
            if number in (0, 3):
                video = name.replace("cAll", f"c{number + 1:02d}")
                image = draw(points[number, frame, :, :2])
                save(root / "frames" / video / f"{frame:08d}.jpg", image)
    points[0, 60, 5] = np.nan
    joints[60, 9] = np.nan
    motion = {
        "smpl_poses": rng.normal(size=(frames, 72)),
        "smpl_scaling": np.array([93.8]),
        "smpl_trans": rng.normal(size=(frames, 3)) * 100,
        "smpl_loss": 0.1,
    }
    for sequence in (name, other):
        write_old(root / "motions" / f"{sequence}.pkl", motion)
    write_old(root / "keypoints3d" / f"{name}.pkl", {"keypoints3d_optim": joints * 100})
    seen = {"keypoints2d": points, "det_scores": points[..., 0, 2], "timestamps": np.arange(frames)}
    write_old(root / "keypoints2d" / f"{name}.pkl", seen)
    return joints, motion


def test_aist_gives_all_cameras_of_an_instant_in_metres(tmp_path):
    joints, motion = write_aist(tmp_path / "aistpp", np.random.default_rng(2))
    found = run(tmp_path, "aistpp")
    assert len(found) == 3
    for frame, (clip, images, labels, _) in zip((0, 60, 120), found, strict=True):
        assert [crop.camera for crop in clip.crops] == ["c01", "c04"]
        check_projection(clip, images, labels, atol=0.8)
        check_keypoints(images, labels, 0, 0.8)
        values = labels.at(0).body
        assert (values.model, values.variant) == ("smpl", "male")
        parameters = values.parameters
        np.testing.assert_allclose(parameters["pose"].ravel(), motion["smpl_poses"][frame], 1e-5)
        np.testing.assert_allclose(
            parameters["transl"], motion["smpl_trans"][frame] / 100, rtol=1e-5
        )
        np.testing.assert_allclose(parameters["scale"], 0.938, rtol=1e-5)
        assert clip.subject == "aistpp/d04"
    middle = found[1][2]
    assert middle.joints.confidence[0].tolist() == [1.0] * 9 + [0] + [1] * 7
    assert middle.keypoints.confidence[0, 5] == 0


def write_humandata(root, rng, compress=True, **changes):
    """Two rows of 3D and 2D points: SMPL-X's body, and OpenPose's hips in place of SMPL's."""
    names = find_joint_set("humandata190").joints
    present = np.zeros(190, bool)
    present[:55] = True
    present[names.index("left_hip")] = False
    present[names.index("left_hip_openpose")] = True
    joints = np.stack([body(rng, 190, (0, 0, 4)) for _ in range(2)])
    points = np.stack([to_pixels(person, K) for person in joints])
    for row in range(2):
        save(root / f"images/{row}.jpg", draw(points[row, [0, 2, 3]]))
    kept = present if compress else np.ones(190, bool)
    blank = np.where(present, 1.0, 0.0)
    data = {
        "image_path": np.array(["0.jpg", "1.jpg"]),
        "bbox_xywh": np.column_stack([points.min(1), points.max(1) - points.min(1), np.ones(2)]),
        "keypoints2d": np.dstack([points, [blank] * 2])[:, kept],
        "keypoints2d_mask": present.astype(int),
        "keypoints3d": np.dstack([joints, [blank] * 2])[:, kept],
        "keypoints3d_mask": present.astype(int),
        "smplx": {
            "global_orient": rng.normal(size=(2, 3)),
            "body_pose": rng.normal(size=(2, 21, 3)),
            "betas": rng.normal(size=(2, 10)),
            "transl": rng.normal(size=(2, 3)),
            "left_hand_pose": rng.normal(size=(2, 15, 3)),
            "right_hand_pose": rng.normal(size=(2, 15, 3)),
            "expression": rng.normal(size=(2, 10)),
            "jaw_pose": rng.normal(size=(2, 3)),
        },
        "meta": {"gender": ["m", "female"]},
        "misc": {
            "focal_length": (500.0, 510.0),
            "principal_point": (322.0, 236.0),
            "flat_hand_mean": True,
        },
        "__key_strict__": False,
        "__temporal_len__": 2,
        "__keypoints_compressed__": compress,
    }
    data.update(changes)
    np.savez_compressed(root / "a.npz", **data)
    return joints, data


@pytest.mark.parametrize("compress", [True, False])
def test_humandata_whole_and_compressed_are_the_same(tmp_path, compress):
    joints, data = write_humandata(tmp_path / "humandata", np.random.default_rng(3), compress)
    found = run(tmp_path, "humandata", "labels=a.npz", "images=images")
    assert len(found) == 2
    for row, (clip, images, labels, _) in enumerate(found):
        crop, known = clip.crops[0], labels.at(0)
        pixels = to_pixels(known.joints.points[[0, 2, 3]], np.array(crop.K))
        np.testing.assert_allclose(find_dots(images[0]), pixels, atol=0.6)
        np.testing.assert_allclose(known.keypoints.points[[0, 2, 3]], pixels, atol=0.05)
        names = find_joint_set("humandata190").joints
        hip, other = names.index("left_hip"), names.index("left_hip_openpose")
        np.testing.assert_allclose(known.joints.points[hip], joints[row, other], atol=1e-6)
        smplx = data["smplx"]
        parameters = known.body.parameters
        expected = np.concatenate(
            [
                smplx["global_orient"][row][None],
                smplx["body_pose"][row],
                smplx["jaw_pose"][row][None],
                np.zeros((2, 3)),
                smplx["left_hand_pose"][row],
                smplx["right_hand_pose"][row],
            ]
        )
        np.testing.assert_allclose(parameters["pose"], expected, atol=1e-6)
        np.testing.assert_allclose(parameters["transl"], smplx["transl"][row], atol=1e-6)
        np.testing.assert_allclose(parameters["expression"], smplx["expression"][row], atol=1e-6)
        assert known.body.variant == ("male", "female")[row]


def test_humandata_without_a_camera_or_a_flat_hand_keeps_what_it_knows(tmp_path):
    smpl = {
        "global_orient": np.ones((2, 3)),
        "body_pose": np.ones((2, 23, 3)),
        "betas": np.ones((2, 10)),
    }
    rng = np.random.default_rng(3)
    write_humandata(tmp_path / "humandata", rng, misc={"kps3d_root_aligned": True})
    labels = run(tmp_path, "humandata", "labels=a.npz", "images=images")[0][2]
    assert labels.frame == "root" and labels.body.parameters["body_pose"].shape == (1, 22, 3)
    assert "pose" not in labels.body.parameters and "transl" not in labels.body.parameters
    write_humandata(tmp_path / "humandata", rng, smplx=None, smpl=smpl)
    body_of = run_again(tmp_path, "humandata", "labels=a.npz", "images=images")[0][2].body
    assert body_of.model == "smpl" and body_of.parameters["pose"].shape == (1, 24, 3)


def test_humandata_of_another_convention_is_told(tmp_path):
    rng = np.random.default_rng(3)
    write_humandata(tmp_path / "humandata", rng, keypoints3d_convention="coco")
    with pytest.raises(UserError, match="keypoints3d are of the convention coco"):
        run(tmp_path, "humandata", "labels=a.npz")
    with pytest.raises(UserError, match="keypoints3d=b is none of the file's keypoints3d"):
        run(tmp_path, "humandata", "labels=a.npz", "keypoints3d=b")
    with pytest.raises(UserError, match="labels= is not set"):
        run(tmp_path, "humandata")


def test_the_190_points_have_the_places_that_mmhuman3d_gives_them():
    """Some of each part, by the list in its conventions."""
    names = find_joint_set("humandata190").joints
    places = {
        0: "pelvis",
        10: "left_toes",
        22: "jaw",
        25: "left_index_1",
        31: "left_little_1",
        37: "left_thumb_1",
        54: "right_thumb_3",
        55: "nose",
        56: "right_eye",
        60: "left_big_toe",
        66: "left_thumb_tip",
        75: "right_little_tip",
        76: "face_17",
        86: "face_27",
        112: "face_53",
        127: "face_0",
        143: "face_16",
        144: "right_hip_extra",
        147: "head_top",
        153: "nose_openpose",
        161: "mid_hip_openpose",
        177: "right_heel_openpose",
        185: "head_h36m",
        188: "left_palm",
    }
    assert {place: names[place] for place in places} == places


def write_spin(root, rng, used, **changes):
    """Two rows of SPIN's file; only some of the 24 joints are there."""
    joints = np.zeros((2, 24, 4))
    parts = np.zeros((2, 24, 3))
    centres, scales = [], []
    for row in range(2):
        person = body(rng, 24, (0, 0, 4))
        pixels = to_pixels(person, K)
        joints[row, :, :3], parts[row, :, :2] = person - person[14], pixels
        centres.append((pixels.min(0) + pixels.max(0)) / 2)
        scales.append((pixels.max(0) - pixels.min(0)).max() / 200 * 1.2)
        save(root / f"images/S{9 + row}_Walking.60457274_{row:06d}.jpg", draw(pixels))
    joints[:, used, 3] = parts[:, used, 2] = 1
    joints[joints[..., 3] == 0], parts[parts[..., 2] == 0] = 0, 0
    data = {
        "imgname": [f"images/S{9 + row}_Walking.60457274_{row:06d}.jpg" for row in range(2)],
        "center": centres,
        "scale": scales,
        "part": parts,
        "S": joints,
        "pose": rng.normal(size=(2, 72)),
        "shape": rng.normal(size=(2, 10)),
        "has_smpl": [1, 0],
    }
    data.update(changes)
    np.savez(root / "h36m_valid_protocol1.npz", **data)
    return joints, data


def test_spins_files_of_human36m_are_its_17_joints(tmp_path):
    used = [14, 3, 4, 5, 2, 1, 0, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6]
    joints, data = write_spin(tmp_path / "spin", np.random.default_rng(4), used)
    found = run(tmp_path, "spin")
    assert [clip.subject for clip, *_ in found] == ["spin/S9", "spin/S10"]
    clip, images, labels, _ = found[0]
    assert labels.frame == "root" and clip.crops[0].K is None
    assert labels.joints.joint_set == labels.keypoints.joint_set == "h36m17"
    # SPIN's ankle, knee and hip of the right leg come first and have the dots.
    names = find_joint_set("h36m17").joints
    order = [names.index(f"right_{name}") for name in ("ankle", "knee", "hip")]
    np.testing.assert_allclose(find_dots(images[0]), labels.at(0).keypoints.points[order], atol=0.6)
    np.testing.assert_allclose(labels.joints.points[0, order], joints[0, :3, :3], atol=1e-6)
    assert not labels.joints.points[0, names.index("pelvis")].any()
    assert labels.joints.points[0, names.index("left_wrist")].tolist() == pytest.approx(
        joints[0, 11, :3].tolist()
    )
    assert labels.at(0).body.parameters["pose"].shape == (24, 3)
    assert found[1][2].body is None
    assert (match_joint_sets("h36m17", "lsp14") >= 0).all()


def test_other_files_of_spin_keep_all_24_joints(tmp_path):
    write_spin(tmp_path / "spin", np.random.default_rng(4), list(range(14)) + [19])
    labels = run(tmp_path, "spin")[0][2]
    assert labels.keypoints.joint_set == "spin24"
    check_keypoints(run_again(tmp_path, "spin")[0][1], labels)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"S": np.zeros((2, 23, 4))}, r"S is of shape \(2, 23, 4\), not \(2, 24, 4\)"),
        ({"center": np.array(["a", "b"])}, "center is of <U1"),
        ({"imgname": ["/etc/a.jpg", "b.jpg"]}, "the name '/etc/a.jpg' leads out of the data set"),
        ({"imgname": ["a/../../b.jpg", "b.jpg"]}, "'a/../../b.jpg' leads out of the data set"),
        ({"imgname": ["C:\\b.jpg", "b.jpg"]}, "leads out of the data set"),
        (
            {"scale": np.array([1, object], object)},
            "scale is no pickle of plain data.*object itself",
        ),
        ({"scale": np.array([1, print], object)}, "scale is refused: it asks for builtins.print"),
    ],
)
def test_files_of_spin_that_make_no_sense_are_named(tmp_path, changes, words):
    write_spin(tmp_path / "spin", np.random.default_rng(4), [0], **changes)
    with pytest.raises(UserError, match=words):
        run(tmp_path, "spin")

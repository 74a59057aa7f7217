"""Readers of 3DPW, EMDB, BEDLAM, BEDLAM2 and AGORA, on files made to the published formats."""

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
    rotation,
    save,
    to_pixels,
)
from old_pickles import Call, fake, write_old

from data.format.joint_sets import match_joint_sets
from data.format.verify import check_shard
from data.loading.sequences import SequenceConfig, SequenceOrder, SequenceReader, find_runs
from data.sources.label_shards import main
from data.sources.labelled.rows import Rows
from data.sources.labelled.threedpw import ThreeDPW
from data.storage.shard_store import Store
from engine.errors import UserError


def run(tmp_path, name, *words, code=0):
    """The clips of a whole command, and a look at its shards."""
    keys = [f"root={tmp_path / name}", f"out={tmp_path / 'out'}", "licence=mine", *words]
    assert main([name, *keys]) == code
    for path in (tmp_path / "out").glob("*.tar"):
        assert check_shard(str(path)).problems == []
    return clips_of(tmp_path / "out")


def read_sequence(tmp_path, length=8):
    """The first sequence of the shards of a command."""
    paths = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    store, config = Store(None), SequenceConfig(length=length, stride=length)
    order = SequenceOrder(find_runs(paths, store, config), config, 0)
    return SequenceReader(order, store).read(0)


def write_3dpw(root, rng, frames=6, changes=lambda tree: None):
    """A sequence of two people by a camera that moves; frame 2 did not fit, in 3 nobody was
    found. The people stand so far apart that neither's dots are in the other's crops."""
    cameras = [pose(0, 0.02 * f, 0.01, t=(0.05 * f, 0, 6)) for f in range(frames)]
    tree = {
        "sequence": "street_00",
        "genders": ["m", "f"],
        "cam_intrinsics": K,
        "cam_poses": np.array(cameras),
        "img_frame_ids": np.arange(frames) * 2,
        "poses": [rng.normal(size=(frames, 72)) for _ in range(2)],
        "betas": [rng.normal(size=300), rng.normal(size=10)],
        "trans": [rng.normal(size=(frames, 3)) for _ in range(2)],
        "jointPositions": [],
        "poses2d": [],
        "campose_valid": [np.ones(frames), np.ones(frames)],
        "texture_maps": [],
    }
    tree["campose_valid"][0][2] = 0
    images = [None] * frames
    for person in range(2):
        joints = np.stack([body(rng, 24, (2.6 * person - 1.3, 0, 0)) for _ in range(frames)])
        tree["jointPositions"].append(joints.reshape(frames, 72))
        points = np.zeros((frames, 3, 18))
        for frame in range(frames):
            pixels = to_pixels(joints[frame], K, cameras[frame])
            places = match_joint_sets("smpl24", "openpose18")
            points[frame, :2, places >= 0] = pixels[places[places >= 0]]
            points[frame, 2, places >= 0] = 0.7
            images[frame] = draw(pixels, into=images[frame])
        points[3] = 0
        tree["poses2d"].append(points)
    changes(tree)
    write_old(root / "sequenceFiles" / "train" / "street_00.pkl", tree)
    for frame in range(frames):
        save(root / "imageFiles" / "street_00" / f"image_{frame:05d}.jpg", images[frame])
    return tree


def test_3dpw_is_read_in_its_own_world(tmp_path):
    tree = write_3dpw(tmp_path / "threedpw", np.random.default_rng(0))
    found = run(tmp_path, "threedpw", "clip_crops=3")
    keys = [clip.key for clip, *_ in found]
    assert keys == [f"street_00_{p}_{f:05d}" for p, f in ((0, 0), (0, 5), (1, 0), (1, 4))]
    clip, images, labels, _ = found[0]
    # Frames 2 and 3 are left out; image i belongs to row i.
    assert [crop.image for crop in clip.crops] == [
        f"street_00/image_{f:05d}.jpg" for f in (0, 1, 4)
    ]
    np.testing.assert_allclose([crop.time_s for crop in clip.crops], [0, 1 / 30, 4 / 30], atol=1e-6)
    assert (clip.split, clip.track) == ("train", "threedpw/street_00/0")
    for clip, images, labels, _ in found:
        check_projection(clip, images, labels)
        assert labels.joints.joint_set == "smpl24" and labels.keypoints.joint_set == "openpose18"
        # OpenPose's detections lie where the joints of the same name fall.
        wrist, elbow = labels.at(0).keypoints.points[[4, 6]]
        crop, rt = clip.crops[0], np.array(clip.crops[0].Rt)
        joints = labels.at(0).joints.points[[21, 18]] @ rt[:, :3].T + rt[:, 3]
        np.testing.assert_allclose([wrist, elbow], to_pixels(joints, np.array(crop.K)), atol=0.05)
    assert np.unique(labels.keypoints.confidence).tolist() == pytest.approx([0, 0.7])
    values = found[0][2].at(2).body
    assert (values.model, values.variant) == ("smpl", "male")
    np.testing.assert_allclose(values.parameters["pose"].ravel(), tree["poses"][0][4], atol=1e-6)
    np.testing.assert_allclose(values.parameters["transl"], tree["trans"][0][4], atol=1e-6)
    np.testing.assert_allclose(values.parameters["betas"], tree["betas"][0][:10], atol=1e-6)
    np.testing.assert_allclose(
        np.array(found[0][0].crops[2].Rt), tree["cam_poses"][4][:3], atol=1e-6
    )


def test_an_actor_of_3dpw_is_known_again_by_shape(tmp_path):
    """So that no split by person has somebody on both sides."""
    root, betas = tmp_path / "threedpw", [np.arange(10) / 10, np.ones(10)]

    def changes(tree):
        tree.update(sequence=f"street_0{number}", betas=betas[:: 1 - 2 * number])

    for number in range(2):
        write_3dpw(root, np.random.default_rng(number), 4, changes)
        written = root / "sequenceFiles" / "train" / "street_00.pkl"
        written.rename(written.with_name(f"s{number}.pkl"))
        if number:
            for path in (root / "imageFiles" / "street_00").iterdir():
                save(root / "imageFiles" / "street_01" / path.name, cv2.imread(str(path)))
    who = {clip.key: clip.subject for clip, *_ in run(tmp_path, "threedpw")}
    assert len(set(who.values())) == 2
    assert who["street_00_0_00000"] == who["street_01_1_00000"]
    assert who["street_00_1_00000"] == who["street_01_0_00000"]


def test_check_finds_3dpw_right(tmp_path, capsys):
    write_3dpw(tmp_path / "threedpw", np.random.default_rng(0))
    keys = [f"root={tmp_path / 'threedpw'}", f"out={tmp_path / 'look.png'}"]
    assert main(["threedpw", "--check", *keys]) == 0
    said = capsys.readouterr().out
    assert "3D joints through the camera fall 0.0 px from the 2D ones" in said, said
    assert (tmp_path / "look.png").stat().st_size > 1000


def test_3dpw_gives_sequences_over_its_clips(tmp_path):
    write_3dpw(tmp_path / "threedpw", np.random.default_rng(0))
    run(tmp_path, "threedpw", "clip_crops=2")
    sequence = read_sequence(tmp_path)
    frames = [0, 1, 4, 5] if sequence.track.endswith("0") else [0, 1, 2, 4, 5]
    assert sequence.valid.sum() == len(frames)
    np.testing.assert_allclose(sequence.time_s[: len(frames)], np.array(frames) / 30, atol=1e-6)
    assert sequence.labels[0].joints is not None and sequence.calibrated[: len(frames)].all()


@pytest.mark.parametrize(
    "changes,words",
    [
        (lambda t: t.pop("cam_poses"), r"street_00\.pkl is no 3DPW sequence: it lacks 'cam_poses'"),
        (lambda t: t.update(poses=3), r"street_00\.pkl is no 3DPW sequence: object of type 'int'"),
        (
            lambda t: t["trans"].__setitem__(0, np.zeros((6, 2))),
            r"trans is of shape \(6, 2\), not \(6, 3\)",
        ),
        (lambda t: t.update(sequence="../street_00"), "leads out of the data set"),
        (
            lambda t: t.update(texture_maps=Call("os", "system", "true")),
            r"street_00\.pkl is refused: it asks for os.system",
        ),
    ],
)
def test_files_that_make_no_sense_are_named(tmp_path, changes, words):
    write_3dpw(tmp_path / "threedpw", np.random.default_rng(0), 6, changes)
    with pytest.raises(UserError, match=words):
        run(tmp_path, "threedpw")


def test_many_processes_write_what_one_does_and_a_killed_command_resumes(tmp_path):
    write_3dpw(tmp_path / "threedpw", np.random.default_rng(0))

    def shards(*words):
        run(tmp_path, "threedpw", "clip_crops=2", "clips_per_shard=1", "size=64", *words)
        return {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")}

    whole = shards()
    assert len(whole) == 5
    for path in sorted((tmp_path / "out").glob("*.tar"))[1:4]:
        path.unlink()
    assert shards("workers=2") == whole


def test_a_look_at_some_rows_sees_people_from_all_over(tmp_path):
    """As ``--check`` asks for them: without the rest, in an order that is spread."""
    write_3dpw(tmp_path / "threedpw", np.random.default_rng(0))
    source = ThreeDPW(out="x", root=str(tmp_path / "threedpw"), clip_crops=1)
    source.rows = Rows(spread=True)
    images = list(source.read())
    assert len({image.clip for image in images}) == len(images) == 9
    assert [image.clip for image in images] != sorted(image.clip for image in images)


def test_a_root_of_something_else_is_told(tmp_path):
    with pytest.raises(UserError, match=r"sequenceFiles/test cannot be read: no such file"):
        run(tmp_path, "threedpw", "split=test")
    (tmp_path / "emdb" / "P0" / "walk").mkdir(parents=True)
    with pytest.raises(UserError, match=r"P0/walk holds no \*_data\.pkl"):
        run(tmp_path, "emdb")
    (tmp_path / "bedlam" / "processed_labels").mkdir(parents=True)
    with pytest.raises(UserError, match=r"processed_labels holds no \*\.npz"):
        run(tmp_path, "bedlam")


def test_labels_that_are_no_numbers_leave_their_person_out(tmp_path, capsys):
    def changes(tree):
        tree["trans"][0][0] = np.nan

    write_3dpw(tmp_path / "threedpw", np.random.default_rng(0), 6, changes)
    found = run(tmp_path, "threedpw", code=1)
    assert "its transl are not finite numbers" in capsys.readouterr().err
    assert [len(clip.crops) for clip, *_ in found] == [3, 5]


def test_emdb_is_read_in_its_own_world(tmp_path):
    rng, frames = np.random.default_rng(1), 5
    cameras = np.array([pose(0.1, 0.02 * f, 0, t=(0.1, 0.05 * f, 4)) for f in range(frames)])
    joints = np.stack([body(rng, 24) for _ in range(frames)])
    points = np.stack([to_pixels(joints[f], K, cameras[f]) for f in range(frames)])
    boxes = np.concatenate([points.min(1) - 10, points.max(1) + 10], 1)
    good = np.array([1, 1, 0, 1, 1], bool)
    smpl = {
        "poses_root": rng.normal(size=(frames, 3)),
        "poses_body": rng.normal(size=(frames, 69)),
        "trans": rng.normal(size=(frames, 3)),
        "betas": rng.normal(size=10),
    }
    tree = {
        "gender": "female",
        "name": "P3_05_walk",
        "emdb1": True,
        "emdb2": False,
        "n_frames": frames,
        "good_frames_mask": good,
        "camera": {"intrinsics": K, "extrinsics": cameras, "width": SIZE[0], "height": SIZE[1]},
        "smpl": smpl,
        "kp2d": points,
        "bboxes": {"bboxes": boxes, "invalid_idxs": np.array([4])},
    }
    folder = tmp_path / "emdb" / "P3" / "05_walk"
    write_old(folder / "P3_05_walk_data.pkl", tree)
    for frame in range(frames):
        save(folder / "images" / f"{frame:05d}.jpg", draw(points[frame]))
    with pytest.raises(UserError, match="no labelled person that can be cut"):
        run(tmp_path, "emdb", "benchmark=emdb2")
    ((clip, images, labels, _),) = run(tmp_path, "emdb", "benchmark=emdb1")
    assert (clip.key, clip.subject) == ("P3_05_walk_00000", "emdb/P3")
    assert [crop.image for crop in clip.crops] == [
        f"P3_05_walk/{frame:05d}.jpg" for frame in (0, 1, 3)
    ]
    assert labels.body.variant == "female" and labels.joints is None
    for number, frame in enumerate((0, 1, 3)):
        check_keypoints(images, labels, number)
        # What SMPL will give in the world falls on them too.
        crop, rt = clip.crops[number], np.array(clip.crops[number].Rt)
        pixels = to_pixels(joints[frame] @ rt[:, :3].T + rt[:, 3], np.array(crop.K))
        np.testing.assert_allclose(labels.at(number).keypoints.points, pixels, atol=0.01)
        values = labels.at(number).body.parameters
        np.testing.assert_allclose(values["pose"][0], smpl["poses_root"][frame], atol=1e-6)
        np.testing.assert_allclose(values["pose"][1:].ravel(), smpl["poses_body"][frame], atol=1e-6)
    sequence = read_sequence(tmp_path)
    np.testing.assert_allclose(sequence.time_s[:3], np.array([0, 1, 3]) / 30, atol=1e-6)


def write_bedlam(root, rng, scene, count, portrait=False, extra=(), shapes=11):
    """Two frames of a person; SMPL-X is played by fixed joints that its translation moves.

    What the training code stores of it: trans_cam, and cam_ext's translation that has to be added.
    """
    size = (720, 1280) if portrait else (1280, 720)
    f = 1600.0
    intrinsics = np.array([[f, 0, size[0] / 2], [0, f, size[1] / 2], [0, 0, 1]])
    rest, rows = body(rng, 55), []
    for frame in (0, 5):
        trans, ext = rng.normal(0, 0.1, 3), np.eye(4)
        ext[:3, 3] = 0.2, 0.1, 6 + 0.1 * frame
        pixels = to_pixels(rest + trans + ext[:3, 3], intrinsics)
        points = rng.uniform(0, 100, (count, 2))
        first = 44 if count == 171 else 0
        points[first : first + 55] = pixels
        low, high = pixels[:22].min(0), pixels[:22].max(0)
        rows.append(
            {
                "imgname": f"seq_000003/seq_000003_{frame:04d}.png",
                "center": (low + high) / 2,
                "scale": (high - low).max() / 200 * 1.2,
                "pose_cam": rng.normal(size=165),
                "pose_world": rng.normal(size=165),
                "shape": np.arange(shapes) / 10,
                "trans_cam": trans,
                "trans_world": rng.normal(size=3),
                "gtkps": np.column_stack([points, np.ones(count)]),
                "cam_int": intrinsics,
                "cam_ext": ext,
                "gender": "female",
                "motion_info": "walk",
                **dict(extra),
            }
        )
        # The renderer's image plane begins at the first pixel's corner.
        image = draw(pixels - 0.5, size, turned=portrait)
        save(root / "images" / scene / "png" / rows[-1]["imgname"], image)
    arrays = {name: [row[name] for row in rows] for name in rows[0]}
    (root / "processed_labels").mkdir(parents=True, exist_ok=True)
    np.savez(root / "processed_labels" / f"{scene}.npz", **arrays)
    return rest, rows


@pytest.mark.parametrize("portrait", [False, True])
def test_the_trap_of_bedlam(tmp_path, portrait):
    """The model's joints plus the stored transl fall on the image; trans_cam alone would not."""
    rng = np.random.default_rng(2)
    scene = "20221014_3_250_batch01hand_closeup_6fps" if portrait else "20221010_3_1000_6fps"
    rest, rows = write_bedlam(tmp_path / "bedlam", rng, scene, 127, portrait, {"sub": "rp_a"})
    found = run(tmp_path, "bedlam")
    assert len(found) == 2
    for row, (clip, images, labels, _) in zip(rows, found, strict=True):
        (crop,) = clip.crops
        values = labels.at(0).body
        transl = values.parameters["transl"]
        np.testing.assert_allclose(transl, row["trans_cam"] + row["cam_ext"][:3, 3], atol=1e-6)
        pixels = to_pixels(rest + transl, np.array(crop.K))
        np.testing.assert_allclose(find_dots(images[0]), pixels[:3], atol=0.6)
        np.testing.assert_allclose(labels.keypoints.points[0, :3], pixels[:3], atol=0.05)
        assert np.array_equal(crop.Rt, np.eye(3, 4))
        assert (values.model, values.variant) == ("smplx", "neutral")
        assert values.parameters["pose"].shape == (55, 3)
        assert values.parameters["betas"].shape == (11,)
        assert labels.keypoints.joint_set == "smplx55"
    assert found[1][0].subject == "bedlam/rp_a"
    np.testing.assert_allclose([clip.crops[0].time_s for clip, *_ in found], [0, 1 / 6], atol=1e-6)
    assert read_sequence(tmp_path).valid.sum() == 2


def test_bedlam2_has_other_joints_first_and_knows_nobody(tmp_path):
    rest, rows = write_bedlam(tmp_path / "bedlam2", np.random.default_rng(3), "s", 171, shapes=16)
    found = run(tmp_path, "bedlam2")
    clip, images, labels, _ = found[0]
    check_keypoints(images, labels)
    assert labels.body.variant == "female_lockedhead"
    assert labels.body.parameters["betas"].shape[-1] == 16
    assert clip.subject.startswith("bedlam2/body-") and clip.subject == found[1][0].subject


def agora_table(columns):
    """A data frame as pandas 1.1 pickled it."""

    def index(cls, module, **entries):
        of = type(cls, (), {"__module__": f"pandas.core.indexes.{module}", "__qualname__": cls})
        return Call("pandas.core.indexes.base", "_new_Index", of, entries)

    names = index("Index", "base", data=np.array(list(columns), object), name=None)
    count = len(next(iter(columns.values())))
    rows = index("RangeIndex", "range", start=0, stop=count, step=1, name=None)
    values = np.empty((len(columns), count), object)
    for place, column in enumerate(columns.values()):
        for row, value in enumerate(column):
            values[place, row] = value
    blocks = [{"values": values, "mgr_locs": slice(0, len(columns), 1)}]
    state = ([names, rows], [], [], {"0.14.1": {"axes": [names, rows], "blocks": blocks}})
    manager = Call("pandas.core.internals.managers", "BlockManager", state=state)
    return fake("pandas.core.frame", "DataFrame", {"_mgr": manager, "_typ": "dataframe"})


def write_agora(root, rng, joints_of=45, focal_mm=28.0):
    """An image of 3840 x 2160, scaled by 3, of two people; a third is hidden."""
    f = focal_mm / 36 * 3840
    large = np.array([[f, 0, 1920], [0, f, 1080], [0, 0, 1]])
    joints = [body(rng, joints_of, (1.8 * person - 0.9, 0, 5)) for person in range(2)]
    joints.append(joints[0] + 1)
    points = [to_pixels(person, large) for person in joints]
    image = None
    for person in points[:2]:
        image = draw(person / 3 - 0.5, (1280, 720), image)
    name = "ag_trainset_3dpeople_bfh_archviz_5_10_00001_1280x720.png"
    save(root / "images" / "train_0" / name, image)
    verts = [rng.normal(size=(20, 3)) for _ in range(3)]
    columns = {
        "imgPath": ["ag_trainset_3dpeople_bfh_archviz_5_10_00001.png"],
        "X": [[100.0, 200.0, 300.0]],
        "camX": [1.0],
        "isValid": [[True, True, False]],
        "gender": [["male", "female", "male"]],
        "gt_path_smplx": [["smplx_gt/a/10004_w_0_0.pkl", "smplx_gt/a/b_0_0.pkl", "c.pkl"]],
        "gt_joints_2d": [points],
        "gt_joints_3d": [joints],
        "gt_verts": [verts],
    }
    write_old(root / "labels" / "train_0_withjv.pkl", agora_table(columns))
    return joints, verts


@pytest.mark.parametrize("joints_of,joint_set", [(45, "smpl24"), (127, "smplx55")])
def test_agora_is_read_in_the_cameras_frame(tmp_path, joints_of, joint_set):
    joints, verts = write_agora(tmp_path / "agora", np.random.default_rng(4), joints_of)
    found = run(tmp_path, "agora", "vertices=true")
    assert [clip.subject for clip, *_ in found] == ["agora/10004_w_0_0", "agora/b_0_0"]
    for person, (clip, images, labels, _) in enumerate(found):
        check_projection(clip, images, labels)
        assert labels.joints.joint_set == labels.keypoints.joint_set == joint_set
        count = len(labels.joints.points[0])
        np.testing.assert_allclose(labels.joints.points[0], joints[person][:count], atol=1e-6)
        np.testing.assert_allclose(labels.vertices[0], verts[person], atol=1e-6)


@pytest.mark.parametrize(
    "name,yaw,pitch",
    [
        ("ag_trainset_3dpeople_bfh_archviz_5_10_00001.png", 20.0, 0.0),
        ("ag_trainset_3dpeople_bfh_archviz_5_10_cam02_00001.png", -45.0, 30.0),
    ],
)
def test_agoras_parameters_are_turned_into_the_camera(tmp_path, name, yaw, pitch):
    """A stick figure in the scan's axes, taken to the camera by the steps of AGORA's projection."""
    rng, root = np.random.default_rng(5), tmp_path / "agora"
    orient, rest = np.array([0.3, -0.2, 0.5]), body(rng, 127)
    scan = rest @ rotation(*orient).T + [0.1, 0.9, 0]
    scan_yaw = 70.0
    turned = (scan * [1, -1, -1]) @ rotation(0, np.deg2rad(scan_yaw - 90), 0).T
    # Unreal's x, y, z (cm) are z, x, -y here.
    feet, camera = np.array([[300.0, 50, 0]]), np.array([[-200.0, 40, 170]])
    moved = turned + ((feet - camera) / 100)[:, [1, 2, 0]] * [1, -1, 1]
    joints = moved @ rotation(0, np.deg2rad(-yaw), 0).T @ rotation(np.deg2rad(pitch), 0, 0).T
    joints[:, 2] += 3
    f = (18 if "cam02" in name else 28) / 36 * 3840
    points = to_pixels(joints, np.array([[f, 0, 1920], [0, f, 1080], [0, 0, 1]]))
    save(root / "images" / name, np.full((2160, 3840, 3), 90, np.uint8))
    columns = {
        "imgPath": [name],
        "Yaw": [[scan_yaw]],
        "camYaw": [20.0],
        "isValid": [[True]],
        "kid": [[True]],
        "gender": [["female"]],
        "gt_path_smplx": [["smplx_gt/a/10004_w_0_0.obj"]],
        "gt_joints_2d": [[points]],
        "gt_joints_3d": [[joints]],
    }
    write_old(root / "labels" / "train_0_withjv.pkl", agora_table(columns))
    parameters = {
        "global_orient": orient[None],
        "body_pose": rng.normal(size=(1, 63)),
        "betas": rng.normal(size=(1, 11)),
        "expression": rng.normal(size=(1, 10)),
        "left_hand_pose": np.ones((1, 45)),
    }
    write_old(root / "smplx_gt" / "a" / "10004_w_0_0.pkl", parameters)
    ((_, _, labels, _),) = run(tmp_path, "agora", "parameters=true")
    values = labels.at(0).body
    assert (values.model, values.variant) == ("smplx", "female_kid")
    found = (rest - rest[0]) @ rotation(*values.parameters["body_pose"][0]).T
    np.testing.assert_allclose(found + values.parameters["translation"], joints, atol=1e-5)
    np.testing.assert_allclose(
        values.parameters["body_pose"][1:].ravel(), parameters["body_pose"][0], atol=1e-6
    )


def test_agora_of_another_focal_length_is_refused(tmp_path):
    write_agora(tmp_path / "agora", np.random.default_rng(4), focal_mm=50)
    with pytest.raises(UserError, match=r"its joints in space fall \d+ px from those in the image"):
        run(tmp_path, "agora")

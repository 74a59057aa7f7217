"""Files of animation, read by readers of their own: what they show is what the body models give."""

import base64
import csv
import dataclasses
import json
import re
import struct

import numpy as np
import pytest
from moving import FPS, HEIGHT, WIDTH, make_take, make_track
from scipy.spatial.transform import Rotation, Slerp

from engine.errors import UserError
from engine.geometry import project
from finetune.animation.angles import STANDING, measure_angles
from finetune.animation.formats import FORMATS
from finetune.animation.formats.bvh import spread_rows
from finetune.animation.rig import TO_WORLD, Motion, make_motion, make_rig, skin
from finetune.video.film import write_stretch

BLIND = 1e-4  # metres that nobody sees


@pytest.fixture(scope="module")
def hands(bodies):
    """A take of a right and a left hand with gaps."""
    hand = bodies["anny_hand"]
    return make_take(
        make_track(hand, "right_hand", (0, 1, 2, 3), name="right_hand-1"),
        make_track(hand, "left_hand", (2, 3, 4, 7, 8), seed=3, name="left_hand-2"),
    )


@pytest.fixture(scope="module")
def walk(bodies):
    return make_take(make_track(bodies["anny"], bend=0.2))


def test_all_formats_are_found_by_name():
    assert FORMATS.list_names() == [
        *("bvh", "coco", "csv", "glb", "html", "json", "mot", "npz", "trc", "usd")
    ]
    with pytest.raises(UserError, match="formats=gltf is none of .* did you mean"):
        FORMATS.find("gltf")


def test_npz_holds_what_poses_the_person(hands, tmp_path):
    (path,) = FORMATS.find("npz")(hands, tmp_path / "a")
    with np.load(path) as arrays:
        about = json.loads(str(arrays["about"]))
        for track, told in zip(hands.tracks, about["tracks"], strict=True):
            assert told["name"] == track.name and told["joint_names"] == track.body.joint_names
            assert np.array_equal(arrays[f"{track.name}/frames"], track.frames)
            assert np.array_equal(arrays[f"{track.name}/pose"], track.pose)
            joints = track.pose_rows(slice(1, 2)).joints[0]
            assert np.allclose(arrays[f"{track.name}/joints"][1], joints, atol=1e-6)
            keypoints = arrays[f"{track.name}/keypoints"][1]
            flat, _ = project(keypoints, track.intrinsics, np.eye(3, 4))
            assert np.allclose(arrays[f"{track.name}/keypoints_2d"][1], flat, atol=1e-2)


def test_json_and_csv_say_the_same(hands, tmp_path):
    (path,) = FORMATS.find("json")(hands, tmp_path / "a")
    told = json.loads(path.read_text())
    (table,) = FORMATS.find("csv")(hands, tmp_path / "a")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    left = told["people"][1]
    assert [one["frame"] for one in left["frames"]] == [2, 3, 4, 7, 8]
    mine = [row for row in rows if row["person"] == "left_hand-2"]
    assert [int(row["frame"]) for row in mine] == [2, 3, 4, 7, 8]
    for one, row in zip(left["frames"], mine, strict=True):
        names = left["joint_names"]
        place = [[float(row[f"{name}.{axis}"]) for axis in "xyz"] for name in names]
        assert np.allclose(place, one["joints"], atol=1e-5)
        vectors = [[float(row[f"{name}.r{axis}"]) for axis in "xyz"] for name in names]
        turns = Rotation.from_rotvec(vectors).as_matrix()
        assert np.allclose(turns, one["pose"], atol=1e-4)


def read_glb(path):
    """(JSON, a function that gives an accessor's array) of a GLB file, by the specification."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    tree = json.loads(data[20 : 20 + size])
    rest, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0" and rest == tree["buffers"][0]["byteLength"]
    binary = data[28 + size :]

    def read(number):
        accessor = tree["accessors"][number]
        view = tree["bufferViews"][accessor["bufferView"]]
        dtype = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]
        assert view["byteOffset"] % 4 == 0
        assert view["byteLength"] == accessor["count"] * width * np.dtype(dtype).itemsize
        array = np.frombuffer(binary, dtype, accessor["count"] * width, view["byteOffset"])
        if "min" in accessor:
            assert np.allclose(array.reshape(-1, width).min(0), accessor["min"])
        return array.reshape(-1, width)

    return tree, read


def play_glb(tree, read, time_s):
    """{name of a mesh's node: (vertices in the world, the scale of its parent)} at a time."""
    nodes = [dict(one) for one in tree["nodes"]]
    (animation,) = tree["animations"]
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        times, values = read(sampler["input"])[:, 0], read(sampler["output"])
        target = channel["target"]
        at = np.clip(time_s, times[0], times[-1])
        if sampler["interpolation"] == "STEP":
            value = values[np.searchsorted(times, at + 1e-6, "right") - 1]
        elif target["path"] == "rotation":
            value = Slerp(times, Rotation.from_quat(values))(at).as_quat()
        else:
            value = np.array([np.interp(at, times, column) for column in values.T])
        nodes[target["node"]][target["path"]] = value
    up = {child: n for n, one in enumerate(nodes) for child in one.get("children", [])}

    def place(number, with_scale=True):
        one = nodes[number]
        local = np.eye(4)
        local[:3, :3] = Rotation.from_quat(one.get("rotation", [0, 0, 0, 1])).as_matrix()
        local[:3, :3] *= np.array(one.get("scale", [1, 1, 1]))
        local[:3, 3] = one.get("translation", [0, 0, 0])
        return place(up[number]) @ local if number in up else local

    out = {}
    for number, one in enumerate(nodes):
        if "mesh" not in one:
            continue
        skin, mesh = tree["skins"][one["skin"]], tree["meshes"][one["mesh"]]
        attributes = mesh["primitives"][0]["attributes"]
        inverse = read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        moves = np.stack([place(joint) for joint in skin["joints"]]) @ inverse
        points = np.column_stack(
            [read(attributes["POSITION"]), np.ones(len(read(attributes["POSITION"])))]
        )
        total, shares = 0.0, 0.0
        for part in range(sum(name.startswith("JOINTS_") for name in attributes)):
            owners, weights = (
                read(attributes[f"JOINTS_{part}"]),
                read(attributes[f"WEIGHTS_{part}"]),
            )
            total = total + np.einsum("vn,vnrc,vc->vr", weights, moves[owners], points)
            shares = shares + weights.sum(1)
        assert np.allclose(shares, 1, atol=1e-5)
        out[one["name"]] = total[:, :3], nodes[up[number]].get("scale", np.ones(3))[0]
    return out


def test_glb_plays_the_model(hands, tmp_path):
    (path,) = FORMATS.find("glb")(hands, tmp_path / "a")
    tree, read = read_glb(path)
    for track in hands.tracks:
        for row in (0, len(track) - 1):
            found, scale = play_glb(tree, read, track.times[row])[f"{track.name}.mesh"]
            wanted = track.pose_rows(slice(row, row + 1)).vertices[0] @ TO_WORLD.T
            assert scale == 1 and np.abs(found - wanted).max() < BLIND
    shown = [play_glb(tree, read, frame / FPS)["left_hand-2.mesh"][1] for frame in range(10)]
    assert shown == [0, 0, 1, 1, 1, 0, 0, 1, 1, 0]
    (camera,) = tree["cameras"]
    lens = camera["perspective"]
    assert lens["yfov"] == pytest.approx(2 * np.arctan(HEIGHT / 2 / 367))
    assert lens["aspectRatio"] == pytest.approx(WIDTH / HEIGHT)
    # At rest nobody is turned: joints are where the inverse matrices say.
    skin = tree["skins"][0]
    inverse = read(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
    rig = make_rig(hands.tracks[0])
    assert np.allclose(-inverse[:, 3, :3], rig.joints, atol=1e-6)


def read_bvh(path):
    """(names, parents, offsets, channels, (F, channels) numbers, seconds a frame) of a BVH."""
    lines = path.read_text().splitlines()
    names, parents, offsets, channels, stack = [], [], [], [], []
    at = 1
    while lines[at] != "MOTION":
        words = lines[at].split()
        if words[0] in ("ROOT", "JOINT", "End"):
            names.append(" ".join(words[1:]))
            parents.append(stack[-1] if stack else -1)
            channels.append([])
        elif words[0] == "{":
            stack.append(len(names) - 1)
        elif words[0] == "}":
            stack.pop()
        elif words[0] == "OFFSET":
            offsets.append([float(word) for word in words[1:]])
        else:
            channels[-1] = words[2:]
        at += 1
    count = int(lines[at + 1].split(":")[1])
    step_s = float(lines[at + 2].split(":")[1])
    numbers = np.array([[float(word) for word in line.split()] for line in lines[at + 3 :]])
    assert len(numbers) == count
    return names, parents, np.array(offsets), channels, numbers, step_s


def play_bvh(file, row):
    """{joint: (3,) centimetres} of a row."""
    names, parents, offsets, channels, numbers, _ = file
    turned, places, column = [], [], 0
    for joint, parent in enumerate(parents):
        local, place = np.eye(3), offsets[joint]
        for channel in channels[joint]:
            value = numbers[row, column]
            column += 1
            if channel.endswith("position"):
                place = place + value * np.eye(3)["XYZ".index(channel[0])]
            else:
                local = local @ Rotation.from_euler(channel[0].lower(), value, True).as_matrix()
        if parent < 0:
            turned.append(local)
            places.append(place)
        else:
            places.append(places[parent] + turned[parent] @ place)
            turned.append(turned[parent] @ local)
    return dict(zip(names, places, strict=True))


def test_bvh_plays_the_joints_and_holds_gaps(walk, tmp_path):
    (track,) = walk.tracks
    (path,) = FORMATS.find("bvh")(walk, tmp_path / "a")
    assert path.name == "a.body-1.bvh"
    file = read_bvh(path)
    names, _, offsets, channels, numbers, step_s = file
    assert step_s == pytest.approx(1 / FPS, rel=1e-6) and len(numbers) == 7
    assert channels[0][:3] == ["Xposition", "Yposition", "Zposition"] and not offsets[0].any()
    wanted = track.skeleton[0].astype(float) @ TO_WORLD.T * 100
    for row, there in ((0, 0), (2, 2), (3, 2), (4, 2), (5, 3), (6, 4)):
        found = play_bvh(file, row)
        for joint, name in enumerate(track.body.joint_names):
            assert np.abs(found[name] - wanted[there, joint]).max() < 100 * BLIND
    assert names.count("Site") == sum(
        joint not in track.body.parents for joint in range(len(track.body.parents))
    )
    assert spread_rows(track, walk).tolist() == [0, 1, 2, 2, 2, 3, 4]


def test_trc_has_markers_in_millimetres_and_empty_gaps(walk, tmp_path):
    (track,) = walk.tracks
    (path,) = FORMATS.find("trc")(walk, tmp_path / "a")
    lines = path.read_text().split("\n")
    assert lines[0].split("\t")[:3] == ["PathFileType", "4", "(X/Y/Z)"]
    head = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True))
    names = lines[3].split("\t")[2::3]
    assert head["Units"] == "mm" and int(head["NumFrames"]) == 7
    assert int(head["NumMarkers"]) == len(names) - 1 and names[-1] == ""
    assert lines[4].split("\t")[2:5] == ["X1", "Y1", "Z1"] and lines[5] == ""
    rows = [line.split("\t") for line in lines[6:-1]]
    assert len(rows) == 7 and all(len(row) == 2 + 3 * int(head["NumMarkers"]) for row in rows)
    assert [row[0] for row in rows] == [str(n) for n in range(1, 8)]
    assert all(word == "" for row in rows[3:5] for word in row[2:])
    points = track.pose_rows(slice(3, 4))
    wanted = points.joints[0, track.body.joint_names.index("foot.L")] * [1000, -1000, -1000]
    place = 2 + 3 * names.index("left_ankle")
    assert np.allclose([float(word) for word in rows[5][place : place + 3]], wanted, atol=0.1)


def test_coco_wholebody_has_all_that_the_body_has(walk, tmp_path):
    (track,) = walk.tracks
    (path,) = FORMATS.find("coco")(walk, tmp_path / "a")
    results = json.loads(path.read_text())
    assert [one["image_id"] for one in results] == track.frames.tolist()
    one = results[2]
    parts = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    counts = [len(one[part]) // 3 for part in parts]
    assert counts == [17, 6, 68, 21, 21]
    person = track.make_person(2)
    names = track.body.keypoint_names
    flat = person.keypoints_2d[names.index("left_wrist")]
    assert np.allclose(one["keypoints"][27:29], flat, atol=0.02)  # the 9th of COCO's
    assert one["keypoints"][29] == pytest.approx(track.confidence[2], abs=1e-2)
    assert min(one["righthand_kpts"][2::3]) > 0
    x, y, width, height = one["bbox"]
    assert [x, y, x + width, y + height] == track.box[2].tolist()


def test_mot_is_what_opensim_reads(walk, tmp_path):
    (track,) = walk.tracks
    (path,) = FORMATS.find("mot")(walk, tmp_path / "a")
    head, _, body = path.read_text().partition("endheader\n")
    told = dict(line.split("=") for line in head.splitlines() if "=" in line)
    lines = [line.split("\t") for line in body.splitlines()]
    assert told == {
        "version": "1",
        "nRows": "5",
        "nColumns": str(len(lines[0])),
        "inDegrees": "yes",
    }
    assert lines[0][:4] == ["time", "pelvis_tilt", "pelvis_list", "pelvis_rotation"]
    assert len(lines) == 6 and len(set(lines[0])) == len(lines[0])
    angles = measure_angles(track)
    column = lines[0].index("knee_angle_r")
    found = [float(line[column]) for line in lines[1:]]
    assert np.allclose(found, np.rad2deg(angles["knee_angle_r"]), atol=1e-6)


def stand(body):
    """(a track of a body in pose 0, its rig, its turns from rest, {joint: its number})."""
    track = make_track(body, frames=(0, 1))
    track.pose[:] = np.eye(3)
    track.shape[:] = 0.5
    rig, motion = make_rig(track), make_motion(track)
    rest = motion.find_world_turns(rig.parents)[0]  # of pose 0 in the world
    at = dict(zip(body.joint_names, range(len(body.joint_names)), strict=True))
    return track, rig, rest, at


def test_angles_of_a_standing_person_are_small(bodies):
    track, rig, rest, _ = stand(bodies["anny"])
    angles = {name: np.rad2deg(values[0]) for name, values in measure_angles(track).items()}
    assert abs(angles["knee_angle_r"]) < 12 and abs(angles["hip_flexion_l"]) < 12
    assert angles["arm_add_r"] < -20 and angles["arm_add_l"] < -20  # arms are held off
    for left, right in (("hip_adduction_l", "hip_adduction_r"), ("arm_rot_l", "arm_rot_r")):
        assert angles[left] == pytest.approx(angles[right], abs=1)


@pytest.mark.parametrize(
    "name, joint, axis, sign",
    [
        # Axes of a body that faces z with its left along x: right is -x.
        ("hip_flexion_r", "upperleg01.R", [-1, 0, 0], 1),
        ("hip_flexion_l", "upperleg01.L", [-1, 0, 0], 1),
        ("knee_angle_r", "lowerleg01.R", [-1, 0, 0], -1),
        ("ankle_angle_l", "foot.L", [-1, 0, 0], 1),
        ("lumbar_extension", "spine05", [-1, 0, 0], 1),
        ("lumbar_bending", "spine05", [0, 0, 1], 1),
        ("lumbar_rotation", "spine05", [0, 1, 0], 1),
    ],
)
def test_a_joint_that_is_turned_changes_its_angle_alone(bodies, name, joint, axis, sign):
    body = bodies["anny"]
    track, _, _, at = stand(body)
    before = measure_angles(track)
    stand_up = Rotation.from_euler("x", -90, degrees=True).as_matrix()  # anny's z is up
    turn = Rotation.from_rotvec(np.deg2rad(25) * np.array(axis)).as_matrix()
    track.pose[:, at[joint]] = stand_up.T @ turn @ stand_up
    after = measure_angles(track)
    moved = {
        one: np.rad2deg(after[one][0] - before[one][0])
        for one in after
        if not one.startswith("pelvis_t") or one == "pelvis_tilt"
    }
    assert moved[name] == pytest.approx(25 * sign, abs=2.5)
    others = {one: value for one, value in moved.items() if one != name and one[-1] == name[-1]}
    if name.startswith(("hip", "knee", "ankle")):
        assert all(abs(value) < 3 for value in others.values()), others


def test_the_pelvis_is_turned_as_the_ground_has_it(bodies):
    track, *_ = stand(bodies["anny"])
    world = Rotation.from_euler("zxy", [10, -15, 40], degrees=True)  # not the order that is read
    intrinsic = Rotation.from_euler("ZXY", [10, -15, 40], degrees=True).as_matrix()
    assert not np.allclose(world.as_matrix(), intrinsic)
    anny = Rotation.from_euler("x", -90, degrees=True).as_matrix()
    track.pose[:, 0] = TO_WORLD.T @ intrinsic @ STANDING.T @ anny
    angles = measure_angles(track)
    found = [np.rad2deg(angles[f"pelvis_{one}"][0]) for one in ("tilt", "list", "rotation")]
    assert np.allclose(found, [10, -15, 40], atol=1e-3)
    assert angles["pelvis_ty"][0] == pytest.approx(-track.translation[0, 1])


def test_hands_have_no_angles(hands, tmp_path):
    assert FORMATS.find("mot")(hands, tmp_path / "a") == []
    with pytest.raises(UserError, match="joint angles are of bodies, this is a right_hand"):
        measure_angles(hands.tracks[0])


def test_usd_is_skinned_as_the_model(hands, tmp_path):
    pytest.importorskip("pxr", reason="pip install usd-core")
    from pxr import Usd, UsdGeom, UsdSkel

    (path,) = FORMATS.find("usd")(hands, tmp_path / "a")
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    cache = UsdSkel.Cache()
    for track in hands.tracks:
        name = track.name.replace("-", "_")
        root = UsdSkel.Root(stage.GetPrimAtPath(f"/World/{name}"))
        cache.Populate(root, Usd.PrimDefaultPredicate)
        skeleton = UsdSkel.Skeleton(stage.GetPrimAtPath(f"/World/{name}/{name}_skeleton"))
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/World/{name}/{name}_mesh"))
        query = cache.GetSkelQuery(skeleton)
        skinning = cache.GetSkinningQuery(mesh.GetPrim())
        for row in (0, len(track) - 1):
            code = Usd.TimeCode(float(track.times[row] * FPS))
            moves = query.ComputeSkinningTransforms(code)
            points = mesh.GetPointsAttr().Get()
            assert skinning.ComputeSkinnedPoints(moves, points, code)
            wanted = track.pose_rows(slice(row, row + 1)).vertices[0] @ TO_WORLD.T
            assert np.abs(np.array(points) - wanted).max() < BLIND
            assert UsdGeom.Imageable(root).ComputeVisibility(code) == "inherited"
    gap = UsdGeom.Imageable(stage.GetPrimAtPath("/World/left_hand_2"))
    assert gap.ComputeVisibility(Usd.TimeCode(5)) == "invisible"


def test_usd_text_names_joints_by_their_paths(hands, tmp_path):
    (path,) = FORMATS.find("usd")(hands, tmp_path / "a")
    text = path.read_text()
    assert text.startswith("#usda 1.0\n") and text.count("{") == text.count("}")
    assert '"root/wrist_R/metacarpal1_R' in text and "metersPerUnit = 1" in text
    assert text.count("elementSize = 6") == 4


def test_the_page_holds_all_that_plays_it(hands, tmp_path):
    film = tmp_path / "made.mp4"
    images = ((n, np.full((HEIGHT, WIDTH, 3), 20 * n, np.uint8)) for n in range(10))
    write_stretch(film, images, hands.times, FPS)
    (path,) = FORMATS.find("html")(dataclasses.replace(hands, video=str(film)), tmp_path / "a")
    text = path.read_text()
    assert "http" not in text.replace("http-equiv", "") and 'src="data:video/mp4' in text
    code = re.search(r'class="take">(.*?)</script>', text, re.S)[1]
    take = json.loads(code)
    assert take["times"] == pytest.approx(hands.times.tolist())
    track, packed = hands.tracks[1], take["tracks"][1]

    def unpack(name, dtype, *shape):
        return np.frombuffer(base64.b64decode(packed[name]), dtype).reshape(-1, *shape)

    assert unpack("frames", "<i4").tolist() == track.frames.tolist()
    joints, count = len(packed["parents"]), packed["influences"]
    turns = Rotation.from_quat(unpack("turns", "<i2", 4)).as_matrix().reshape(-1, joints, 3, 3)
    rig = make_rig(track)
    owners, shares = unpack("owners", "<u2", count), unpack("shares", "<f4", count)
    weights = np.zeros_like(rig.weights)
    np.add.at(weights, (np.arange(len(owners))[:, None], owners), shares)
    rig = dataclasses.replace(rig, weights=weights, vertices=unpack("rest", "<f4", 3))
    found = skin(rig, Motion(turns, unpack("places", "<f4", 3).astype(float)), 4)
    wanted = track.pose_rows(slice(4, 5)).vertices[0] @ TO_WORLD.T
    assert np.abs(found - wanted).max() < BLIND
    assert len(list(tmp_path.iterdir())) == 2  # nothing is left of what was made on the way

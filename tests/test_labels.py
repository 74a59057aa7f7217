"""The one schema of labels: there and back, format 1, what is absent, and what is refused."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip, rewrite, write_shards

from data.format.clip import FORMAT, Clip, Crop, decode_meta, encode
from data.format.joint_sets import (
    JOINT_SETS,
    JointSet,
    find_joint_set,
    match_joint_sets,
    register_joint_set,
)
from data.format.label_files import save_arrays
from data.format.label_rows import LabelLayout
from data.format.labels import (
    HIDDEN,
    SEEN,
    BodyParameters,
    Joints,
    Keypoints,
    Labels,
    pack_labels,
    read_arrays,
    read_labels,
)
from data.format.verify import check_shard
from engine.errors import UserError


def full_labels():
    """Labels of 3 crops at 2 instants with every part; the second instant's betas are not known."""
    rng = np.random.default_rng(0)
    numbers = lambda *shape: rng.random(shape).astype(np.float32)  # noqa: E731
    confidence = np.ones((3, 17), np.float32)
    confidence[1] = 0
    return Labels(
        np.array([0, 1, 1]),
        Keypoints("coco17", 64 * numbers(3, 17, 2), confidence, np.full((3, 17), SEEN, np.uint8)),
        Joints("smpl24", numbers(2, 24, 3), numbers(2, 24), np.full((3, 24), HIDDEN, np.uint8)),
        BodyParameters(
            "smpl",
            "female",
            {"pose": numbers(2, 24, 3), "betas": numbers(10), "root": numbers(2, 3)},
            {"betas": np.array([True, False])},
        ),
        numbers(2, 99, 3),
        np.array([False, True]),
        rng.random((3, 99)) < 0.5,
        numbers(3),
        "root",
    )


def flat(value):
    """{name: array or text} of nested dataclasses and dicts."""
    out = {}
    items = value.items() if isinstance(value, dict) else vars(value).items()
    for name, part in items:
        if isinstance(part, dict) or hasattr(part, "__dataclass_fields__"):
            out |= {f"{name}.{inner}": x for inner, x in flat(part).items()}
        else:
            out[name] = part
    return out


def test_labels_come_back_as_they_were():
    labels = full_labels()
    clip = make_clip(0, views=3, instants=1)
    clip.labels = labels
    back = flat(read_labels(encode(clip)["labels.npz"], 3))
    assert back.keys() == flat(labels).keys()
    for name, value in flat(labels).items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_each_part_may_be_absent_and_the_mask_says_so():
    labels = full_labels()
    present = [labels.present(crop) for crop in range(3)]
    assert [p["keypoints"] for p in present] == [True, False, True]
    assert [p["vertices"] for p in present] == [False, True, True]
    assert [p["betas"] for p in present] == [True, False, False]
    assert all(p["joints"] and p["pose"] and p["visible"] for p in present)
    for name in ("keypoints", "joints", "body", "vertices", "vertex_visible", "visible"):
        part = full_labels()
        setattr(part, name, None)
        back = read_labels(save_arrays(pack_labels(part)), 3)
        assert getattr(back, name) is None
        if name in back.present(0):
            assert not back.present(2)[name]
    nothing = read_arrays({}, 2)
    assert nothing.instant.tolist() == [0, 1] and not any(nothing.present(1).values())


def test_labels_of_format_1_are_annys_parameters(people):
    """What `data make` wrote and writes is read in the schema."""
    path = sorted(people["body"].glob("*.tar"))[0]
    with tarfile.open(path) as tar:
        key = tar.getnames()[0].split(".")[0]
        data = tar.extractfile(f"{key}.labels.npz").read()
        meta = json.loads(tar.extractfile(f"{key}.json").read())
    assert meta["format"] == FORMAT == 2
    old = json.dumps({**meta, "format": 1}).encode()
    assert decode_meta(old, "x").crops == decode_meta(json.dumps(meta).encode(), "x").crops
    labels, raw = read_labels(data, 4), dict(np.load(io.BytesIO(data)))
    assert (labels.body.model, labels.joints.joint_set) == ("anny", "anny")
    assert sorted(labels.body.parameters) == ["face", "phenotype", "pose", "root"]
    crop = labels.at(3)
    row = raw["instant"][3]
    np.testing.assert_array_equal(crop.body.parameters["pose"], raw["pose"][row])
    np.testing.assert_array_equal(crop.body.parameters["phenotype"], raw["phenotype"])
    np.testing.assert_array_equal(crop.joints.points, raw["joints"][row])
    np.testing.assert_array_equal(crop.joints.visible, raw["joint_visible"][3])
    assert labels.vertex_visible.shape == (4, 13720) and labels.keypoints is None
    assert crop.visible == pytest.approx(float(raw["visible"][3]))


def changed(**arrays):
    """Arrays of full_labels with some replaced; None leaves one out."""
    out = pack_labels(full_labels()) | arrays
    return {name: array for name, array in out.items() if array is not None}


@pytest.mark.parametrize(
    "arrays,words",
    [
        ({"keypoints": np.zeros((2, 17, 2), np.float32)}, r"keypoints is \(2, 17, 2\)"),
        ({"keypoints": np.full((3, 17, 2), np.nan, np.float32)}, "keypoints holds numbers"),
        ({"keypoint_confidence": np.full((3, 17), 2.0)}, "keypoint_confidence is not in 0 to 1"),
        ({"keypoint_visible": np.full((3, 17), 3, np.uint8)}, "keypoint_visible is none of 0, 1"),
        ({"keypoint_set": None}, "no keypoint_set says which"),
        ({"joint_set": None}, None),  # then they are the body model's own
        ({"joint_set": None, "body_model": None}, "no joint_set says which"),
        ({"joint_set": np.array([1, 2])}, "joint_set is .* not one text"),
        ({"instant": np.array([0, 1, 2])}, "instants 0 to 2 of 2"),
        ({"pose": None}, "pose, a parameter of smpl, is missing"),
        ({"pose": np.zeros((3, 24, 3), np.float32)}, r"pose is \(3, 24, 3\)"),
        ({"pose": np.full((2, 24, 3), "a")}, "pose is .* of <U1"),
        ({"betas": np.float32(1)}, r"betas is \(\)"),
        ({"betas_known": np.ones(3, np.uint8)}, r"betas_known is \(3,\)"),
        ({"frame": np.array("camera")}, "frame is 'camera', none of world, root"),
        ({"visible": np.ones(2, np.float32)}, r"visible is \(2,\)"),
        ({"vertices": np.zeros((2, 9, 2), np.float32)}, r"vertices is \(2, 9, 2\)"),
        ({"notes": np.array("mine")}, None),  # of other names: passed over
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays, words):
    if words is None:
        read_arrays(changed(**arrays), 3)
        return
    with pytest.raises(ValueError, match=words):
        read_arrays(changed(**arrays), 3)
    clip = make_clip(0, views=3, instants=1)
    clip.labels = changed(**arrays)
    with pytest.raises(UserError, match="clip clip00000: "):
        encode(clip)


def test_a_parameter_may_not_take_a_name_of_the_schema():
    labels = Labels(np.arange(1), body=BodyParameters("m", "", {"joints": np.zeros((1, 3))}))
    with pytest.raises(ValueError, match="is called joints, which is taken"):
        pack_labels(labels)


def test_a_clip_may_have_one_crop_and_say_more_of_itself():
    clip = make_clip(0, views=1, instants=1)
    clip.split, clip.track, clip.crops[0].image = "val", "take/1", "images/7.jpg"
    members = encode(clip)
    back = decode_meta(members["json"], "s.tar:clip00000")
    assert (back.split, back.track, back.crops[0].image) == ("val", "take/1", "images/7.jpg")
    meta = json.loads(encode(make_clip(0))["json"])
    assert not {"split", "track"} & meta.keys() and "image" not in meta["crops"][0]
    old = json.dumps({**json.loads(members["json"]), "format": 1}).encode()
    with pytest.raises(ValueError, match="1 crops; a clip has at least 2"):
        decode_meta(old, "s.tar:clip00000")
    clip.split = 3
    with pytest.raises(UserError, match="split, track or image is 3"):
        encode(clip)


def test_verify_checks_labels_by_the_schema_in_format_2_alone(tmp_path):
    path = write_shards(tmp_path, [make_clip(i, labels=True) for i in range(2)], 2)[0]
    bad = save_arrays({"joints": np.zeros((3, 2, 3), np.float32), "joint_set": np.array("toy2")})
    rewrite(path, lambda name, data: bad if name == "clip00001.labels.npz" else data)
    assert check_shard(path).problems == [
        ("clip00001", "labels.npz: instants 0 to 3 of 3"),
    ]
    rewrite(
        path,
        lambda name, data: (
            data.replace(b'"format":2', b'"format":1') if name.endswith("json") else data
        ),
    )
    assert check_shard(path).problems == []


def test_joint_sets_have_the_counts_that_their_names_say():
    for name, joint_set in JOINT_SETS.items():
        digits = "".join(letter for letter in name[-3:] if letter.isdigit())
        assert name.endswith(str(len(joint_set))), (name, len(joint_set), digits)
    assert find_joint_set("coco17").joints[5:7] == ("left_shoulder", "right_shoulder")
    assert find_joint_set("coco_wholebody133").joints[:17] == find_joint_set("coco17").joints
    assert find_joint_set("coco_wholebody133").joints[91] == "left_hand_wrist"
    assert find_joint_set("smplx55").joints[25] == "left_index_1"
    assert find_joint_set("interhand21").joints[:5] == (
        "thumb_tip",
        "thumb_3",
        "thumb_2",
        "thumb_1",
        "index_tip",
    )
    # HO-3D's order to FreiHAND's, as their authors' scripts have it.
    assert match_joint_sets("mano21", "hand21").tolist() == [
        *(0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
    ]
    with pytest.raises(UserError, match="joint set 'coco18' is none of .*coco17"):
        find_joint_set("coco18")


def test_keypoints_of_bodies_and_hands_are_those_of_the_body_models(bodies):
    assert tuple(find_joint_set("body21").joints) == tuple(bodies["anny"].keypoint_names)
    assert tuple(find_joint_set("hand21").joints) == tuple(bodies["anny_hand"].keypoint_names)


def test_a_set_of_ones_own_is_registered_once():
    mine = JointSet("toy_of_a_test3", ("head", "left_wrist", "right_wrist"), "head")
    try:
        assert register_joint_set(mine) is mine and register_joint_set(mine) is mine
        assert match_joint_sets("coco17", mine.name).tolist() == [-1, 9, 10]
        with pytest.raises(ValueError, match="two joint sets are called"):
            register_joint_set(JointSet(mine.name, ("head",)))
    finally:
        JOINT_SETS.pop(mine.name)
    with pytest.raises(ValueError, match="two joints have one name"):
        JointSet("x2", ("a", "a"))


def test_rows_hold_what_is_there_and_the_mask_what_is_not():
    layout = LabelLayout("smplx22", "lsp14", "smpl", {"pose": (24, 3), "betas": (10,)}, 99)
    arrays = {name: np.full(shape, 7, kind) for name, (shape, kind) in layout.shapes(4).items()}
    labels = full_labels()
    for crop in range(3):
        layout.fill(arrays, crop, labels.at(crop))
    layout.fill(arrays, 3, read_arrays({}, 1).at(0))
    columns = {part: arrays["present"][:, layout.column(part)].tolist() for part in layout.parts}
    assert columns == {
        "keypoints": [1, 0, 1, 0],
        "joints": [1, 1, 1, 0],
        "vertices": [0, 1, 1, 0],
        "pose": [1, 1, 1, 0],
        "betas": [1, 0, 0, 0],
    }
    # coco17 has 12 of SMPL's 22 joints; its left shoulder is number 5, SMPL's 16.
    assert (arrays["keypoints"][0, :, 2] > 0).sum() == 12
    np.testing.assert_array_equal(arrays["keypoints"][0, 16, :2], labels.keypoints.points[0, 5])
    assert not arrays["keypoints"][0, 0].any() and not arrays["keypoints"][1].any()
    np.testing.assert_array_equal(arrays["pose"][2], labels.body.parameters["pose"][1])
    assert not any(array[3].any() for array in arrays.values())
    with pytest.raises(ValueError, match=r"pose of smpl is \(24, 3\), not \(22, 3\)"):
        other = LabelLayout(body_model="smpl", parameters={"pose": (22, 3)})
        shapes = other.shapes(1).items()
        other.fill({name: np.zeros(*spec) for name, spec in shapes}, 0, labels.at(0))


def test_rows_of_another_body_model_are_not_present():
    for layout in (
        LabelLayout(body_model="smplx", parameters={"pose": (24, 3)}),
        LabelLayout(body_model="smpl", body_variant="male", parameters={"pose": (24, 3)}),
    ):
        arrays = {name: np.zeros(*spec) for name, spec in layout.shapes(1).items()}
        layout.fill(arrays, 0, full_labels().at(0))
        assert arrays["present"].tolist() == [[0]]


def test_labels_of_another_count_are_refused():
    clip = Clip("a", "s", "l", "p", 64, [Crop("c", 0.0)], make_clip(0).jpegs[:1])
    clip.labels = full_labels()
    with pytest.raises(UserError, match="clip a: labels of 3 crops for 1"):
        encode(clip)


def test_the_example_in_the_documentation_runs():
    doc = Path(__file__).resolve().parent.parent / "docs" / "data.md"
    section = doc.read_text().split("## Labels")[1]
    block = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    labels = full_labels()
    labels.instant = np.array([0, 1, 1, 0])
    labels.keypoints.points = np.ones((4, 17, 2))
    labels.keypoints.confidence = np.ones((4, 17))
    labels.keypoints.visible = labels.joints.visible = None
    labels.vertex_visible = labels.visible = None
    exec(compile(block, str(doc), "exec"), {"npz_bytes": save_arrays(pack_labels(labels))})

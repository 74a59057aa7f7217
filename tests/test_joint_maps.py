"""Joint sets from bodies: the points that names mean, and which of them a body cannot give."""

import numpy as np
import pytest
import torch
from body_standins import make_body, write_npz

from data.bodies.base import mirrored
from data.bodies.body_files import VARIABLE
from data.bodies.joint_maps import JointMap, read_regressor
from data.bodies.landmarks import LANDMARKS
from data.bodies.models import open_model
from data.format.joint_sets import find_joint_set
from engine.errors import UserError


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Bodies whose meshes have their real numbers of vertices, and pose blend shapes of zero."""
    folder, out = tmp_path_factory.mktemp("bodies"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        for name, count in (("smpl", 6890), ("smplx", 10475), ("mano", 778)):
            arrays = make_body(name, vertices=60 if name != "mano" else count, shapes=4)
            arrays = stretch(arrays, count)
            file = {"mano": "MANO_RIGHT"}.get(name, f"{name.upper()}_NEUTRAL")
            write_npz(folder / f"{file}.npz", arrays)
            out[name] = open_model(name)
    return out


def stretch(arrays, count):
    """Fields of so many vertices: the small mesh again and again, its regressor as it is."""
    rows = np.arange(count) % len(arrays["v_template"])
    small = len(arrays["v_template"])
    regressor = np.zeros((len(arrays["J_regressor"]), count), np.float32)
    regressor[:, :small] = arrays["J_regressor"]
    numbers = arrays["posedirs"].shape[2]
    return arrays | {
        "v_template": arrays["v_template"][rows] + 1e-4 * np.arange(count)[:, None],
        "weights": arrays["weights"][rows].astype(np.float32),
        "shapedirs": arrays["shapedirs"][rows].astype(np.float32),
        "posedirs": np.zeros((count, 3, numbers), np.float32),
        "J_regressor": regressor,
    }


def pose(body, seed=0):
    random = torch.Generator().manual_seed(seed)
    shape = torch.full((1, len(body.shape_space.names)), 0.5)
    bends = 0.2 * torch.randn(1, len(body.joint_names), 3, generator=random)
    return body(bends, torch.randn(1, 3, generator=random), shape)


def by_name(body, joint_set, found, **more):
    give = JointMap(body, joint_set, **more)
    points = give(*found)[0]
    assert points.shape == (len(find_joint_set(joint_set)), 3)
    assert not points[~give.given].any() and len(give.missing) == int((~give.given).sum())
    return dict(zip(give.names, points, strict=True)), give.missing


def test_detectors_points_of_the_face_are_landmarks_that_coarse_bodies_keep(family):
    for name in ("smpl", "smplx"):
        body = family[name]
        found = pose(body)
        faces = dict(zip(body.landmark_names, body.landmarks(*found)[0], strict=True))
        points, _ = by_name(body, "coco17", found)
        for point in ("nose", "left_eye", "right_eye", "left_ear", "right_ear"):
            assert torch.equal(faces[point], points[point])
        coarse = body.coarse(40)
        few = coarse.landmarks(*pose(coarse))
        assert torch.allclose(few, body.landmarks(*found), atol=1e-5)
    assert family["mano"].landmark_names == family["mano"].keypoint_names


@pytest.mark.parametrize("name", ["smpl", "smplx"])
def test_points_are_joints_and_vertices_of_the_name(family, name):
    body = family[name]
    vertices, joints = found = pose(body)
    own = dict(zip(body.joint_names, joints[0], strict=True))
    points, missing = by_name(body, "coco17", found)
    assert not missing and torch.equal(points["left_knee"], own["left_knee"])
    assert torch.equal(points["nose"], vertices[0, {"smpl": 332, "smplx": 9120}[name]])
    points, missing = by_name(body, "openpose25", found)
    assert not missing
    middle = (own["left_hip"] + own["right_hip"]) / 2
    assert torch.allclose(points["mid_hip"], middle, atol=1e-6)
    assert torch.equal(points["right_heel"], vertices[0, {"smpl": 6787, "smplx": 8635}[name]])
    points, missing = by_name(body, "body21", found)
    assert not missing and torch.equal(points["chest"], own["spine_2"])
    assert by_name(body, "smpl24", found)[1] == (
        [] if name == "smpl" else ["left_palm", "right_palm"]
    )
    missing = by_name(body, "h36m17", found)[1]
    assert missing == (["torso"] if name == "smpl" else ["torso", "head_top"])


def test_a_whole_body_has_the_fingers_and_face_that_its_model_has(family):
    body = family["smplx"]
    vertices, joints = found = pose(body)
    points, missing = by_name(body, "coco_wholebody133", found)
    # The contour of the face depends on where one looks from.
    assert missing == [f"face_{number}" for number in range(17)]
    own = dict(zip(body.joint_names, joints[0], strict=True))
    assert torch.equal(points["left_hand_ring_2"], own["left_ring_2"])
    assert torch.equal(points["right_hand_wrist"], own["right_wrist"])
    assert torch.equal(points["right_hand_thumb_tip"], vertices[0, 8079])
    corners = body.faces[int(body.tables.face_triangles[13])]
    told = torch.from_numpy(body.tables.face_weights[13]).float() @ vertices[0, corners]
    assert torch.allclose(points["face_30"], told, atol=1e-6)
    points, missing = by_name(body, "hand21", found, part="left_hand")
    assert not missing and torch.equal(points["ring_2"], own["left_ring_2"])
    missing = by_name(family["smpl"], "hand21", pose(family["smpl"]), part="left_hand")[1]
    assert missing == [n for n in find_joint_set("hand21").joints if n[-1] in "123"]


def test_hands_give_their_21_points(family, bodies):
    body = family["mano"]
    found = pose(body)
    points, missing = by_name(body, "hand21", found)
    keypoints = dict(zip(body.keypoint_names, body.keypoints(*found)[0], strict=True))
    assert not missing and all(torch.equal(points[n], keypoints[n]) for n in keypoints)
    assert len(by_name(body, "coco17", found)[1]) == 17
    hand = bodies["anny_hand"]
    found = pose(hand)
    points, missing = by_name(hand, "interhand21", found)
    keypoints = dict(zip(hand.keypoint_names, hand.keypoints(*found)[0], strict=True))
    assert not missing and all(torch.equal(points[n], keypoints[n]) for n in keypoints)


def test_annys_points_lie_where_a_person_has_them(bodies):
    """At rest: it faces -y, its left is +x; sides mirror each other."""
    body = bodies["anny"]
    still = torch.zeros(1, 104, 3), torch.zeros(1, 3), torch.full((1, 6), 0.5)
    found = body(*still)
    points, missing = by_name(body, "openpose25", found)
    assert not missing
    for name, point in points.items():
        if name.startswith("left_"):
            other = points[name.replace("left_", "right_")]
            assert torch.allclose(point, mirrored(other), atol=1e-3) and point[0] > 0.02
    assert points["nose"][1] < points["left_eye"][1] < points["left_ear"][1]
    assert points["left_eye"][2] > points["nose"][2] > points["neck"][2]
    for toe in ("left_big_toe", "left_small_toe"):
        assert points[toe][1] < points["left_ankle"][1] - 0.1
    assert points["left_heel"][1] > points["left_ankle"][1]
    assert points["left_small_toe"][0] > points["left_big_toe"][0] + 0.04
    tall, missing = by_name(body, "lsp14", found)
    assert not missing and tall["head_top"][2] == found[0][0, :, 2].max()
    assert by_name(body, "smplx55", found)[1] == ["jaw"]
    hands, missing = by_name(body, "hand21", found, part="right_hand")
    assert not missing and hands["middle_tip"][0] < hands["wrist"][0] < 0
    assert 0.1 < (hands["middle_tip"] - hands["wrist"]).norm() < 0.25
    # A hand's own model has the same points, and a coarse body those that it kept.
    assert set(LANDMARKS["anny"].values()) <= set(range(13718))
    coarse = body.coarse(64)
    missing = by_name(coarse, "openpose25", coarse(*still))[1]
    assert "left_heel" in missing and not {"nose", "left_knee"} & set(missing)


def test_a_users_regressor_makes_its_points(family, tmp_path, monkeypatch):
    body = family["smpl"]
    vertices, _ = found = pose(body)
    rows = np.random.default_rng(0).dirichlet(np.ones(6890), 17)
    np.save(tmp_path / "J_regressor_h36m.npy", rows)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    regressor = read_regressor("h36m")
    points, missing = by_name(body, "lsp14", found, regressor=regressor)
    assert not missing
    # SPIN's list of rows for its 14 joints: right leg, left leg, right arm, left arm, neck, head.
    order = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]
    told = torch.from_numpy(rows[order]).float() @ vertices[0]
    assert torch.allclose(torch.stack(list(points.values())), told, atol=1e-5)
    points, missing = by_name(body, "h36m17", found, regressor=regressor)
    assert not missing
    knee = torch.from_numpy(rows[5]).float() @ vertices[0]
    assert torch.allclose(points["right_knee"], knee, atol=1e-5)
    # Points that it has not are the body's own.
    points, _ = by_name(body, "coco17", found, regressor=regressor)
    assert torch.equal(points["left_ear"], vertices[0, 583])


def test_regressors_that_do_not_fit_are_told(family, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="J_regressor_extra.npy cannot be read"):
        read_regressor("extra")
    with pytest.raises(UserError, match="regressor 'coco' is none of h36m, extra"):
        read_regressor("coco")
    path = tmp_path / "J_regressor_h36m.npy"
    np.save(path, np.ones((9, 6890)))
    with pytest.raises(UserError, match="has 9 rows, a regressor h36m has 17"):
        read_regressor("h36m")
    np.save(path, np.full((17, 6890), np.nan))
    with pytest.raises(UserError, match="not finite"):
        read_regressor("h36m")
    np.save(path, np.array([print], object), allow_pickle=True)
    with pytest.raises(UserError, match="is no npy file of numbers"):
        read_regressor("h36m")
    np.save(path, np.ones((17, 6890)))
    with pytest.raises(UserError, match="is of 6890 vertices, body=smplx has 10475"):
        JointMap(family["smplx"], "h36m17", regressor=read_regressor("h36m"))
    with pytest.raises(UserError, match="joint set 'coco18' is none of"):
        JointMap(family["smplx"], "coco18")

"""Body models behind one interface: equal to anny itself, to each other, to their mirror image, and
differentiable."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from data.bodies.base import mirrored, mirrored_rotation
from data.bodies.models import open_model
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix

RIGHT_HAND = ("wrist", "finger", "metacarpal")


@pytest.fixture(scope="module")
def whole(bodies):
    """anny itself, as data.people uses it."""
    return bodies["anny"].source


@pytest.fixture(scope="module")
def posed(whole):
    """(pose (4, 104, 3) rotation vectors, root (4, 3), shape (4, 6)), random."""
    random = torch.Generator().manual_seed(0)
    pose = 0.35 * torch.randn(4, len(whole.joint_names), 3, generator=random)
    pose[:, 0] *= 4  # bodies in any attitude
    return (
        pose,
        torch.randn(4, 3, generator=random),
        torch.rand(4, len(whole.shape_names), generator=random),
    )


def skinning_share(whole, prefixes, side):
    """(V,) share of each vertex's skinning weight on the joints of that side whose names begin
    so."""
    chosen = torch.tensor(
        [name.endswith(f".{side}") and name.startswith(prefixes) for name in whole.joint_names]
    )
    data = whole.model.to_model_data()
    return (data.vertex_bone_weights * chosen[data.vertex_bone_indices.long()]).sum(1)


def test_the_body_is_annys(bodies, whole, posed):
    vertices, joints = bodies["anny"](*posed)
    true_vertices, true_joints = whole(*posed)
    assert vertices.shape == (4, 13718, 3) and vertices.dtype == torch.float32
    assert (vertices - true_vertices).abs().max() < 1e-5 and (
        joints - true_joints
    ).abs().max() < 1e-5
    assert torch.equal(bodies["anny"].faces, whole.faces)
    assert (joints[:, 0] - posed[1]).abs().max() < 1e-6  # the pelvis stands where it is put
    matrices = bodies["anny"](axis_angle_to_matrix(posed[0]), *posed[1:])[0]
    assert (matrices - vertices).abs().max() < 1e-5


def test_one_shape_serves_many_poses(bodies, posed):
    pose, root, shape = posed
    for model in bodies.values():
        poses = pose[:, : len(model.joint_names)]
        one, four = model(poses, root, shape[:1]), model(poses, root, shape[:1].expand(4, -1))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, four, strict=True))


def test_coarse_vertices_are_those_of_the_full_mesh(bodies, posed):
    for model in bodies.values():
        pose = posed[0][:, : len(model.joint_names)]
        coarse = model.coarse(60)
        full, joints = model(pose, *posed[1:])
        few, same_joints = coarse(pose, *posed[1:])
        place = {int(v): i for i, v in enumerate(model.vertex_ids)}
        rows = [place[int(v)] for v in coarse.vertex_ids]
        assert 60 <= len(rows) <= 65 and coarse.faces is None
        assert (few - full[:, rows]).abs().max() < 1e-6 and (
            joints - same_joints
        ).abs().max() < 1e-6
        assert (
            coarse.keypoints(few, same_joints) - model.keypoints(full, joints)
        ).abs().max() < 1e-6
        # Spread over the surface: no vertex of the resting mesh is far from one that was kept.
        rest, _ = model(torch.zeros_like(pose[:1]), torch.zeros(1, 3), torch.full((1, 6), 0.5))
        far = cKDTree(rest[0, rows]).query(rest[0])[0].max()
        assert far < 0.16 * np.ptp(rest[0].numpy(), axis=0).max()


def in_the_world(rotations, joint, parents):
    """(B, 3, 3) rotation of a joint from the body's own axes, down its chain of parents."""
    out = rotations[:, joint]
    while parents[joint] >= 0:
        joint = parents[joint]
        out = rotations[:, joint] @ out
    return out


def test_the_hand_is_the_bodys_own(bodies, whole, posed):
    hand, rotations = bodies["anny_hand"], axis_angle_to_matrix(posed[0])
    vertices, joints = whole(*posed)
    own = skinning_share(whole, RIGHT_HAND, "R")
    kept = torch.isin(torch.arange(len(own)), hand.vertex_ids)
    assert kept[own > 0.99].all() and not kept[own < 0.01].any()

    index = [whole.joint_names.index(name) for name in hand.joint_names[1:]]
    wrist = in_the_world(rotations, index[0], whole.parents)
    none = torch.eye(3).expand_as(wrist)
    for root, second in ((wrist, none), (none, wrist)):  # either joint can hold the whole rotation
        pose = torch.cat([torch.stack([root, second], 1), rotations[:, index[1:]]], 1)
        found, found_joints = hand(pose, joints[:, index[0]], posed[2])
        off = (found - vertices[:, hand.vertex_ids]).norm(dim=-1)
        assert (
            off[:, own[hand.vertex_ids] > 0.9999].max() < 1e-5
            and (own[hand.vertex_ids] > 0.9999).sum() > 1300
        )
        # The forearm's share of a vertex stays with the hand; towards the cut that is what is lost.
        assert off[:, own[hand.vertex_ids] > 0.99].max() < 1e-3
        assert (found_joints[:, 1:] - joints[:, index]).abs().max() < 1e-5
        assert (found_joints[:, 0] - joints[:, index[0]]).abs().max() < 1e-5


def test_the_hands_triangles_are_the_bodys(bodies, whole):
    hand = bodies["anny_hand"]
    known = {tuple(face) for face in whole.faces.tolist()}
    edges = torch.cat([hand.faces[:, [0, 1]], hand.faces[:, [1, 2]], hand.faces[:, [2, 0]]]).sort(
        1
    )[0]
    open_edges = (torch.unique(edges, dim=0, return_counts=True)[1] == 1).sum()
    assert open_edges == 20  # one even ring at the wrist
    assert all(tuple(face) in known for face in hand.vertex_ids[hand.faces].tolist())
    assert len(torch.unique(hand.faces)) == len(hand.vertex_ids)


def test_fingertips_are_the_far_ends_of_the_fingers(bodies):
    hand = bodies["anny_hand"]
    vertices, joints = hand(torch.zeros(1, 21, 3), torch.zeros(1, 3), torch.full((1, 6), 0.5))
    points = dict(zip(hand.keypoint_names, hand.keypoints(vertices, joints)[0], strict=True))
    assert len(points) == 21
    for finger in ("thumb", "index", "middle", "ring", "little"):
        knuckle, last, tip = (points[f"{finger}_{part}"] for part in ("1", "3", "tip"))
        along = (last - points[f"{finger}_2"]) / (last - points[f"{finger}_2"]).norm()
        near = (vertices[0] - last).norm(dim=1) < 0.05  # of this finger, and of its neighbours'
        reach = ((vertices[0] - last) @ along)[near & ((vertices[0] - tip).norm(dim=1) < 0.012)]
        assert (
            0.01 < (tip - last).norm() < 0.04 and (tip - last) @ along > 0.9 * (tip - last).norm()
        )
        assert (tip - last) @ along > reach.max() - 0.005
        assert (tip - knuckle).norm() > (last - knuckle).norm()


@pytest.mark.parametrize("name", ["anny", "anny_hand"])
def test_gradients_are_those_of_finite_differences(bodies, name):
    """Central differences of a smooth function of vertices and joints, along random directions of
    each argument."""
    model, random = bodies[name].coarse(80), torch.Generator().manual_seed(1)
    joints, shapes = len(model.joint_names), len(model.shape_space.names)
    arguments = [
        0.3 * torch.randn(2, joints, 3, generator=random),
        torch.randn(2, 3, generator=random),
        0.2 + 0.6 * torch.rand(2, shapes, generator=random),
    ]
    weight = torch.randn(
        2, len(model.vertex_ids) + joints, 3, generator=random, dtype=torch.float64
    )

    def value(*given):
        return (torch.cat(model(*given), 1).double() * weight).sum()

    for place in range(3):
        given = [a.clone().requires_grad_(i == place) for i, a in enumerate(arguments)]
        gradient = torch.autograd.grad(value(*given), given[place])[0]
        assert gradient.isfinite().all()
        # Steps where rounding (float32) and curvature are both far below a hundredth of the slope.
        for _ in range(4):
            step = 4e-3 * torch.randn(arguments[place].shape, generator=random)
            moved = [
                [a + sign * step if i == place else a for i, a in enumerate(arguments)]
                for sign in (1, -1)
            ]
            with torch.no_grad():
                slope = (value(*moved[0]) - value(*moved[1])) / 2
            told = (gradient * step).sum()
            scale = (gradient.norm() * step.norm()) / np.sqrt(step.numel())
            assert abs(slope - told) < 1e-2 * max(abs(told), scale), (place, slope, told)


def test_gradients_at_rest_are_finite(bodies):
    for model in bodies.values():
        pose = torch.zeros(1, len(model.joint_names), 3, requires_grad=True)
        shape = torch.full((1, 6), 0.5, requires_grad=True)
        sum(points.square().sum() for points in model(pose, torch.zeros(1, 3), shape)).backward()
        assert pose.grad.isfinite().all() and shape.grad.isfinite().all()
        assert (pose.grad.abs().sum(-1) > 0).sum() > 10 and (shape.grad != 0).sum() >= 5


def test_a_mirrored_body_is_the_mirror_image(bodies, posed):
    model = bodies["anny"]
    names = [
        {"left": "right", "right": "left"}.get(n.split("_")[0], n.split("_")[0])
        + n[n.find("_") :] * ("_" in n)
        for n in model.keypoint_names
    ]
    assert [model.keypoint_names[i] for i in model.keypoint_mirror] == names
    sides = [
        name[:-1] + {"L": "R", "R": "L"}[name[-1]] if name[-2:] in (".L", ".R") else name
        for name in model.joint_names
    ]
    assert [model.joint_names[i] for i in model.mirror] == sides

    pose, root = axis_angle_to_matrix(posed[0]), posed[1]
    # The rig of anny's neck lies off the middle: 0.8 mm at this shape, 6 mm at the oddest; all else
    # is symmetric.
    neck = [name.startswith(("neck", "head", "eye")) for name in model.joint_names]
    shape, flip = torch.full((1, 6), 0.5), np.array([-1, 1, 1])
    vertices, joints = model(pose, root, shape)
    other_vertices, other_joints = model(
        mirrored_rotation(pose[:, model.mirror]), mirrored(root), shape
    )
    off = np.linalg.norm(other_joints.numpy() - joints.numpy()[:, model.mirror] * flip, axis=-1)
    assert off[:, ~np.array(neck)].max() < 1e-4 and off.max() < 5e-3
    points, other = (
        model.keypoints(*found).numpy()
        for found in ((vertices, joints), (other_vertices, other_joints))
    )
    body = [i for i, name in enumerate(model.keypoint_names) if name != "head"]
    assert np.abs(other - points[:, model.keypoint_mirror] * flip)[:, body].max() < 1e-4
    for mine, image in zip(other_vertices.numpy(), vertices.numpy() * flip, strict=True):
        for one, tree in ((mine, cKDTree(image)), (image, cKDTree(mine))):
            distance = tree.query(one)[0]
            assert distance.max() < 5e-3 and np.median(distance) < 1e-5


def test_the_left_hand_is_the_right_one_in_a_mirror(bodies, whole, posed):
    """The right-hand model with the left hand's mirrored rotations gives the mirror image of the
    body's left hand."""
    hand, rotations = bodies["anny_hand"], axis_angle_to_matrix(posed[0])
    vertices, joints = whole(*posed)
    index = [whole.joint_names.index(name[:-1] + "L") for name in hand.joint_names[1:]]
    wrist, world = index[0], in_the_world(rotations, index[0], whole.parents)
    pose = torch.cat(
        [torch.stack([world, torch.eye(3).expand_as(world)], 1), rotations[:, index[1:]]], 1
    )
    found, found_joints = hand(mirrored_rotation(pose), mirrored(joints[:, wrist]), posed[2])
    assert (mirrored(found_joints[:, 1:]) - joints[:, index]).abs().max() < 1e-4
    own = skinning_share(whole, RIGHT_HAND, "L") > 0.99
    for mine, body in zip(mirrored(found).numpy(), vertices.numpy(), strict=True):
        assert cKDTree(mine).query(body[own])[0].max() < 1e-3


def test_mirrored_rotations_are_turned_the_other_way():
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    found = mirrored_rotation(torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()))
    # A mirror keeps a rotation's axis across it and turns the other two parts around.
    assert np.allclose(found, Rotation.from_rotvec(vectors * [1, -1, -1]).as_matrix())


def test_bf16_around_it_leaves_the_mesh_alone(bodies, posed):
    model = bodies["anny"].coarse(50)
    plain = model(*posed)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(*posed)[0], plain)


def test_unknown_models_are_refused():
    with pytest.raises(UserError, match="body=smpl_x is none of anny, anny_hand"):
        open_model("smpl_x")
    with pytest.raises(UserError, match="body=anny has no variants; 'female' was asked for"):
        open_model("anny", "female")


def test_weights_of_shapes_are_those_of_anny():
    model = open_model("anny")
    draw = torch.Generator().manual_seed(0)
    shape = torch.rand(16, 6, generator=draw).requires_grad_()
    theirs = model.source.model._get_phenotype_blendshape_coefficients(
        shape, shape.new_zeros(1, 0), shape.new_zeros(1, len(model.source.face_names))
    )
    ours = model._coefficients(shape)
    assert torch.equal(ours, theirs[:, : ours.shape[1]])
    towards = torch.rand(ours.shape, generator=draw)
    gradients = [
        torch.autograd.grad((weights[:, : ours.shape[1]] * towards).sum(), shape)[0]
        for weights in (theirs, ours)
    ]
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_lean_body_has_equal_landmarks():
    model = open_model("anny")
    lean, coarse = model.lean(64), model.coarse(64)
    draw = torch.Generator().manual_seed(1)
    pose = torch.randn(4, len(model.joint_names), 3, generator=draw) * 0.3
    shape, root = torch.rand(4, 6, generator=draw), torch.rand(4, 3, generator=draw)
    one, two = lean(pose, root, shape), coarse(pose, root, shape)
    assert torch.equal(lean.vertex_ids, coarse.vertex_ids)
    assert torch.allclose(lean.landmarks(*one), coarse.landmarks(*two), atol=1e-6)
    assert torch.allclose(lean.keypoints(*one), coarse.keypoints(*two), atol=1e-6)
    # Only fingers and toes are stiff.
    away = (one[0] - two[0]).norm(dim=-1)
    assert away.median() < 1e-4 and away.max() < 0.2
    assert one[1].shape == two[1].shape

"""Bodies of SMPL's family: as an independent implementation has them, differentiable, coarse."""

import numpy as np
import pytest
import torch
from body_standins import make_body, pose_by_loops, write_npz, write_old_pickle
from scipy.spatial.transform import Rotation

from data.bodies.base import mirrored, mirrored_rotation
from data.bodies.body_files import VARIABLE
from data.bodies.models import open_model
from data.bodies.skinning import Skinning, SkinningTables
from data.bodies.smpl_layout import FAMILY, MANO
from engine.geometry import axis_angle_to_matrix

NAMES = ("smpl", "smplh", "smplx", "mano")
VERTICES = {"smpl": 60, "smplh": 70, "smplx": 80, "mano": 778}
FILES = {
    "smpl": "smpl/SMPL_NEUTRAL.pkl",
    "smplh": "smplh/neutral/model.npz",
    "smplx": "smplx/SMPLX_NEUTRAL.npz",
    "mano": "mano/MANO_RIGHT.pkl",
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """{name: (body, arrays of its file)}."""
    folder, out = tmp_path_factory.mktemp("bodies"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        for name in NAMES:
            arrays = make_body(name, vertices=VERTICES[name])
            write = write_old_pickle if FILES[name].endswith("pkl") else write_npz
            write(folder / FILES[name], arrays)
            out[name] = open_model(name), arrays
    return out


def draw(body, count=2, seed=0):
    """(pose, translation, shape) of some bodies, any way up."""
    random = torch.Generator().manual_seed(seed)
    pose = 0.5 * torch.randn(count, len(body.joint_names), 3, generator=random)
    pose[:, 0] *= 3
    shape = torch.randn(count, min(12, len(body.shape_space.names)), generator=random)
    return pose, torch.randn(count, 3, generator=random), shape


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_where_an_independent_implementation_puts_it(family, name):
    body, arrays = family[name]
    pose, translation, shape = draw(body)
    expression = None
    if body.expression_names:
        expression = torch.randn(2, 5, generator=torch.Generator().manual_seed(3))
    vertices, joints = body(pose, translation, shape, expression)
    assert vertices.dtype == torch.float32 and body.faces.dtype == torch.int64
    for row in range(2):
        numbers = () if expression is None else expression[row].double().numpy()
        given = pose[row].double().numpy(), shape[row].double().numpy()
        found, found_joints = pose_by_loops(arrays, *given, np.zeros(3), numbers)
        # The family's own translation is added to a body whose joint 0 is not at 0.
        shift = translation[row].double().numpy() - found_joints[0]
        assert np.abs(vertices[row].numpy() - found - shift).max() < 1e-5
        assert np.abs(joints[row].numpy() - found_joints - shift).max() < 1e-5
    if expression is None:
        root = body.rest_root(shape)
        own = pose_by_loops(arrays, *given, np.zeros(3))[1][0]
        assert np.abs(root[1].numpy() - own).max() < 1e-6
    assert torch.equal(body.keypoints(vertices, joints)[:, 0], joints[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_matrices_one_shape_and_zero_numbers_are_the_same_body(family, name):
    body, _ = family[name]
    pose, translation, shape = draw(body)
    vertices, _ = body(pose, translation, shape[:1])
    matrices, _ = body(axis_angle_to_matrix(pose), translation, shape[:1].expand(2, -1))
    full = torch.cat([shape, shape.new_zeros(2, len(body.shape_space.names))], 1)
    padded, _ = body(pose, translation, full[:1, : len(body.shape_space.names)])
    assert (matrices - vertices).abs().max() < 1e-5 and (padded - vertices).abs().max() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(body(pose, translation, shape[:1])[0], vertices)


@pytest.mark.parametrize("name", NAMES)
def test_coarse_vertices_are_those_of_the_whole_mesh(family, name):
    body, _ = family[name]
    given = draw(body)
    vertices, joints = body(*given)
    coarse = body.coarse(30)
    few, same = coarse(*given)
    assert 30 <= len(coarse.vertex_ids) <= 35 and coarse.faces is None
    assert (few - vertices[:, coarse.vertex_ids]).abs().max() < 1e-6
    assert (same - joints).abs().max() < 1e-6
    assert torch.allclose(coarse.keypoints(few, same), body.keypoints(vertices, joints), atol=1e-6)
    again = coarse.coarse(8)
    assert torch.isin(again.vertex_ids, coarse.vertex_ids).all()
    assert body.name == coarse.name and not list(coarse.state_dict())


def test_gradients_are_those_of_finite_differences():
    """In float64, where differences are exact to eight digits: the module itself."""
    arrays = make_body("smpl", vertices=24)
    tensors = {name: torch.from_numpy(np.asarray(array, float)) for name, array in arrays.items()}
    regressor = tensors["J_regressor"]
    skinning = Skinning(
        SkinningTables(
            tensors["v_template"],
            tensors["shapedirs"],
            tensors["posedirs"],
            regressor @ tensors["v_template"],
            torch.tensordot(regressor, tensors["shapedirs"], 1),
            tensors["weights"],
        ),
        FAMILY["smpl"].parents,
    ).double()
    random = torch.Generator().manual_seed(0)
    pose = (0.4 * torch.randn(1, 24, 3, generator=random)).double().requires_grad_()
    shape = torch.randn(1, 10, generator=random).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, s: torch.cat(skinning(axis_angle_to_matrix(p), s), 1), (pose, shape)
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_at_rest_are_finite(family, name):
    body, _ = family[name]
    pose = torch.zeros(1, len(body.joint_names), 3, requires_grad=True)
    shape = torch.zeros(1, len(body.shape_space.names), requires_grad=True)
    sum(p.square().sum() for p in body(pose, torch.ones(1, 3), shape)).backward()
    assert pose.grad.isfinite().all() and shape.grad.isfinite().all()
    assert (pose.grad != 0).all() and (shape.grad != 0).all()


def test_fingers_by_components_and_by_the_mean(family):
    body, arrays = family["mano"]
    few = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    fingers = body.pose_fingers(few, "right")
    told = arrays["hands_mean"] + few.double().numpy() @ arrays["hands_components"][:6]
    assert np.abs(fingers.flatten(1).numpy() - told).max() < 1e-5
    assert np.allclose(body.finger_mean("right").flatten(), arrays["hands_mean"], atol=1e-6)
    whole, parts = family["smplx"]
    for side in ("left", "right"):
        mean = whole.finger_mean(side).flatten()
        assert np.allclose(mean, parts[f"hands_mean{side[0]}"], atol=1e-6)
    relaxed = whole.relax_fingers(axis_angle_to_matrix(torch.ones(1, 55, 3)))
    turned = Rotation.from_matrix(relaxed[0, 40].numpy()).as_rotvec()
    assert np.allclose(turned, parts["hands_meanr"][:3], atol=1e-5)
    assert torch.equal(relaxed[:, :25], axis_angle_to_matrix(torch.ones(1, 25, 3)))


def test_without_the_left_hands_file_it_is_the_right_one_in_a_mirror(family):
    """The hand that the mirrored tables make is the mirror image, whatever pose and shape."""
    from data.bodies.body_files import mirror_tables
    from data.bodies.smpl_model import SmplModel, make_skinning

    body, _ = family["mano"]
    tables = mirror_tables(body.tables, "left")
    left = SmplModel(
        tables, make_skinning(tables), body.vertex_ids, torch.tensor(tables.faces.copy())
    )
    pose, translation, shape = draw(body)
    matrices = axis_angle_to_matrix(pose)
    right, joints = body(matrices, translation, shape)
    image, image_joints = left(mirrored_rotation(matrices), mirrored(translation), shape)
    assert (mirrored(image) - right).abs().max() < 1e-5
    assert (mirrored(image_joints) - joints).abs().max() < 1e-5
    fingers = body.pose_fingers(torch.ones(1, 45), "right")
    assert torch.allclose(
        left.pose_fingers(torch.ones(1, 45), "left"), fingers * torch.tensor([1.0, -1, -1])
    )
    assert body.finger_means.keys() == {"left", "right"}


def test_the_left_hands_file_with_the_right_ones_shapes_is_put_right(tmp_path, monkeypatch):
    right, left = make_body("mano", vertices=778), make_body("mano", vertices=778, seed=1)
    left["shapedirs"] = right["shapedirs"] * np.array([1.0, -1, -1])[:, None]
    write_npz(tmp_path / "mano/MANO_RIGHT.npz", right)
    write_npz(tmp_path / "mano/MANO_LEFT.npz", left)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    body = open_model("mano", "left")
    shape = torch.ones(1, 10)
    still = torch.zeros(1, 16, 3)
    vertices, _ = body(still, body.rest_root(shape), shape)
    told = left["v_template"] + (right["shapedirs"] * [[-1.0], [-1], [-1]]).sum(2)
    assert np.abs(vertices[0].numpy() - told).max() < 1e-5
    assert body.variant == "left" and MANO.variants[0] == "right"


def test_mirror_pairs_swap_left_and_right(family):
    for name in ("smpl", "smplh", "smplx"):
        body, _ = family[name]
        for joint, other in enumerate(body.mirror.tolist()):
            sides = {"left": "right", "right": "left"}
            side, _, rest = body.joint_names[joint].partition("_")
            assert body.joint_names[other] == (
                f"{sides[side]}_{rest}" if side in sides else body.joint_names[joint]
            )
        pairs = body.keypoint_mirror
        assert torch.equal(pairs[pairs], torch.arange(len(pairs)))


def test_real_sizes_are_read_from_files_as_they_are_handed_out(samples, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(samples / "body_model_standins"))
    hand = open_model("mano")
    vertices, joints = hand(torch.zeros(1, 16, 3), torch.zeros(1, 3), torch.zeros(1, 10))
    assert vertices.shape == (1, 778, 3) and len(hand.keypoint_names) == 21
    body = open_model("smpl", "neutral")
    vertices, joints = body(torch.zeros(1, 24, 3), torch.zeros(1, 3), torch.zeros(1, 10))
    assert vertices.shape == (1, 6890, 3) and joints.shape == (1, 24, 3)
    assert joints[0, 15, 1] > 0.4 and joints[0, 7, 1] < -0.8  # it stands upright, y up

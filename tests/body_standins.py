"""Files of body models with the real fields and made content, and an independent way to pose them.

write_body(folder, "smplx", "neutral", vertices=90)      # the arrays that were written
"""

import numpy as np
import scipy.sparse
from old_pickles import fake, write_old

from data.bodies.smpl_layout import FAMILY

ROOT = 4294967295  # the parent of joint 0, as files have it
SHAPES = {"smpl": 10, "smplh": 16, "smplx": 400, "mano": 10}


def make_body(name, variant="neutral", vertices=90, seed=0, shapes=None):
    """{field: array} of a model's file, float64; joints lie where its regressor puts them."""
    spec, rng = FAMILY[name], np.random.default_rng(seed)
    joints = len(spec.parents)
    places = np.zeros((joints, 3))
    for joint, parent in enumerate(spec.parents[1:], 1):
        side = np.sign(spec.joint_names[joint].startswith("left_") - 0.5)
        places[joint] = places[parent] + rng.normal(0, 0.1, 3) + [0.05 * side, 0, 0]
    places += [0.01, -0.2, 0.03]  # joint 0 does not lie at the origin
    own = np.arange(vertices) % joints
    template = places[own] + rng.normal(0, 0.03, (vertices, 3))
    weights = rng.random((vertices, joints)) ** 8 + (own[:, None] == np.arange(joints))
    regressor = (own[None] == np.arange(joints)[:, None]) * rng.uniform(0.5, 1, vertices)
    regressor /= regressor.sum(1, keepdims=True)
    count = SHAPES[name] if shapes is None else shapes
    out = {
        "v_template": template,
        "f": rng.integers(0, vertices, (2 * vertices, 3)).astype(np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([(ROOT, *spec.parents[1:]), range(joints)], np.uint32),
        "J_regressor": regressor,
        "shapedirs": rng.normal(0, 0.005, (vertices, 3, count)),
        "posedirs": rng.normal(0, 0.002, (vertices, 3, 9 * (joints - 1))),
    }
    suffixes = {"mano": ("",), "smplx": ("l", "r"), "smplh": ("l", "r"), "smpl": ()}[name]
    for suffix in suffixes:
        out[f"hands_mean{suffix}"] = rng.normal(0, 0.1, 45)
        out[f"hands_components{suffix}"] = np.linalg.qr(rng.normal(size=(45, 45)))[0]
    if name == "smplx":
        out["lmk_faces_idx"] = rng.integers(0, len(out["f"]), 51)
        out["lmk_bary_coords"] = rng.dirichlet(np.ones(3), 51)
    return out


def write_npz(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def write_old_pickle(path, arrays):
    """A pickle of Python 2 with the classes that real ones have."""
    shapes = arrays["shapedirs"]
    select = {
        "a": fake("chumpy.ch", "Ch", {"x": shapes.ravel()}),
        "idxs": np.arange(shapes.size),
        "preferred_shape": shapes.shape,
    }
    changed = {
        "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        "shapedirs": fake("chumpy.reordering", "Select", select),
        "v_template": fake("chumpy.ch", "Ch", {"x": arrays["v_template"]}),
        "bs_type": "lrotmin",
    }
    write_old(path, {**arrays, **changed})
    return path


def rodrigues(vector):
    """(3, 3) rotation of a vector, by Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def pose_by_loops(arrays, pose, shape, transl, expression=(), first_expression=300):
    """((V, 3), (J, 3)) of one body by the equations of SMPL's paper, one vertex after the other.

    In float64, with 4 x 4 transforms; ``transl`` is the family's own, added to everything.
    """
    parents = [-1, *arrays["kintree_table"][0, 1:].astype(int)]
    template, joints = arrays["v_template"].copy(), len(parents)
    for number, value in enumerate(shape):
        template += value * arrays["shapedirs"][:, :, number]
    for number, value in enumerate(expression):
        template += value * arrays["shapedirs"][:, :, first_expression + number]
    resting = arrays["J_regressor"] @ template
    turns = [rodrigues(vector) for vector in pose]
    posed = template.copy()
    for joint in range(1, joints):
        for row in range(3):
            for column in range(3):
                number = 9 * (joint - 1) + 3 * row + column
                value = turns[joint][row, column] - (row == column)
                posed += value * arrays["posedirs"][:, :, number]
    world = []
    for joint, parent in enumerate(parents):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = resting[joint] - (resting[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    vertices = np.zeros_like(posed)
    for vertex in range(len(posed)):
        for joint in range(joints):
            back = np.eye(4)
            back[:3, 3] = -resting[joint]
            moved = world[joint] @ back @ np.append(posed[vertex], 1)
            vertices[vertex] += arrays["weights"][vertex, joint] * moved[:3]
    return vertices + transl, np.array([matrix[:3, 3] for matrix in world]) + transl

"""A hand of another make: anny's surface in other triangles, on MANO's joints."""

import numpy as np
import torch

from data.bodies.base import BodyModel, ShapeSpace, pair_sides
from data.bodies.sampling import spread_points
from data.bodies.skinning import Skinning, SkinningTables
from data.bodies.smpl_layout import MANO
from data.conversion.rig import measure_rig
from data.format.joint_sets import FINGERS
from engine.geometry import axis_angle_to_matrix


class SplitHand(BodyModel):
    """Anny's right hand, each triangle cut in three at its middle; 16 joints, one shape: size."""

    name, kind, variant, expression_names = "split", "hand", "", []

    def __init__(self, hand):
        super().__init__()
        self.joint_names, self.parents = list(MANO.joint_names), list(MANO.parents)
        self.keypoint_names = self.joint_names
        self.shape_space = ShapeSpace(("size",))
        still = torch.zeros(1, 21, 3), torch.zeros(1, 3), torch.full((1, 6), 0.5)
        vertices, joints = (points[0] for points in hand(*still))
        own = measure_rig(hand).own
        place = {"wrist": 0}
        for number, finger in enumerate(FINGERS, 1):
            for joint in (1, 2, 3):
                name = f"finger{number}-{joint}.R"
                place[f"{finger}_{joint}"] = hand.joint_names.index(name)
        rows = [place[name] for name in self.joint_names]
        weights = own[rows].T.clone()
        weights[:, 0] = 1 - weights[:, 1:].sum(1)
        count, middle = len(vertices), hand.faces
        weights = torch.cat([weights, weights[middle].mean(1)])
        template = torch.cat([vertices, vertices[middle].mean(1)])
        centre = torch.arange(count, count + len(middle))
        corners = [
            torch.stack([middle[:, a], middle[:, b], centre], 1)
            for a, b in ((0, 1), (1, 2), (2, 0))
        ]
        turned = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # SMPL's axes: y up
        template, bones = template @ turned.T, joints[rows] @ turned.T
        tables = SkinningTables(
            template,
            (template - bones[0])[..., None] * 0.1,
            torch.zeros(len(template), 3, 9 * 15),
            bones,
            (bones - bones[0])[..., None] * 0.1,
            weights,
        )
        self.skinning = Skinning(tables, self.parents)
        for name, values in (
            ("faces", torch.cat(corners)),
            ("vertex_ids", torch.arange(len(template))),
            ("mirror", pair_sides(self.joint_names, "left_", "right_")),
            ("keypoint_mirror", pair_sides(self.joint_names, "left_", "right_")),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(self, pose, translation, shape, expression=None):
        rotation = pose if pose.ndim == 4 else axis_angle_to_matrix(pose)
        vertices, joints = self.skinning(rotation, shape)
        shift = (translation - joints[:, 0])[:, None]
        return vertices + shift, joints + shift

    def keypoints(self, vertices, joints):
        return joints

    def coarse(self, count):
        return self

    def read_labels(self, labels, flip):
        raise AssertionError("no labels are of this hand")


MANO_VERTICES = 778


def write_mano(folder, hand, split):
    """MANO_RIGHT.npz with a coarse mesh of anny's hand; returns which vertices of it they are."""
    tables, count = split.skinning.tables, len(hand.vertex_ids)
    every = tables.template[:count]
    ids = spread_points(every, MANO_VERTICES)
    nearest = torch.cdist(every, every[ids]).argmin(1)
    faces = nearest[hand.faces]
    faces = faces[(faces != faces.roll(1, 1)).all(1)].unique(dim=0)
    points, bones = every[ids].numpy().astype(np.float64), tables.joint_template.numpy()
    regressor = np.zeros((len(bones), len(points)))
    for joint, bone in enumerate(bones):
        near = np.argsort(np.linalg.norm(points - bone, axis=1))[:40]
        affine = np.vstack([points[near].T, np.ones(len(near))])
        regressor[joint, near] = np.linalg.lstsq(affine, np.append(bone, 1), rcond=None)[0]
    folder.mkdir(parents=True, exist_ok=True)
    parents = [2**32 - 1, *split.parents[1:]]
    np.savez(
        folder / "MANO_RIGHT.npz",
        v_template=points,
        f=faces.numpy().astype(np.uint32),
        weights=tables.weights[ids].numpy(),
        kintree_table=np.array([parents, range(len(parents))], np.uint32),
        J_regressor=regressor,
        shapedirs=np.repeat(tables.shape_directions[ids].numpy(), 10, 2) * np.eye(10)[0],
        posedirs=np.zeros((len(points), 3, 135)),
        hands_mean=np.zeros(45),
        hands_components=np.eye(45),
    )
    return ids

"""Plausibility of meshes, on spheres and boxes whose overlap is known."""

import numpy as np
import pytest
import trimesh

from finetune.evaluation.scoring.plausibility import (
    ground_errors,
    ground_heights,
    largest_part,
    self_penetration,
    winding_numbers,
)


def two_spheres(gap):
    """Vertices and faces of two unit spheres with their centres ``gap`` apart."""
    ball = trimesh.creation.icosphere(subdivisions=2, radius=1.0)
    vertices = np.concatenate([ball.vertices, ball.vertices + (gap, 0, 0)])
    return vertices, np.concatenate([ball.faces, ball.faces + len(ball.vertices)])


def test_winding_numbers_tell_inside_from_outside():
    vertices, faces = two_spheres(1.0)
    points = np.array([[-0.5, 0, 0], [0.5, 0, 0], [1.5, 0.0, 0.0], [0, 3, 0]])
    assert winding_numbers(points, vertices, faces) == pytest.approx([1, 2, 1, 0], abs=1e-9)
    box = trimesh.creation.box((1, 1, 1))
    on = winding_numbers(box.vertices, box.vertices, box.faces)
    assert on == pytest.approx(np.full(8, 1 / 8))  # a corner of a box sees an eighth of it


@pytest.mark.parametrize("gap", [0.6, 1.2, 2.5])
def test_self_penetration_is_the_share_of_vertices_inside_the_other(gap):
    vertices, faces = two_spheres(gap)
    half = len(vertices) // 2
    # Well inside, or well outside, of the other sphere by its equation.
    distance = np.concatenate(
        [
            np.linalg.norm(vertices[:half] - (gap, 0, 0), axis=1),
            np.linalg.norm(vertices[half:], axis=1),
        ]
    )
    inside, unsure = distance < 0.97, (distance >= 0.97) & (distance <= 1)
    (share,) = self_penetration(vertices[None], faces, probes=len(vertices))
    assert inside.mean() <= share <= (inside | unsure).mean()
    assert (share > 0) == (gap < 2)


def test_the_largest_part_leaves_eyeballs_out():
    big, small = trimesh.creation.icosphere(3), trimesh.creation.icosphere(1, radius=0.1)
    faces = np.concatenate([small.faces, big.faces + len(small.vertices)])
    count = len(big.vertices) + len(small.vertices)
    rows = largest_part(faces, count)
    assert len(rows) == len(big.faces) and rows.min() == len(small.faces)
    vertices = np.concatenate([small.vertices, big.vertices])
    assert self_penetration(vertices[None], faces)[0] > 0
    assert self_penetration(vertices[None], faces[rows])[0] == 0


def test_feet_in_and_above_the_ground():
    random = np.random.default_rng(0)
    meshes = random.random((4, 30, 3))
    for mesh, lowest in zip(meshes, (-0.02, 0.0, 0.004, 0.1), strict=True):
        mesh[:, 1] += lowest - mesh[:, 1].min()
    heights = ground_heights(meshes, np.array([0, 1, 0]))
    assert heights == pytest.approx([-0.02, 0, 0.004, 0.1])
    penetration, floating, touching = ground_errors(heights, np.zeros(4))
    assert (penetration, floating, touching) == pytest.approx((0.005, 0.026, 0.5))

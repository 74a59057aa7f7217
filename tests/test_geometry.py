"""Geometry against SciPy, OpenCV and closed forms."""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from engine.geometry import (
    angle_about,
    axis_angle_to_matrix,
    camera_centre,
    crop_intrinsics,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    point_nearest_lines,
    project,
    rotation_6d_to_matrix,
    similarity_align,
    triangulate,
)


def _vectors(count=200):
    random = np.random.default_rng(0)
    axes = random.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.concatenate(
        [random.uniform(0, np.pi, count - 5), [0, 1e-9, 1e-4, np.pi - 1e-7, np.pi - 1e-3]]
    )
    return axes * angles[:, None]


def test_rotations_agree_with_scipy():
    vectors = _vectors()
    truth = Rotation.from_rotvec(vectors).as_matrix()
    np.testing.assert_allclose(axis_angle_to_matrix(torch.tensor(vectors)), truth, atol=1e-12)
    np.testing.assert_allclose(matrix_to_axis_angle(torch.tensor(truth)), vectors, atol=1e-7)


def test_half_turns_have_an_axis():
    for axis in np.eye(3):
        rotation = torch.tensor(Rotation.from_rotvec(np.pi * axis).as_matrix())
        back = axis_angle_to_matrix(matrix_to_axis_angle(rotation))
        np.testing.assert_allclose(back, rotation, atol=1e-12)


def test_rotation_has_a_gradient_at_zero():
    vector = torch.zeros(2, 3, requires_grad=True)
    axis_angle_to_matrix(vector)[..., 2, 1].sum().backward()
    np.testing.assert_allclose(vector.grad, [[1, 0, 0]] * 2, atol=1e-6)
    back = torch.eye(3).expand(2, 3, 3).clone().requires_grad_()
    matrix_to_axis_angle(back).sum().backward()
    assert torch.isfinite(back.grad).all()


def test_six_numbers_make_the_rotation_they_came_from():
    matrices = torch.tensor(Rotation.from_rotvec(_vectors()).as_matrix())
    six = matrix_to_rotation_6d(matrices)
    assert torch.equal(six[:, :3], matrices[:, :, 0])
    np.testing.assert_allclose(rotation_6d_to_matrix(six * 3), matrices, atol=1e-12)
    drawn = rotation_6d_to_matrix(
        torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    np.testing.assert_allclose(torch.linalg.det(drawn), 1, atol=1e-12)


def test_alignment_undoes_a_similarity():
    random = np.random.default_rng(1)
    source = random.normal(size=(6, 20, 3))
    rotation = Rotation.from_rotvec(_vectors(6)).as_matrix()
    target = 1.7 * np.einsum("bij,bnj->bni", rotation, source) + random.normal(size=(6, 1, 3))
    np.testing.assert_allclose(
        similarity_align(torch.tensor(source), torch.tensor(target)), target, atol=1e-10
    )
    noisy = target + 0.1 * random.normal(size=target.shape)
    mine = similarity_align(torch.tensor(source), torch.tensor(noisy), with_scale=False).numpy()
    for a, b, m in zip(source, noisy, mine, strict=True):
        best = Rotation.align_vectors(b - b.mean(0), a - a.mean(0))[0].apply(
            a - a.mean(0)
        ) + b.mean(0)
        np.testing.assert_allclose(m, best, atol=1e-9)


def test_alignment_never_mirrors_and_takes_degenerate_points():
    source = torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(0))
    mirrored = source * torch.tensor([-1.0, 1.0, 1.0])
    assert (similarity_align(source, mirrored) - mirrored).norm(dim=-1).mean() > 0.1
    line = torch.zeros(1, 10, 3)
    line[0, :, 0] = torch.arange(10.0)
    one = torch.ones(1, 10, 3)
    for a, b in ((one, source), (source, one), (line, line * 2 + 1), (one, one)):
        assert torch.isfinite(similarity_align(a, b)).all()
    np.testing.assert_allclose(similarity_align(line, line * 2 + 1), line * 2 + 1, atol=1e-5)
    np.testing.assert_allclose(similarity_align(one, source).mean(1), source.mean(1), atol=1e-6)


def _rig(count=4):
    """Cameras on a circle of 3 m that point at (0, 0, 1)."""
    K = np.array([[800.0, 0, 320], [0, 810.0, 240], [0, 0, 1]])
    Rts = []
    for angle in np.linspace(0, 2, count):
        centre = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.5])
        forward = np.array([0, 0, 1.0]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        Rts.append(np.concatenate([R, (-R @ centre)[:, None]], 1))
    return K, np.stack(Rts)


def test_projection_agrees_with_opencv():
    K, Rts = _rig()
    points = np.random.default_rng(0).normal([0, 0, 1], 0.3, (30, 3))
    for Rt in Rts:
        truth = cv2.projectPoints(points, cv2.Rodrigues(Rt[:, :3])[0], Rt[:, 3], K, None)[0][:, 0]
        pixels, depth = project(points, K, Rt)
        np.testing.assert_allclose(pixels, truth, atol=1e-8)
        np.testing.assert_allclose(depth, (points - camera_centre(Rt)) @ Rt[2, :3], atol=1e-12)


def test_triangulation_finds_the_points_and_needs_two_cameras():
    K, Rts = _rig()
    points = np.random.default_rng(0).normal([0, 0, 1], 0.3, (5, 3))
    pixels = np.stack([project(points, K, Rt)[0] for Rt in Rts])
    pixels[0, 1] = np.nan
    pixels[1:, 2] = np.nan
    found = triangulate(pixels, [K] * 4, Rts)
    np.testing.assert_allclose(found[[0, 1, 3, 4]], points[[0, 1, 3, 4]], atol=1e-8)
    assert np.isnan(found[2]).all()


def test_point_nearest_lines():
    _, Rts = _rig()
    found = point_nearest_lines([camera_centre(Rt) for Rt in Rts], [5 * Rt[2, :3] for Rt in Rts])
    np.testing.assert_allclose(found, [0, 0, 1], atol=1e-9)
    skew = point_nearest_lines([[0, 0, 0], [0, 0, 2]], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(skew, [0, 0, 1], atol=1e-12)
    with pytest.raises(ValueError, match="parallel"):
        point_nearest_lines([[0, 0, 0], [0, 1, 0]], [[1, 0, 0], [2, 0, 0]])


def test_crop_intrinsics_move_pixels_as_the_crop_does():
    K, Rts = _rig()
    point = np.array([0.1, -0.2, 1.1])
    x, y = project(point, K, Rts[0])[0]
    inside = project(point, crop_intrinsics(K, (100, 50, 400, 250), (150, 300)), Rts[0])[0]
    np.testing.assert_allclose(inside, [(x - 100) / 2, (y - 50) * 1.5], atol=1e-9)


def test_angle_about_is_right_at_its_ends():
    assert angle_about([0, 0, 0], [1, 0, 0], [0, 2, 0]) == pytest.approx(np.pi / 2)
    assert angle_about([0, 0, 0], [1, 0, 0], [1, 1e-9, 0]) == pytest.approx(1e-9)
    assert angle_about([1, 1, 0], [2, 1, 0], [-3, 1, 0]) == pytest.approx(np.pi)

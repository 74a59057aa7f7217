"""Meshes against outlines: the geometry on synthetic humans, whose truth is known, and the outlines
on a real take."""

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from engine.errors import UserError
from engine.geometry import crop_intrinsics, project
from studies import real, silhouettes

UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def made():
    """[(Take of one instant and its made cameras, world vertices (V, 3), world root (3,), faces)];
    masks are the drawn ones."""
    from data.bodies.anny_body import AnnyBody
    from data.people.config import Domain, PeopleConfig
    from data.people.maker import ClipMaker

    config = PeopleConfig(
        out="none",
        seed=3,
        size=128,
        cameras=3,
        antialias=1,
        domain=Domain(upright=True, part_share=0.0),
    )
    maker, body, out = ClipMaker(config), AnnyBody(), []
    for index in range(3):
        clip = maker.clip(index)
        labels, now = clip.labels, clip.crops[0].time_s
        pose, root, shape, face = (
            np.float32(labels[name]) for name in ("pose", "root", "phenotype", "face")
        )
        vertices = _posed(body, pose[:1], root[:1], shape, face)
        views, masks = [], []
        for i, crop in enumerate(clip.crops):
            if crop.time_s == now:
                K = crop_intrinsics(
                    np.array(crop.K), (0, 0, clip.size, clip.size), (silhouettes.SIZE,) * 2
                )
                views.append(
                    silhouettes.View(
                        crop.camera,
                        K,
                        np.array(crop.Rt),
                        None,
                        np.ones((silhouettes.SIZE,) * 2, bool),
                        None,
                    )
                )
                masks.append(clip.masks[i])
        sized = np.stack(
            [cv2.resize(m.astype(np.float32), (silhouettes.SIZE,) * 2) > 0.5 for m in masks]
        )[:, None]
        take = silhouettes.Take(
            [0], root[:1].astype(float), UP, views, sized, np.ones((len(views), 1), bool)
        )
        out.append((take, vertices, root[0].astype(float), body.faces.numpy()))
    return out


def _posed(body, pose, root, shape, face):
    import torch

    return (
        body(*(torch.from_numpy(a) for a in (pose, root, shape[None], face[None])))[0][0]
        .numpy()
        .astype(np.float64)
    )


def _seen_from(view, vertices, root, wrong=1.0):
    """What a network that is right, but for a factor of distance and size, says of one camera's
    image."""

    def local(points):
        return wrong * (points @ view.Rt[:, :3].T + view.Rt[:, 3])

    return SimpleNamespace(vertices=local(vertices), translation=local(root))


def test_the_truth_of_one_camera_fits_the_masks_of_the_others(made):
    """Clothes and hair are outside the body: it lies in the mask, and the ceiling is what it
    reaches drawn in each camera."""
    for take, vertices, root, faces in made:
        seen = real.silhouettes(vertices[None], faces, take.views)[:, 0]
        ceiling = real.iou(seen, take.masks[:, 0])
        assert len(take.views) == 3 and ceiling.min() > 0.6
        assert ((seen & take.masks[:, 0]).sum((1, 2)) / seen.sum((1, 2))).min() > 0.9
        for view in take.views:
            truth = _seen_from(view, vertices, root)
            for row, placed in real._placements((truth, truth), view, take, 0).items():
                found = real._overlaps(placed, faces, take, 0)
                np.testing.assert_allclose(found, ceiling, atol=0.01, err_msg=row)


def test_depth_from_the_track_mends_a_wrong_distance(made):
    take, vertices, root, faces = made[0]
    right = real._overlaps(vertices, faces, take, 0)
    for view in take.views:
        far = _seen_from(view, vertices, root, 1.3)
        placed = real._placements((far, far), view, take, 0)
        np.testing.assert_allclose(placed["scaled"], vertices, atol=1e-5)
        np.testing.assert_allclose(
            real._overlaps(placed["scaled"], faces, take, 0), right, atol=0.01
        )
        local = placed["moved"] @ view.Rt[:, :3].T + view.Rt[:, 3]
        # Moved is still 1.3 times as large, about a root that is where it should be.
        np.testing.assert_allclose(
            local.mean(0) - _seen_from(view, vertices, root).translation,
            1.3 * (vertices.mean(0) - root) @ view.Rt[:, :3].T,
            atol=1e-5,
        )
        own = take.views.index(view)
        assert real._overlaps(placed["placed"], faces, take, 0)[own] == pytest.approx(
            right[own], abs=0.01
        )
    # And from a camera's place taken for another's nothing fits: the test above can fail.
    wrong = dataclasses.replace(take.views[0], Rt=take.views[0].Rt + np.array([[0, 0, 0, 0.3]] * 3))
    truth = _seen_from(take.views[0], vertices, root)
    placed = real._placements((truth, truth), wrong, take, 0)["placed"]
    assert real._overlaps(placed, faces, take, 0).mean() < right.mean() - 0.2


def test_the_depth_factor_is_that_of_the_nearest_point_to_the_axis():
    rng = np.random.default_rng(0)
    Rt = np.concatenate([np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=(3, 1))], 1)
    root, point = rng.normal(size=3) + Rt[:, :3] @ (rng.normal(size=3)), rng.normal(size=3)
    factors = np.linspace(0.05, 20, 200001)
    world = real.to_world(factors[:, None] * root, Rt)
    away = np.linalg.norm((world - point)[:, :2], axis=1)
    assert real.depth_factor(Rt, root, point, UP) == pytest.approx(
        factors[np.argmin(away)], abs=2e-4
    )


def test_means_over_pairs_leave_out_what_is_unknown():
    values = np.full((2, 2, 3), 0.9)
    values[0, 1], values[1, 0] = (0.2, 0.4, np.nan), (0.4, np.nan, np.nan)
    np.testing.assert_allclose(real.others(values), (0.3, 0.4, np.nan))


def test_outlines_that_jump_are_not_used():
    masks = np.zeros((20, 40, 40), bool)
    masks[:, 5:25, 5:25] = True
    assert silhouettes.usable(masks).all()
    masks[7, 15:25] = False  # half of the person is lost
    masks[12, 5:30, 5:30] = True  # something is taken for a part of them
    masks[15, 12:15] = False  # in two pieces
    assert np.flatnonzero(~silhouettes.usable(masks)).tolist() == [7, 12, 15]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="videos= must be given"):
        real.main(["run", "out=x"])
    with pytest.raises(UserError, match="unknown key 'nonsense'"):
        real.main(["run", "nonsense=1"])
    with pytest.raises(UserError, match="box.*round.*outline.*square"):
        real.main(["run", "videos=a", "calibration=b", "track=c", "out=d", "box=round"])


@pytest.fixture(scope="module")
def treadmill(samples):
    folder = samples / "treadmill_4cam"
    return silhouettes.prepare(
        str(folder), str(folder / "Calib.qca.txt"), str(folder / "head.csv"), every=6
    )


def test_outlines_hold_the_man(treadmill):
    """Against the track, which was found by other means: his cap by its colour, in the distorted
    images."""
    assert treadmill.usable.mean() > 0.9
    for v, view in enumerate(treadmill.views):
        heads = project(treadmill.track - 0.05 * UP, view.K, view.Rt)[0].astype(int)
        held = [
            cv2.dilate(m.astype(np.uint8), np.ones((9, 9)))[y, x]
            for m, (x, y) in zip(treadmill.masks[v], heads, strict=True)
        ]
        assert np.mean(held) > 0.9, view.name
        sides = view.squares[:, 2] - view.squares[:, 0]
        share = treadmill.masks[v].sum((1, 2)) / sides**2
        assert share.min() > 0.06 and share.max() < 0.2, view.name
        for i in range(len(treadmill.frames)):
            y, x = np.nonzero(treadmill.masks[v, i])
            assert np.all(
                np.abs(
                    np.array([x.mean(), y.mean()]) - (view.squares[i, :2] + view.squares[i, 2:]) / 2
                )
                < 0.25 * sides[i]
            )


def test_outlines_of_four_cameras_agree(treadmill):
    """Each against the hull of the other three, which nothing but the calibration ties to it."""
    overlap, covered = real.agreement(treadmill, 6)
    assert covered.mean(1).min() > 0.85 and overlap.mean(1).min() > 0.4
    wrong = dataclasses.replace(treadmill, masks=np.roll(treadmill.masks, 40, -1))
    assert real.agreement(wrong, 99)[1].mean() < 0.5

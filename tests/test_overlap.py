"""Overlap by masks: against balls whose visible surface is known exactly, and synthetic humans."""

import json

import numpy as np
import pytest

from data.format.clip import decode_meta, encode
from data.sampling.pairs import PairRules, keeps
from data.sources.multicam.overlap import LEAST_CAMERAS, carve_hull, estimate_overlap
from engine.geometry import camera_centre
from tests.clips import make_clip

SIZE = 256


def _look(angle_deg, distance_m=4.0, height_m=0.0):
    """K and Rt of a crop that looks at the origin."""
    angle = np.deg2rad(angle_deg)
    centre = np.array([distance_m * np.cos(angle), distance_m * np.sin(angle), height_m])
    forward = -centre / np.linalg.norm(centre)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    focal = SIZE / 2.2 * distance_m
    K = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]])
    return K, np.concatenate([R, (-R @ centre)[:, None]], 1)


def _hits(origins, rays, balls):
    """(n, balls) distances along unit rays to balls, inf where they pass by."""
    out = np.full((len(rays), len(balls)), np.inf)
    for b, (centre, radius) in enumerate(balls):
        to = centre - origins
        along = (to * rays).sum(1)
        inside = radius**2 - ((to**2).sum(1) - along**2)
        hit = (inside > 0) & (along > 0)
        out[hit, b] = along[hit] - np.sqrt(inside[hit])
    return out


def _mask(K, Rt, balls):
    """(64, 64) by a ray through each cell's middle."""
    line = (np.arange(64) + 0.5) * SIZE / 64
    x, y = np.meshgrid(line, line)
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(K).T @ Rt[:, :3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    origins = np.broadcast_to(camera_centre(Rt), rays.shape)
    return np.isfinite(_hits(origins, rays, balls)).any(1).reshape(64, 64)


def _true_overlap(Rts, balls):
    """By points spread evenly over the balls, and rays from them to the cameras."""
    k = np.arange(4000) + 0.5
    polar, turn = np.arccos(1 - 2 * k / 4000), np.pi * (1 + 5**0.5) * k
    unit = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1)
    points = np.concatenate([c + r * unit for c, r in balls])
    area = np.concatenate([np.full(4000, r**2) for _, r in balls])
    seen = []
    for Rt in Rts:
        rays = camera_centre(Rt) - points
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        # A little off the surface; a point that faces away hits its own ball.
        seen.append(~np.isfinite(_hits(points + 1e-4 * rays, rays, balls)).any(1))
    seen = np.array(seen, float)
    return (seen * area) @ seen.T / (seen * area).sum(1)[:, None]


BALL = [(np.zeros(3), 0.7)]
# Head above trunk, and an arm beside it that hides and is hidden.
FIGURE = [
    (np.array([0, 0, 0.7]), 0.18),
    *((np.array([0, 0, z]), 0.3) for z in (0.3, 0.1, -0.1, -0.3)),
    *((np.array([0.55, 0, z]), 0.12) for z in (0.3, 0.15, 0.0, -0.15)),
]


@pytest.mark.parametrize(
    ("balls", "angles", "error"),
    [
        (BALL, (0, 45, 90, 135, 200, 280), 0.05),
        (FIGURE, (0, 40, 90, 140, 210, 280), 0.08),
        (FIGURE, (10, 70, 150, 240), 0.12),
    ],
)
def test_shares_are_those_of_the_true_surface(balls, angles, error):
    Ks, Rts = zip(*(_look(angle) for angle in angles), strict=True)
    masks = np.stack([_mask(K, Rt, balls) for K, Rt in zip(Ks, Rts, strict=True)])
    found = estimate_overlap(masks, Ks, Rts, [0.0] * len(angles), SIZE)
    true = _true_overlap(Rts, balls)
    off = ~np.eye(len(angles), dtype=bool)
    assert np.abs(found - true)[off].mean() < error
    assert np.corrcoef(found[off], true[off])[0, 1] > 0.95
    assert (np.diag(found) == 1).all()


def test_facing_crops_share_little_and_near_ones_much():
    angles = (0, 20, 90, 180)
    Ks, Rts = zip(*(_look(angle) for angle in angles), strict=True)
    masks = np.stack([_mask(K, Rt, BALL) for K, Rt in zip(Ks, Rts, strict=True)])
    found = estimate_overlap(masks, Ks, Rts, [0.0] * 4, SIZE)
    assert found[0, 3] < 0.1 < 0.7 < found[0, 1]


def test_what_is_not_known_is_said():
    angles = (0, 60, 120, 180, 240)
    Ks, Rts = zip(*(_look(angle) for angle in angles), strict=True)
    masks = np.stack([_mask(K, Rt, BALL) for K, Rt in zip(Ks, Rts, strict=True)])
    few = [0.0] * (LEAST_CAMERAS - 1) + [1.0] * (len(angles) - LEAST_CAMERAS + 1)
    assert estimate_overlap(masks, Ks, Rts, few, SIZE) is None
    found = estimate_overlap(masks, Ks, Rts, [0.0] * 4 + [1.0], SIZE)
    assert np.isfinite(found[:4, :4]).all() and found[4, 4] == 1
    assert np.isnan(found[:4, 4]).all() and np.isnan(found[4, :4]).all()
    masks[2] = False
    assert estimate_overlap(masks[:4], Ks[:4], Rts[:4], [0.0] * 4, SIZE) is None


def test_beyond_a_border_that_the_mask_touches_nothing_is_said():
    K, Rt = _look(0)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 20:, 20:40] = True  # cut off below
    points = np.array([[0, 0, 0], [0, 0, -2.0], [0, 0, 2.0], [0, 2.0, 0]])
    assert carve_hull(points, mask, [K], [Rt], SIZE).tolist() == [True, True, False, False]


def test_a_clip_keeps_what_is_not_known():
    clip = make_clip(0)
    clip.overlap[0, 1] = np.nan
    members = encode(clip)
    assert json.loads(members["json"])["overlap"][0][1] is None
    back = decode_meta(members["json"], "x")
    np.testing.assert_allclose(back.overlap, clip.overlap, atol=5e-5)
    assert keeps(back, "cross_view", PairRules("any", overlap_min=0.99), 0, 1)
    assert not keeps(back, "cross_view", PairRules("any", overlap_min=0.99), 1, 0)


@pytest.mark.long
def test_shares_agree_with_synthetic_humans():
    from data.people.config import Domain, PeopleConfig
    from data.people.maker import ClipMaker

    domain = Domain(boxes=0, any_side_share=1.0, far_view_deg=180.0, part_share=0.0)
    config = PeopleConfig(
        out="none", seed=3, size=128, cameras=5, instants=1, antialias=1, domain=domain
    )
    maker = ClipMaker(config)
    found, true = [], []
    for clip in (maker.clip(n) for n in range(3)):
        Ks, Rts = [np.array(c.K) for c in clip.crops], [np.array(c.Rt) for c in clip.crops]
        shares = estimate_overlap(clip.masks, Ks, Rts, [c.time_s for c in clip.crops], 128)
        off = ~np.eye(5, dtype=bool)
        found.append(shares[off])
        true.append(clip.overlap[off])
    found, true = np.concatenate(found), np.concatenate(true)
    assert np.abs(found - true).mean() < 0.08
    assert np.corrcoef(found, true)[0, 1] > 0.95

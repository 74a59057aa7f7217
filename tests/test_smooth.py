"""The one-euro filter: against the paper's in numbers, rotations by their group, gaps, rates."""

import math

import numpy as np
import torch
from moving import make_track

from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from finetune.temporal.one_euro import Cutoff, filter_points, filter_rotations
from finetune.temporal.smooth import smooth_track

CUTOFF = Cutoff(1.0, 0.5)
UNEVEN = np.array([0, 0.04, 0.08, 0.1, 0.2, 0.22, 0.3])


def follow_by_paper(values, times, least_hz, rise):
    """Casiez et al.'s algorithm 1 and 2 for one number, as they write them."""

    def alpha(gap, cutoff):
        return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff) / gap)

    speed, state, out = 0.0, values[0], [values[0]]
    for row in range(1, len(values)):
        gap = times[row] - times[row - 1]
        share = alpha(gap, 1.0)
        speed = share * (values[row] - values[row - 1]) / gap + (1 - share) * speed
        share = alpha(gap, least_hz + rise * abs(speed))
        state = share * values[row] + (1 - share) * state
        out.append(state)
    return np.array(out)


def filter_by_paper(values, times):
    """Both directions averaged."""
    forward = follow_by_paper(values, times, CUTOFF.least_hz, CUTOFF.rise)
    backward = follow_by_paper(values[::-1], -times[::-1], CUTOFF.least_hz, CUTOFF.rise)[::-1]
    return (forward + backward) / 2


def test_points_are_filtered_as_the_paper_does():
    values = np.random.default_rng(0).normal(0, 2, (7, 3))
    found = filter_points(torch.tensor(values)[..., None], torch.tensor(UNEVEN), CUTOFF)
    wanted = np.stack([filter_by_paper(one, UNEVEN) for one in values.T], 1)
    assert np.allclose(found[..., 0].numpy(), wanted, atol=1e-12)


def test_turns_about_one_axis_are_angles_even_beyond_half_a_turn():
    angles = np.deg2rad([150, 165, 178, 186, 200, 215, 230]) + np.random.default_rng(1).normal(
        0, 0.05, 7
    )
    axis = np.array([2.0, -1, 2]) / 3
    turns = axis_angle_to_matrix(torch.tensor(angles[:, None] * axis))[:, None]
    found = filter_rotations(turns, torch.tensor(UNEVEN), CUTOFF)[:, 0]
    wanted = axis_angle_to_matrix(torch.tensor(filter_by_paper(angles, UNEVEN)[:, None] * axis))
    assert torch.allclose(found, wanted, atol=1e-9)


def test_a_steady_motion_does_not_lag_and_noise_goes_at_any_rate():
    random = np.random.default_rng(2)
    for fps in (24, 60):
        times = torch.arange(2 * fps).double() / fps
        vectors = torch.stack([0.8 * times, 0.2 * times, 0 * times], -1)[:, None]
        noise = torch.tensor(random.normal(0, 0.03, vectors.shape))
        noisy = axis_angle_to_matrix(vectors) @ axis_angle_to_matrix(noise)
        found = filter_rotations(noisy, times, CUTOFF)
        middle = slice(fps // 2, -fps // 2)  # ends have one direction that is sure
        apart = matrix_to_axis_angle(axis_angle_to_matrix(vectors).mT @ found)[middle]
        assert apart.norm(dim=-1).mean() < 0.6 * noise.norm(dim=-1).mean()
        assert apart.mean(0).norm() < 0.01


def test_stretches_are_filtered_by_themselves(bodies):
    track = make_track(bodies["anny_hand"], "right_hand", frames=(2, 3, 4, 7, 8, 12))
    smooth = smooth_track(track, CUTOFF)
    assert np.array_equal(smooth.frames, track.frames) and smooth.pose.dtype == np.float32
    assert np.allclose(smooth.pose[5], track.pose[5], atol=1e-6)  # of one frame nothing is known
    other = make_track(bodies["anny_hand"], "right_hand", frames=(2, 3, 4, 7, 8, 12))
    other.pose[3:5], other.translation[3:5] = other.pose[:2], other.translation[:2] + 1
    moved = smooth_track(other, CUTOFF)
    assert np.array_equal(moved.pose[:3], smooth.pose[:3])
    assert np.array_equal(moved.translation[:3], smooth.translation[:3])
    assert not np.allclose(moved.pose[3:5], smooth.pose[3:5])


def test_a_depth_that_jumps_moves_nobody_in_the_image(bodies):
    track = make_track(bodies["anny_hand"], "right_hand", frames=tuple(range(9)))
    ray = np.array([0.2, -0.1, 1.0])
    depth = 2 + 0.1 * (-1.0) ** np.arange(9)
    track.translation = (depth[:, None] * ray).astype(np.float32)
    place = smooth_track(track, CUTOFF).translation
    assert np.allclose(place / place[:, 2:], ray, atol=1e-6)
    assert np.ptp(place[2:-2, 2]) < 0.2 * np.ptp(depth)

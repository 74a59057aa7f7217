"""The one-euro filter of rotations and points, at the frames' own times.

Source: Casiez, Roussel and Vogel, "1 Euro Filter", CHI 2012: a low-pass filter of first order whose
cutoff rises with the speed, so that what rests is still and what is fast lags little. Here it runs
forward and backward through a recorded stretch, and the answer is half-way between the two: the lag
of the one is the lead of the other. Rotations move on their own group: a step goes along the
shortest turn from where the filter stands to what the frame says, so that no sign or wrap of a
parameter shows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle

SPEED_HZ = 1.0  # cutoff of the filter of the speed, the paper's own
LEAST_GAP_S = 1e-3  # files may show two frames at one time


@dataclass(frozen=True)
class Cutoff:
    """How low the filter passes.

    Attributes:
        least_hz: of what stands still.
        rise: hertz that it rises by for each unit of speed: rad/s or m/s.
    """

    least_hz: float
    rise: float


def filter_rotations(turns: torch.Tensor, times: torch.Tensor, cutoff: Cutoff) -> torch.Tensor:
    """Return the filtered rotations of a stretch without gaps.

    Args:
        turns: (T, J, 3, 3).  times: (T,) seconds, increasing.
    Returns:
        (T, J, 3, 3), in the dtype of ``turns``.
    """
    return _run_both_ways(turns, times, cutoff, _turn_between, _turn_by)


def filter_points(points: torch.Tensor, times: torch.Tensor, cutoff: Cutoff) -> torch.Tensor:
    """Return the filtered points (T, N, D) of a stretch without gaps, whose times are (T,) s.

    Each of the N has one speed, the length of its D numbers' change.
    """
    return _run_both_ways(points, times, cutoff, _step_between, torch.add)


def _turn_between(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Rotation vectors (..., 3) that take one rotation to another, in the first one's axes."""
    return matrix_to_axis_angle(start.transpose(-1, -2) @ end)


def _turn_by(start: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return start @ axis_angle_to_matrix(step)


def _step_between(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    return end - start


Move = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _run_both_ways(
    values: torch.Tensor, times: torch.Tensor, cutoff: Cutoff, between: Move, move: Move
) -> torch.Tensor:
    """Half-way between the filter's two answers; the backward one is a second item of a batch."""
    exact = values.double()
    pair = torch.stack([exact, exact.flip(0)], 1)
    gaps = times.double().diff().clamp_min(LEAST_GAP_S)
    both = _follow(pair, torch.stack([gaps, gaps.flip(0)], 1), cutoff, between, move)
    forward, backward = both[:, 0], both[:, 1].flip(0)
    return move(forward, between(forward, backward) / 2).to(values.dtype)


def _follow(
    values: torch.Tensor, gaps: torch.Tensor, cutoff: Cutoff, between: Move, move: Move
) -> torch.Tensor:
    """The one-euro filter from the first row on.

    Args:
        values: (T, 2, N, ...).  gaps: (T - 1, 2) seconds.
    """
    gaps = gaps[:, :, None, None]
    velocity = between(values[:-1], values[1:]) / gaps
    smooth = torch.zeros(())
    state, out = values[0], [values[0]]
    for row, gap in enumerate(gaps, 1):
        smooth = smooth + _share(torch.full_like(gap, SPEED_HZ), gap) * (velocity[row - 1] - smooth)
        hertz = cutoff.least_hz + cutoff.rise * smooth.norm(dim=-1, keepdim=True)
        state = move(state, _share(hertz, gap) * between(state, values[row]))
        out.append(state)
    return torch.stack(out)


def _share(hertz: torch.Tensor, gap_s: torch.Tensor) -> torch.Tensor:
    """How much of a new value a low-pass filter of first order takes, after so many seconds."""
    turn = 2 * torch.pi * hertz * gap_s
    return turn / (turn + 1)

"""Hands that stay while a finder loses them for a moment.

A hand is joined to its body where the search sees it (finetune.inference.fingers). Between such
frames the body has the fingers that its own network guesses from a few pixels, and they would come
and go. Here the joined hand stays: from the last frame to the next one if that is near, and
otherwise for a moment, until it has become the body's own.
"""

from dataclasses import replace

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from finetune.animation.track import Take, Track
from finetune.inference.fingers import SIDES, map_hand

HELD_S = 0.5  # longest loss between two frames with a hand through which it stays as it was
FADE_S = 0.25  # as long it turns into the body's own, or back, where the loss is longer


def hold_hands(take: Take, hand: BodyModel) -> Take:
    """Return the take with hands that stay through short losses.

    Args:
        hand: the body model of hands.
    """
    tracks = [
        _hold(track, hand) if track.body.kind == "body" and track.hands.any() else track
        for track in take.tracks
    ]
    return replace(take, tracks=tracks)


def _hold(track: Track, hand: BodyModel) -> Track:
    pose, held = track.pose.copy(), np.zeros_like(track.hands)
    for column, side in enumerate(SIDES):
        there = map_hand(track.body, hand, side)
        if there is None:
            continue
        joints = [there.wrist, *(of_body for _, of_body in there.fingers)]
        if there.forearm is not None:
            joints.append(there.forearm)  # it twists as the hand's crop says
        for rows in track.list_stretches():
            own = torch.from_numpy(track.pose[rows][:, joints])
            kept, shares = _fill(own, track.hands[rows, column], track.times[rows])
            pose[rows, joints] = kept.numpy()
            held[rows, column] = shares
    return replace(track, pose=pose, held=held)


def _fill(
    own: torch.Tensor, joined: np.ndarray, times: np.ndarray
) -> tuple[torch.Tensor, np.ndarray]:
    """(T, J, 3, 3) rotations of a stretch with what is held, and (T,) bool where that is.

    Args:
        own: (T, J, 3, 3) as they are.  joined: (T,) bool, where they are a hand's.
    """
    out, held = own.clone(), np.zeros(len(joined), bool)
    seen = np.flatnonzero(joined)
    for row in np.flatnonzero(~joined):
        before, after = seen[seen < row][-1:], seen[seen > row][:1]
        ends = [int(end) for end in (*before, *after)]
        if len(ends) == 2 and times[ends[1]] - times[ends[0]] <= HELD_S:
            share = (times[row] - times[ends[0]]) / (times[ends[1]] - times[ends[0]])
            out[row] = blend_turns(own[ends[0]], own[ends[1]], float(share))
            held[row] = True
            continue
        for end in ends:
            share = 1 - abs(float(times[row] - times[end])) / FADE_S
            if share > 0:
                out[row] = blend_turns(out[row], own[end], share)
                held[row] = True
    return out, held


def blend_turns(
    one: torch.Tensor, other: torch.Tensor, share: torch.Tensor | float
) -> torch.Tensor:
    """Return rotations (..., 3, 3) on the shortest way from one to another.

    Args:
        share: of the way, a number or (..., 1).
    """
    step = matrix_to_axis_angle(one.transpose(-1, -2) @ other)
    return one @ axis_angle_to_matrix(step * share)

"""Tracks mended by a motion module: smoothed, short gaps filled, later frames foretold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.errors import UserError
from engine.geometry import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    rotation_6d_to_matrix,
)
from finetune.animation.track import ROWS, Take, Track
from finetune.temporal.module_file import MotionModule
from finetune.temporal.network import Stretches
from finetune.temporal.one_euro import Cutoff
from finetune.temporal.smooth import smooth_track

AT_ONCE = 16  # windows that go through the network together
EDGE = 0.02  # weight of a window's first and last frame over that of its middle


@dataclass(eq=False)
class Mended:
    """What a module says of N frames.

    Attributes:
        turns: (N, J, 3, 3) of its joints, place: (N, 3) metres, error: (N,) radians that it
            expects its rotations to be off by, on average.
    """

    turns: np.ndarray
    place: np.ndarray
    error: np.ndarray


def mend_take(take: Take, modules: dict[str, MotionModule], turns: Cutoff, fill_s: float) -> Take:
    """Return a take whose tracks are mended; those of whom no module knows are filtered.

    Args:
        modules: {"body": the module of bodies' motions}.
        turns: of the filter, for joints and tracks that no module knows.
        fill_s: see ``mend_track``.
    """
    tracks = []
    for track in take.tracks:
        module = modules.get(track.kind)
        if module is None:
            tracks.append(smooth_track(track, turns))
        else:
            tracks.append(mend_track(track, take.times, module, turns, fill_s))
    return replace(take, tracks=tracks)


def mend_track(
    track: Track, times: np.ndarray, module: MotionModule, turns: Cutoff, fill_s: float
) -> Track:
    """Return a track as the module says it was, with rows for the frames of short gaps.

    Joints that the module does not move are filtered, and lie between their neighbours in gaps.

    Args:
        times: (F,) seconds of the video's frames.
        turns: of the filter.
        fill_s: longest time between two sightings that is filled; a longer gap stays one.
    Raises:
        UserError: the module is of another body model.
    """
    check_module(module, track.body, f"track {track.name}")
    still = smooth_track(track, turns)
    parts = [
        _mend_part(_take_rows(still, rows), _take_rows(track, rows), times, module)
        for rows in _split_rows(track, times, fill_s)
    ]
    return replace(_join_tracks(parts), smoothing=f"learned, {module.name}")


def foretell_track(
    track: Track, frames: np.ndarray, times: np.ndarray, module: MotionModule
) -> Track:
    """Return a track of the frames that come after a track's last one, as the module expects them.

    Args:
        frames: (n,) numbers, increasing, after the track's last.  times: (n,) their seconds.
    Raises:
        UserError: the module is of another body model; the frames are not after the last one.
    """
    check_module(module, track.body, f"track {track.name}")
    if not len(track) or not len(frames) or frames[0] <= track.frames[-1]:
        raise UserError(
            f"track {track.name} ends at frame {track.frames[-1:].tolist()}: foretold frames "
            f"{np.asarray(frames)[:1].tolist()} are to come after it"
        )
    room = module.network.config.frames - len(frames)
    if room < 1:
        raise UserError(
            f"{len(frames)} frames are to be foretold, and the module sees "
            f"{module.network.config.frames} at once, those before them included"
        )
    known = _take_rows(track, np.arange(max(0, len(track) - room), len(track)))
    wide = _widen(known, np.concatenate([known.frames, frames]), np.append(known.times, times))
    seen = np.arange(len(wide)) < len(known)
    out = _put(wide, run_windows(wide, seen, module), module)
    return replace(_take_rows(out, np.flatnonzero(~seen)), smoothing=f"learned, {module.name}")


def check_module(module: MotionModule, body: BodyModel, where: str) -> None:
    """Raise UserError where a module does not know the rotations of a body model.

    Args:
        where: the track or key that wants it, for the message.
    """
    if body.name != module.limbs.body:
        raise UserError(
            f"{where}: the motion module {module.name} knows rotations of "
            f"body={module.limbs.body}, not of body={body.name}; video.smooth=one_euro smooths any"
        )


def _split_rows(track: Track, times: np.ndarray, fill_s: float) -> Iterator[np.ndarray]:
    """Rows between gaps that stay."""
    apart = np.diff(track.frames) > 1
    long = np.diff(times[track.frames]) > fill_s + 1e-9
    yield from np.split(np.arange(len(track)), np.flatnonzero(apart & long) + 1)


def _take_rows(track: Track, rows: np.ndarray) -> Track:
    """Some rows of a track."""
    return _put_rows(track, {name: getattr(track, name)[rows] for name in _list_arrays(track)})


def _join_tracks(parts: Sequence[Track]) -> Track:
    """Tracks of one person, one after the other, as one."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _list_arrays(parts[0])
    }
    return _put_rows(parts[0], arrays)


def _list_arrays(track: Track) -> list[str]:
    """What of a track has a row a frame."""
    return [name for name in ROWS if getattr(track, name) is not None]


def _put_rows(track: Track, arrays: Mapping[str, Any]) -> Track:
    return replace(track, **arrays)


def _mend_part(still: Track, raw: Track, times: np.ndarray, module: MotionModule) -> Track:
    """One stretch, without gaps in what is returned.

    Args:
        still: filtered, for the joints that the module does not move.  raw: as it was seen.
    """
    if len(raw) < 2:  # of one frame nothing is known
        return replace(still, error_rad=np.zeros(len(still), np.float32))
    frames = np.arange(raw.frames[0], raw.frames[-1] + 1)
    seen = np.isin(frames, raw.frames)
    mended = run_windows(_widen(raw, frames, times[frames]), seen, module)
    return _put(_widen(still, frames, times[frames]), mended, module)


def _widen(track: Track, frames: np.ndarray, times: np.ndarray) -> Track:
    """A track with rows for all of ``frames``; what is new lies between its neighbours.

    After the last row it stays as it is there.
    """
    place = np.searchsorted(track.frames, frames, side="right") - 1
    before = np.clip(place, 0, max(0, len(track) - 2))
    after = np.minimum(before + 1, len(track) - 1)
    gap = np.maximum(track.times[after] - track.times[before], 1e-9)
    share = np.clip((times - track.times[before]) / gap, 0, 1).astype(np.float32)
    filled = ~np.isin(frames, track.frames)

    def mix(values: np.ndarray) -> np.ndarray:
        part = share.reshape(-1, *[1] * (values.ndim - 1))
        return (values[before] * (1 - part) + values[after] * part).astype(values.dtype)

    start, end = (torch.from_numpy(track.pose[rows]) for rows in (before, after))
    vectors = matrix_to_axis_angle(start.mT @ end) * torch.from_numpy(share)[:, None, None]
    pose = (start @ axis_angle_to_matrix(vectors)).numpy()
    exact = np.clip(place, 0, len(track) - 1)
    pose[~filled] = track.pose[exact[~filled]]
    # In a gap nobody is surer than at its ends.
    unsure = [
        None if values is None else np.maximum(values[before], values[after])
        for values in (track.uncertainty, track.surface)
    ]
    return replace(
        track,
        frames=frames.astype(np.int64),
        times=times,
        pose=pose,
        translation=mix(track.translation),
        confidence=np.where(filled, 0, track.confidence[exact]).astype(np.float32),
        box=mix(track.box),
        hands=track.hands[exact] & ~filled[:, None],
        held=track.held[exact] & ~filled[:, None],
        refined=track.refined[exact] & ~filled,
        found=_forget(track.found, exact, filled),
        error_px=None if track.error_px is None else _blank(track.error_px[exact], filled),
        uncertainty=unsure[0],
        surface=unsure[1],
        filled=filled,
    )


def _forget(found: np.ndarray | None, rows: np.ndarray, filled: np.ndarray) -> np.ndarray | None:
    """The keypoints of rows, of confidence 0 where nobody was seen."""
    if found is None:
        return None
    out = found[rows].copy()
    out[filled, :, 2] = 0
    return out


def _blank(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values (T,) with NaN in some rows."""
    return np.where(rows, np.nan, values).astype(values.dtype)


def _put(track: Track, mended: Mended, module: MotionModule) -> Track:
    """A track with what a module says of its joints."""
    pose = track.pose.copy()
    pose[:, module.limbs.index_of(track.body)] = mended.turns
    return replace(track, pose=pose, translation=mended.place, error_rad=mended.error)


@torch.no_grad()
def run_windows(track: Track, seen: np.ndarray, module: MotionModule) -> Mended:
    """Return what a module says of all rows of a track, in windows that fade into each other.

    Args:
        seen: (N,) bool; what the other rows hold is not looked at.
    """
    count, length = len(track), module.network.config.frames
    starts = list(range(0, max(1, count - length), max(1, length // 2)))
    if count > length:
        starts.append(count - length)
    windows = [slice(start, min(count, start + length)) for start in starts]
    # Windows in which nobody is seen tell nothing: fill_s= is shorter than half of one.
    windows = [rows for rows in windows if seen[rows].any()]
    joints = len(module.limbs.names)
    six, place = np.zeros((count, joints, 6)), np.zeros((count, 3))
    error, total = np.zeros(count), np.zeros(count)
    for first in range(0, len(windows), AT_ONCE):
        part = windows[first : first + AT_ONCE]
        answer = module.network(_pack(track, seen, module, part))
        turns = matrix_to_rotation_6d(answer.turns).double().numpy()
        doubts = answer.log_error.exp().mean(-1).double().numpy()
        places = answer.place.double().numpy()
        for number, rows in enumerate(part):
            span = rows.stop - rows.start
            weight = _fade(span, rows.start == 0, rows.stop == count)
            six[rows] += weight[:, None, None] * turns[number, :span]
            place[rows] += weight[:, None] * places[number, :span]
            error[rows] += weight * doubts[number, :span]
            total[rows] += weight
    mixed = rotation_6d_to_matrix(torch.from_numpy(six / total[:, None, None]))
    return Mended(
        mixed.float().numpy(),
        (place / total[:, None]).astype(np.float32),
        (error / total).astype(np.float32),
    )


def _fade(count: int, is_first: bool, is_last: bool) -> np.ndarray:
    """(T,) weights of a window's frames: most in its middle, but where nothing is beside it."""
    at = (np.arange(count) + 0.5) / count
    rise = np.ones(count) if is_first else np.minimum(1, 2 * at)
    fall = np.ones(count) if is_last else np.minimum(1, 2 * (1 - at))
    return np.maximum(np.minimum(rise, fall), EDGE)


def _pack(
    track: Track, seen: np.ndarray, module: MotionModule, windows: Sequence[slice]
) -> Stretches:
    """Windows of a track for the network, padded to the longest."""
    longest = max(rows.stop - rows.start for rows in windows)
    chosen = module.limbs.index_of(track.body)
    rows = np.stack([np.minimum(np.arange(longest) + w.start, w.stop - 1) for w in windows])
    valid = np.stack([np.arange(longest) < w.stop - w.start for w in windows])
    times = track.times[rows]
    times = times - times.mean(1, keepdims=True)
    return Stretches(
        torch.from_numpy(track.pose[:, chosen][rows]).float(),
        torch.from_numpy(track.translation[rows]).float(),
        torch.from_numpy(times).float(),
        torch.from_numpy(seen[rows] & valid),
        torch.from_numpy(valid),
        torch.from_numpy(track.confidence[rows]).float(),
    )

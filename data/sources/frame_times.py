"""When each frame of a video is shown, from what its decoder says of it."""

import numpy as np

NO_PTS = np.iinfo(np.int64).min  # libav's own mark of a frame without a time
_REORDERED = 16  # frames: codecs do not reorder further


def clean_times(
    pts: np.ndarray, seconds_a_tick: float, rate: float
) -> tuple[np.ndarray, list[str]]:
    """(seconds since the first frame, strictly increasing; what had to be guessed, in words).

    Args:
        pts: (n,) int64 presentation times in ticks, in the order of display, NO_PTS where none.
        seconds_a_tick: of the container.  rate: frames a second, for a video without any times.
    """
    count = len(pts)
    known = pts != NO_PTS
    if known.sum() < 2:
        words = [f"it tells no times; taken at {rate:g} frames a second"] if count > 1 else []
        return np.arange(count) / rate, words
    ticks = pts.astype(np.float64)
    ticks[~known] = np.nan
    said = []
    if known.all() and _only_reordered(pts):
        # AVI has no times of display: they are those of decoding, in another order.
        ticks = np.sort(ticks)
    ticks, jumps = _join_jumps(ticks)
    if jumps:
        said.append(f"its times jump back {jumps} times; taken as one after the other")
    gaps = int(np.isnan(ticks).sum())
    if gaps:
        said.append(f"{gaps} of {count} frames tell no time of their own; filled in between")
        ticks = _fill(ticks, 1 / (rate * seconds_a_tick))
    return (ticks - ticks[0]) * seconds_a_tick, said


def _only_reordered(pts):
    """Whether the times are all different, and none is far from the one of its place in order."""
    ordered = np.sort(pts)
    steps = np.diff(ordered)
    moved = np.abs(ordered - pts).max()
    return steps.min() > 0 and 0 < moved <= _REORDERED * np.median(steps)


def _join_jumps(ticks):
    """(ticks that increase, NaN for a single one that does not; how often they were set back)."""
    out = np.full(len(ticks), np.nan)
    steps = np.diff(ticks)
    steps = steps[steps > 0]
    step = float(np.median(steps)) if len(steps) else 1.0
    last, shift, jumps = -np.inf, 0.0, 0
    for i, tick in enumerate(ticks):
        if np.isnan(tick):
            continue
        if tick + shift <= last:
            rest = ticks[i + 1 : i + 1 + _REORDERED]
            rest = rest[~np.isnan(rest)]
            if not len(rest) or rest.max() + shift > last:
                continue  # a single wrong time
            shift = last + step - tick
            jumps += 1
        out[i] = last = tick + shift
    return out, jumps


def _fill(ticks, step):
    """Interpolate where there is no time, and go on by even steps before the first and after."""
    known = np.flatnonzero(~np.isnan(ticks))
    first, last = known[0], known[-1]
    if last > first:
        step = (ticks[last] - ticks[first]) / (last - first)
    at = np.arange(len(ticks))
    filled = np.interp(at, known, ticks[known])
    filled[:first] = ticks[first] - step * (first - at[:first])
    filled[last + 1 :] = ticks[last] + step * (at[last + 1 :] - last)
    return filled

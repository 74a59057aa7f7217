"""What epipolar errors say of a take, in words: which camera is late, which is badly calibrated."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.tools.epipolar import Pair, Take

GOOD = 0.025  # share of a crop's side: a good take has 0.012, one camera turned by 2 degrees 0.05
STANDS_OUT = 1.6  # times the others' error
LEAST_ROWS = 40  # of a pair of cameras
LEAST_DELAY_S = 0.02
EXPLAINED = 0.8  # of the error is what remains, at most, where a delay explains it


@dataclass(frozen=True)
class PairError:
    """How well two cameras fit each other.

    Attributes:
        a, b: names.  rows: how many joints were compared.
        error: median distance from the epipolar line, as a share of the crop's side.
        delay_s: by how many seconds b seems to be behind a; 0 where nothing says so.
        remaining: the error that is left with b's time moved by that.
    """

    a: str
    b: str
    rows: int
    error: float
    delay_s: float
    remaining: float


def pair_errors(rows: Mapping[Pair, np.ndarray]) -> dict[Take, list[PairError]]:
    """{take: a PairError of each two cameras that saw enough at once}."""
    found = defaultdict(list)
    for (take, a, b), values in sorted(rows.items()):
        if len(values) >= LEAST_ROWS:
            found[take].append(_measure_pair(a, b, values.astype(np.float64)))
    return dict(found)


def _measure_pair(a, b, values):
    error = float(np.median(np.abs(values[:, 0])))
    moving = values[np.isfinite(values[:, 1])]
    if len(moving) < LEAST_ROWS:
        return PairError(a, b, len(values), error, 0.0, error)
    delay = _fit_delay(moving[:, 0], moving[:, 1])
    remaining = float(np.median(np.abs(moving[:, 0] + delay * moving[:, 1])))
    share = remaining / max(float(np.median(np.abs(moving[:, 0]))), 1e-12)
    if abs(delay) < LEAST_DELAY_S or share > EXPLAINED:
        return PairError(a, b, len(values), error, 0.0, error)
    return PairError(a, b, len(values), error, delay, remaining)


def _fit_delay(distance, velocity):
    """The d of distance = - d x velocity + an error without direction, robustly.

    Least squares with the weights of absolute errors, as keypoints are sometimes on another limb.
    """
    weight, delay = np.ones(len(distance)), 0.0
    for _ in range(30):
        weighted = weight * velocity
        delay = -float((weighted * distance).sum() / max((weighted * velocity).sum(), 1e-12))
        weight = 1 / np.maximum(np.abs(distance + delay * velocity), 1e-3)
    return delay


def judge_take(pairs: list[PairError]) -> str:
    """One sentence on a take.

    Args:
        pairs: of all its cameras.
    """
    middle = float(np.median([pair.error for pair in pairs]))
    fitting = f"calibration and synchronisation fit: {100 * middle:.1f} % of a crop's side"
    bad = [pair for pair in pairs if pair.error > GOOD]
    if not bad:
        return fitting
    cameras = sorted({pair.a for pair in pairs} | {pair.b for pair in pairs})
    guilty = _find_guilty(pairs, cameras)
    if guilty is None and middle <= GOOD:  # each of the two fits the others
        named = ", ".join(f"{pair.a} / {pair.b}" for pair in bad)
        return f"{fitting}, but for {named}, as where two cameras face each other"
    if guilty is None:
        return _judge_all(pairs, cameras)
    with_it = [pair for pair in pairs if guilty in (pair.a, pair.b)]
    others = [pair.error for pair in pairs if guilty not in (pair.a, pair.b)]
    error = float(np.median([pair.error for pair in with_it]))
    words = (
        f"camera {guilty} does not fit the others: {100 * error:.1f} % of a crop's side with it, "
        f"{100 * float(np.median(others)):.1f} % without"
    )
    delay = _delay_of(with_it, guilty)
    if delay:
        how = "late" if delay > 0 else "early"
        return (
            f"{words}; the error grows with the motion, as if the camera were {abs(delay):.2f} s "
            f"{how}: check its synchronisation"
        )
    return (
        f"{words}; the error does not grow with the motion: check its calibration (was it moved or "
        "turned, is it the video of another camera?)"
    )


def _find_guilty(pairs, cameras):
    """The camera without which the others fit each other clearly better; None: none is."""
    found = None
    for camera in cameras:
        mine = [pair.error for pair in pairs if camera in (pair.a, pair.b)]
        others = [pair.error for pair in pairs if camera not in (pair.a, pair.b)]
        if not mine or not others:
            continue
        ratio = float(np.median(mine) / max(np.median(others), 1e-6))
        if ratio >= STANDS_OUT and (found is None or ratio > found[0]):
            found = ratio, camera
    return None if found is None else found[1]


def _delay_of(pairs, camera):
    """By how many seconds a camera is behind, if most of its pairs say so alike; else 0."""
    delays = np.array([pair.delay_s if pair.b == camera else -pair.delay_s for pair in pairs])
    told = delays[delays != 0]
    if 2 * len(told) <= len(delays) or not (np.sign(told) == np.sign(np.median(told))).all():
        return 0.0
    return float(np.median(told))


def _judge_all(pairs, cameras):
    """The sentence on a take of which no camera stands out."""
    error = float(np.median([pair.error for pair in pairs]))
    words = f"the cameras fit each other badly, {100 * error:.1f} % of a crop's side"
    late = [pair for pair in pairs if pair.delay_s]
    if 2 * len(late) > len(pairs):
        pair = max(late, key=lambda each: abs(each.delay_s))
        behind, before = (pair.b, pair.a) if pair.delay_s > 0 else (pair.a, pair.b)
        return (
            f"{words}; the error grows with the motion, as if {behind} were "
            f"{abs(pair.delay_s):.2f} s behind {before}: check the synchronisation"
        )
    if len(cameras) == 2:
        return f"{words}, and with two cameras nobody can tell which is wrong: check both"
    return (
        f"{words}, and no one camera stands out: check the calibration, and that it is of these "
        f"videos"
    )


def describe_rigs(rows: Mapping[Pair, np.ndarray], most: int = 12) -> list[str]:
    """Lines of `data stats` on cameras that saw one person at once; [] where none did.

    Args:
        most: pairs shown of a take, the worst first.
    """
    takes = pair_errors(rows)
    if not takes:
        return []
    lines = [
        "how the cameras fit each other: distance of 2D keypoints from the epipolar lines of",
        "another camera of that instant, median, as a share of the crop's side (good: up to 2.5 %)",
        "",
    ]
    for (source, take), pairs in takes.items():
        lines.append(f"  {source}, {take}: {judge_take(pairs)}")
        shown = sorted(pairs, key=lambda pair: -pair.error)[:most]
        for pair in shown:
            late = f"  {pair.b} {pair.delay_s:+.2f} s" if pair.delay_s else ""
            lines.append(
                f"    {pair.a} / {pair.b}: {100 * pair.error:.1f} %  ({pair.rows} joints){late}"
            )
        if len(pairs) > most:
            lines.append(f"    and {len(pairs) - most} pairs of cameras that fit better")
    return lines

"""Numbers that change smoothly over time: sums of minimum-jerk moves, and pieces of polynomials."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRAVITY = 9.81  # metres a second squared
LAND_SHARE = 0.75  # of the height at which feet leave the floor, by which they meet it lower
CHUNK = 256  # instants that are read together


def smooth(u: np.ndarray) -> np.ndarray:
    """Minimum-jerk blend of u in [0, 1]: 0 to 1 with zero speed and acceleration at both ends."""
    return u**3 * (u * (6 * u - 15) + 10)


class Curves:
    """Channels that move from target to target.

    Each is a sum of minimum-jerk moves, each with a start and a duration of its own, as movements
    of people are made up of submovements that may overlap (Morasso and Mussa-Ivaldi 1982; Flash
    and Henis 1991). So position, velocity and acceleration are continuous whatever overlaps.

    Args:
        names: of the channels.  start: (C,) where they are at first.

    Attributes:
        target: (C,) where the last move of each ends.
    """

    def __init__(self, names: Sequence[str], start: np.ndarray) -> None:
        self.index = {name: i for i, name in enumerate(names)}
        self.start = np.array(start, np.float64)
        self.target = self.start.copy()
        self._moves: list[tuple[int, float, float, float]] = []

    def move(self, name: str, to: float, at_s: float, lasting_s: float) -> None:
        """Move a channel to a value, from whatever its last move ends at."""
        channel = self.index[name]
        delta = to - self.target[channel]
        if delta:
            self._moves.append((channel, at_s, max(lasting_s, 1e-3), delta))
            self.target[channel] = to

    def read(self, times_s: np.ndarray) -> np.ndarray:
        """(T, C) values at T times, which do not fall."""
        times_s = np.asarray(times_s, np.float64)
        if not self._moves:
            return np.tile(self.start, (len(times_s), 1))
        channel, at_s, lasting_s, delta = (
            np.array(part) for part in zip(*self._moves, strict=True)
        )
        out = np.empty((len(times_s), len(self.start)))
        for first in range(0, len(times_s), CHUNK):
            rows = times_s[first : first + CHUNK]
            over = at_s + lasting_s <= rows[0]
            base = self.start + np.bincount(channel[over], delta[over], len(self.start))
            now = np.flatnonzero(~over & (at_s < rows[-1] + 1e-9))
            share = np.clip((rows[:, None] - at_s[now]) / lasting_s[now], 0, 1)
            onto = np.zeros((len(now), len(self.start)))
            onto[np.arange(len(now)), channel[now]] = delta[now]
            out[first : first + CHUNK] = base + smooth(share) @ onto
        return out

    def column(self, name: str, times_s: np.ndarray) -> np.ndarray:
        """(T,) values of one channel."""
        return self.read(times_s)[:, self.index[name]]


@dataclass(frozen=True)
class Hermite:
    """The polynomial of degree five between two states (value, velocity, acceleration).

    Attributes:
        start, end: (3, ...) each.  span_s: seconds between them.
    """

    start: np.ndarray
    end: np.ndarray
    span_s: float

    def read(self, since_s: np.ndarray) -> np.ndarray:
        """(T, ...) values at seconds since the start."""
        h = self.span_s
        p0, v0, a0 = (np.asarray(part, np.float64) for part in self.start)
        p1, v1, a1 = (np.asarray(part, np.float64) for part in self.end)
        v0, v1, a0, a1 = v0 * h, v1 * h, a0 * h * h, a1 * h * h
        gap = p1 - p0
        powers = (
            p0,
            v0,
            a0 / 2,
            10 * gap - 6 * v0 - 4 * v1 - 1.5 * a0 + 0.5 * a1,
            -15 * gap + 8 * v0 + 7 * v1 + 1.5 * a0 - a1,
            6 * gap - 3 * (v0 + v1) - 0.5 * (a0 - a1),
        )
        u = np.clip(np.asarray(since_s, np.float64) / h, 0, 1)
        u = u.reshape(u.shape + (1,) * p0.ndim)
        out = powers[5] * u
        for power in (4, 3, 2, 1):
            out = (out + powers[power]) * u
        return out + powers[0]


class Heights:
    """Metres by which the centre of mass is above where it is when standing, piece by piece.

    Between pieces it is 0.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[float, float, Hermite | tuple[float, float]]] = []
        self.flights: list[tuple[float, float]] = []

    def add_jump(self, at_s: float, crouch_m: float, leave_m: float, rise_m: float) -> tuple:
        """A jump: down, up, flight under gravity, down again, and up.

        Args:
            at_s: when it begins.  crouch_m: how deep it dips before, and after.
            leave_m: where the feet leave the floor; they land with softer ankles and knees, lower.
            rise_m: how far it rises from there.
        Returns:
            Seconds when the feet leave, when they land, and when it is over.
        """
        speed = np.sqrt(2 * GRAVITY * rise_m)
        down_s = 0.32 + 0.9 * crouch_m
        # From rest at the bottom to the speed of leaving, at a force that grows from the start.
        up_s = 1.85 * (crouch_m + leave_m) / speed
        meet_m = leave_m - LAND_SHARE * leave_m
        fall = np.sqrt(2 * GRAVITY * (rise_m + leave_m - meet_m))
        fly_s = (speed + fall) / GRAVITY
        push = 1.15 * speed / up_s
        low = np.array([-crouch_m, 0, push])
        leave = np.array([leave_m, speed, -GRAVITY])
        land = np.array([meet_m, -fall, -GRAVITY])
        deep = 0.8 * crouch_m
        soft_s = 1.75 * (deep + meet_m) / fall
        bottom = np.array([-deep, 0, 0.9 * fall / soft_s])
        rest = np.zeros(3)
        states = (rest, low, leave, land, bottom, rest)
        spans = (down_s, up_s, fly_s, soft_s, 0.45 + deep)
        for start, end, span in zip(states[:-1], states[1:], spans, strict=True):
            self._pieces.append((at_s, at_s + span, Hermite(start, end, span)))
            at_s += span
        over_s = at_s
        land_s = over_s - spans[4] - spans[3]
        self.flights.append((land_s - fly_s, land_s))
        return land_s - fly_s, land_s, over_s

    def add_run(self, at_s: float, touch_s: float, period_s: float, steps: int) -> None:
        """Steps of a run, from the moment a foot lands: on the floor, then in the air.

        The force on the floor is half a sine whose mean is the weight (Alexander 1989), so that
        heights and speeds of all steps join; half a step leads in, and one out.
        """
        fall = np.array([0.0, -GRAVITY * (period_s - touch_s) / 2, -GRAVITY])
        rest = np.zeros(3)
        self._pieces.append((at_s - period_s, at_s, Hermite(rest, fall, period_s)))
        for _ in range(steps):
            self._pieces.append((at_s, at_s + period_s, (touch_s, period_s)))
            self.flights.append((at_s + touch_s, at_s + period_s))
            at_s += period_s
        self._pieces.append((at_s, at_s + period_s, Hermite(fall, rest, period_s)))

    def read(self, times_s: np.ndarray) -> np.ndarray:
        """(T,) metres."""
        out = np.zeros(len(times_s))
        for start, end, piece in self._pieces:
            rows = (times_s >= start) & (times_s < end)
            if not rows.any():
                continue
            since = times_s[rows] - start
            if isinstance(piece, Hermite):
                out[rows] = piece.read(since)
            else:
                out[rows] = _bounce(since, *piece)
        return out


def _bounce(since_s: np.ndarray, touch_s: float, period_s: float) -> np.ndarray:
    """Metres above where the foot lands."""
    fly_s = period_s - touch_s
    on = np.minimum(since_s, touch_s)
    force = period_s / 2 * (on - touch_s / np.pi * np.sin(np.pi * on / touch_s))
    height = GRAVITY * (force - on * fly_s / 2 - on * on / 2)
    off = np.maximum(since_s - touch_s, 0)
    return height + GRAVITY * off * (fly_s - off) / 2

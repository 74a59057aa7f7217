"""A planned motion, before it is put onto a skeleton: curves, steps and heights over time."""

from dataclasses import dataclass, field

import numpy as np

from data.people.actions.curves import Curves, Heights, smooth

GRID_S = 0.01  # between the moments at which speeds are added up to a path
# heading, twist of the pelvis, pitch of a foot (up at the toes) in degrees; speeds in metres a
# second; ahead, side and height in metres from where the path is and from standing; balance: how
# far the mass is kept over the feet; weight: from -1, over the right foot, to 1, over the left;
# air: how far heights are those of the mass; free: how far a leg follows its angles, not its foot.
ROOT = (
    *("heading", "twist", "speed", "slide", "ahead", "side", "height"),
    *("balance", "weight", "air", "pitch_left", "pitch_right", "free_left", "free_right"),
)


@dataclass(frozen=True)
class Step:
    """A foot's way from one place to the next.

    Attributes:
        lift_s, land_s: when.  place: (3,) x, y in metres and heading in degrees, where it lands.
        clear_m: what the sole is above the floor halfway, at least.
        hops: whether the foot rises with a body that is in the air.
        reaches: whether the hips come down for it to get there; not those of a body in the air.
    """

    lift_s: float
    land_s: float
    place: np.ndarray
    clear_m: float
    hops: bool = False
    reaches: bool = True


@dataclass
class Feet:
    """Where both feet stand, left and right.

    Attributes:
        first: (2, 3) x, y in metres and heading in degrees.  steps: of each foot, in order.
    """

    first: np.ndarray
    steps: tuple[list[Step], list[Step]] = field(default_factory=lambda: ([], []))

    def last(self, foot: int) -> np.ndarray:
        """(3,) where a foot stands after all its steps."""
        steps = self.steps[foot]
        return steps[-1].place if steps else self.first[foot]

    def read(self, foot: int, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, 3) places, and (T,) which step is being taken, -1 on the floor."""
        steps = self.steps[foot]
        places = np.tile(self.first[foot], (len(times_s), 1))
        taken = np.full(len(times_s), -1)
        before = self.first[foot]
        for number, step in enumerate(steps):
            after = times_s >= step.lift_s
            if not after.any():
                break
            share = np.clip((times_s[after] - step.lift_s) / (step.land_s - step.lift_s), 0, 1)
            places[after] = before + smooth(share)[:, None] * (step.place - before)
            taken[after] = np.where(times_s[after] < step.land_s, number, -1)
            before = step.place
        return places, taken

    def find_bearing(self, foot: int, times_s: np.ndarray, within_s: float) -> np.ndarray:
        """(T,) 1 for a foot on the floor, 0 in the air.

        It changes smoothly after the foot lifts (before, if the body does too) and lands.
        """
        out = np.ones(len(times_s))
        for step in self.steps[foot]:
            late = 0.0 if step.hops else within_s
            if step.lift_s - within_s > times_s[-1]:
                break
            leaves = np.clip((step.lift_s + late - times_s) / within_s, 0, 1)
            lands = np.clip((times_s - step.land_s) / within_s, 0, 1)
            out *= smooth(np.maximum(leaves, lands))
        return out

    def find_swing(self, foot: int, times_s: np.ndarray, within_s: float) -> np.ndarray:
        """(T,) 0 for a foot on the floor, 1 in the air, and smoothly between while it is there."""
        out = np.zeros(len(times_s))
        for step in self.steps[foot]:
            if step.lift_s > times_s[-1]:
                break
            since = np.minimum(times_s - step.lift_s, step.land_s - times_s)
            out = np.maximum(out, smooth(np.clip(since / within_s, 0, 1)))
        return out

    def find_reach(self, foot: int, times_s: np.ndarray, within_s: float) -> np.ndarray:
        """(T,) 1 where the hips come down for a foot: on the floor, and before it lands.

        They do not for one that trails behind, nor before it lands if the body is in the air.
        """
        out = np.ones(len(times_s))
        for step in self.steps[foot]:
            if step.lift_s - within_s > times_s[-1]:
                break
            span = step.land_s - step.lift_s
            start, ramp = (0.45 * span, 0.35 * span) if step.reaches else (span, within_s)
            late = within_s if step.reaches else 0.0  # hips are not held back as a body takes off
            leaves = np.clip((step.lift_s + late - times_s) / within_s, 0, 1)
            lands = np.clip((times_s - step.lift_s - start) / ramp, 0, 1)
            out *= smooth(np.maximum(leaves, lands))
        return out


@dataclass
class Drift:
    """What never stands still: breath, and slow sines of different lengths.

    Attributes:
        degrees: (A,) of the angles.  sway_m: of the body over its feet, ahead and aside.
        rates_hz: (3,).  phases: (3, A + 2) radians.
    """

    degrees: np.ndarray
    sway_m: np.ndarray
    rates_hz: np.ndarray
    phases: np.ndarray

    def read(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, A) degrees and (T, 2) metres."""
        turns = 2 * np.pi * self.rates_hz[:, None, None] * times_s[:, None]
        waves = np.sin(turns + self.phases[:, None]).mean(0)
        return waves[:, :-2] * self.degrees, waves[:, -2:] * self.sway_m


@dataclass
class Plan:
    """All of a planned motion.

    Attributes:
        angles: of the body's degrees of freedom, as poses.NAMES; legs follow from the feet.
        root: of ROOT.  hands: 34 numbers, the left hand's 17 first.
        heights, feet, drift: see there.
        seats: (from, to) seconds of somebody who sits on something.
        begin_s: of the plan's own time, where the clip's first instant is.
        end_s: when all is over.
    """

    angles: Curves
    root: Curves
    hands: Curves
    heights: Heights
    feet: Feet
    drift: Drift
    seats: list[tuple[float, float]]
    begin_s: float
    end_s: float

    def find_path(self, times_s: np.ndarray) -> np.ndarray:
        """(T, 2) metres that the speeds add up to since the plan's own begin."""
        return find_path(self.root, times_s)

    def find_seated(self, times_s: np.ndarray) -> np.ndarray:
        """(T,) bool: who sits."""
        seated = np.zeros(len(times_s), bool)
        for start, end in self.seats:
            seated |= (times_s >= start) & (times_s <= end)
        return seated


def find_path(root: Curves, times_s: np.ndarray) -> np.ndarray:
    """(T, 2) metres that ROOT's speeds add up to from second 0 on."""
    last = float(times_s.max(initial=0.0))
    grid = np.arange(int(last / GRID_S) + 2) * GRID_S
    values = root.read(grid)
    heading = np.deg2rad(values[:, root.index["heading"]])
    speed, slide = (values[:, root.index[name], None] for name in ("speed", "slide"))
    way = speed * ahead_of(heading) + slide * left_of(heading)
    places = np.zeros((len(grid), 2))
    places[1:] = np.cumsum((way[1:] + way[:-1]) * (GRID_S / 2), 0)
    at = np.minimum((np.maximum(times_s, 0) / GRID_S).astype(int), len(grid) - 2)
    share = (np.maximum(times_s, 0) / GRID_S - at)[:, None]
    # Between two moments speeds are taken to change evenly.
    first, second = way[at], way[at + 1]
    return places[at] + GRID_S * (first * share + (second - first) * share * share / 2)


def ahead_of(heading: np.ndarray) -> np.ndarray:
    """(..., 2) where somebody of that heading in radians faces; at 0 along -y."""
    return np.stack([np.sin(heading), -np.cos(heading)], -1)


def left_of(heading: np.ndarray) -> np.ndarray:
    """(..., 2) the direction to somebody's left; at 0 along x."""
    return np.stack([np.cos(heading), np.sin(heading)], -1)

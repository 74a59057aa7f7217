"""Writes a plan, action by action."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.people import poses
from data.people.actions.curves import Curves, Heights
from data.people.actions.fingers import Cue
from data.people.actions.plan import ROOT, Drift, Feet, Plan, Step, ahead_of, find_path, left_of
from data.people.poses import HIGH, INDEX, LOW, NAMES, NOISE, REST

HALF_STANCE = 0.12  # of a leg: an ankle beside the middle of somebody who stands
TOE_OUT_DEG = 7.0
FEET = ("left", "right")
SIGNS = (1.0, -1.0)  # a foot's side
# Where in a reach or swing joints begin to move: the trunk first, the wrist last.
LAGS = {
    **{"hip": 0.0, "tip": 0.0, "spine": 0.02, "arm": 0.07, "elbow": 0.12},
    **{"pronate": 0.12, "wrist": 0.2, "neck": 0.04, "knee": 0.03, "ankle": 0.05, "toes": 0.05},
}
SWAY_M = np.array([0.005, 0.003])  # quiet standing: ahead and aside (Winter 1995)
DRIFT_DEG = {"neck": 1.6, "spine": 0.7, "arm": 0.9, "elbow": 1.0, "wrist": 1.2, "pronate": 1.2}


class Script:
    """A person's plan as far as it is written.

    Args:
        rng: of all that is drawn.  leg_m: length of a leg.  turn_deg: where the person faces.
        postures: names of written postures whose arms and trunk somebody who stands takes.

    Attributes:
        now_s: when the next action begins.  vigour: how fast and wide this person moves, about 1.
        style: (36,) degrees that are added to whatever is written.  sits: whether it is sitting.
        cues: what hands do, see fingers.Cue.
    """

    def __init__(
        self, rng: np.random.Generator, leg_m: float, turn_deg: float, postures: Sequence[str]
    ) -> None:
        self.rng, self.leg_m, self.postures = rng, leg_m, tuple(postures)
        self.sits = False
        self.cues: list[Cue] = []
        self.now_s = 0.0
        self.vigour = float(np.exp(rng.normal(0, 0.14)))
        self.style = rng.normal(0, 1, len(REST)) * NOISE * 0.3
        self.angles = Curves(NAMES, np.clip(REST + self.style, LOW, HIGH))
        start = np.zeros(len(ROOT))
        start[ROOT.index("heading")] = turn_deg
        start[ROOT.index("balance")] = 1.0
        self.root = Curves(ROOT, start)
        self.heights = Heights()
        self.feet = Feet(
            np.stack([self.stance_place(side, np.zeros(2), turn_deg) for side in (0, 1)])
        )
        self.seats: list[tuple[float, float]] = []

    @property
    def heading_deg(self) -> float:
        """Where the person faces after all that is written."""
        return float(self.root.target[ROOT.index("heading")])

    def stance_place(
        self, side: int, middle: np.ndarray, heading_deg: float, wide: float = 1.0
    ) -> np.ndarray:
        """(3,) where a foot of somebody who stands at a place is."""
        heading = np.deg2rad(heading_deg)
        off = SIGNS[side] * HALF_STANCE * self.leg_m * wide * left_of(heading)
        # Toes point outwards: the left foot's to the left.
        return np.array([*(middle + off), heading_deg + SIGNS[side] * TOE_OUT_DEG])

    def stance_beside(self, side: int) -> np.ndarray:
        """(3,) where a foot stands beside the other one."""
        other = self.feet.last(1 - side)
        heading = np.deg2rad(self.heading_deg)
        middle = other[:2] + SIGNS[side] * HALF_STANCE * self.leg_m * left_of(heading)
        return self.stance_place(side, middle, self.heading_deg)

    def hand(self, side: int, kind: str, after_s: float, lasting_s: float) -> None:
        """Cue what a hand does, see fingers.KINDS."""
        self.cues.append(Cue(side, kind, self.now_s + after_s, lasting_s))

    def middle(self) -> np.ndarray:
        """(2,) metres between both feet, after all steps."""
        return (self.feet.last(0)[:2] + self.feet.last(1)[:2]) / 2

    def angle(self, name: str, to: float, lasting_s: float, after_s: float = 0.0) -> None:
        """Move an angle to a written value, give or take the person's style."""
        i = INDEX[name]
        self.angles.move(
            name,
            float(np.clip(to + self.style[i], LOW[i], HIGH[i])),
            self.now_s + after_s,
            lasting_s,
        )

    def pose(self, angles: Mapping[str, float], lasting_s: float, after_s: float = 0.0) -> None:
        """Move angles; a name without a side means both; each joint at a time of its own."""
        shift = self.rng.normal(0, 0.03)
        for name, to in angles.items():
            for full in (name,) if name in INDEX else (f"{name}_left", f"{name}_right"):
                late = LAGS[name.split("_")[0]] + self.rng.normal(0, 0.035) + shift
                part = self.rng.uniform(0.8, 0.98)
                self.angle(full, to, lasting_s * part, after_s + lasting_s * max(0.0, late))

    def relax(self, lasting_s: float, after_s: float = 0.0, but: tuple[str, ...] = ()) -> None:
        """Move every angle but some back to rest."""
        rest = {name: REST[i] for name, i in INDEX.items() if not name.startswith(but or ("-",))}
        for name, to in rest.items():
            i = INDEX[name]
            if abs(self.angles.target[i] - np.clip(to + self.style[i], LOW[i], HIGH[i])) > 1e-6:
                self.pose({name: to}, lasting_s, after_s)

    def body(self, name: str, to: float, lasting_s: float, after_s: float = 0.0) -> None:
        """Move one of plan.ROOT."""
        self.root.move(name, to, self.now_s + after_s, lasting_s)

    def step(
        self,
        side: int,
        place: np.ndarray,
        lasting_s: float,
        after_s: float = 0.0,
        clear_m: float = 0.05,
        hops: bool = False,
        reaches: bool = True,
    ) -> None:
        """A foot's step to a place (3,), or in the air with a body that jumps."""
        lift = self.now_s + after_s
        place = np.asarray(place, np.float64)
        step = Step(lift, lift + lasting_s, place, clear_m, hops, reaches and not hops)
        self.feet.steps[side].append(step)

    def lower(self, lasting_s: float) -> None:
        """Arms, trunk and head back to rest."""
        self.relax(lasting_s, but=("hip", "knee", "ankle", "toes"))
        self.go_on(0.75 * lasting_s)

    def stand_again(self, side: int, lasting_s: float) -> None:
        """One foot back beside the other, and everything to rest."""
        self.body("weight", SIGNS[1 - side] * 0.7, 0.4 * lasting_s)
        place, clear_m = self.stance_beside(side), 0.04 * self.leg_m
        self.step(side, place, 0.55 * lasting_s, 0.3 * lasting_s, clear_m)
        self.body("weight", 0.0, 0.5 * lasting_s, 0.75 * lasting_s)
        for name in ("twist", "height", "side"):
            self.body(name, 0.0, 0.9 * lasting_s)
        self.relax(lasting_s, but=("hip", "knee", "ankle", "toes"))
        self.go_on(lasting_s)

    def go_on(self, seconds: float) -> None:
        """The next action begins so many seconds later."""
        self.now_s += seconds

    def path_at(self, times_s: np.ndarray) -> np.ndarray:
        """(T, 2) metres where the path is."""
        return find_path(self.root, np.asarray(times_s, np.float64))

    def beside(
        self, side: int, ahead_m: float, aside_m: float, turn_deg: float = 0.0
    ) -> np.ndarray:
        """(3,) a place for a foot from where it stands: ahead, and away from the other foot."""
        heading = np.deg2rad(self.heading_deg)
        x, y, yaw = self.feet.last(side)
        off = ahead_m * ahead_of(heading) + SIGNS[side] * aside_m * left_of(heading)
        return np.array([x + off[0], y + off[1], yaw + turn_deg])

    def finish(self, hands: Curves, begin_s: float) -> Plan:
        """The Plan of all that is written."""
        rng = self.rng
        degrees = np.array([DRIFT_DEG.get(name.split("_")[0], 0.0) for name in poses.NAMES])
        drift = Drift(
            degrees * rng.uniform(0.5, 1.5),
            SWAY_M * 1.7 * self.leg_m / 0.85,
            rng.uniform([0.1, 0.2, 0.4], [0.2, 0.35, 0.7]),
            rng.uniform(0, 2 * np.pi, (3, len(degrees) + 2)),
        )
        return Plan(
            self.angles,
            self.root,
            hands,
            self.heights,
            self.feet,
            drift,
            self.seats,
            begin_s,
            self.now_s,
        )

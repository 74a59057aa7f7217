"""How fingers move: each at a time of its own, joints of one finger together.

A hand that reaches opens until about three quarters of the way and then closes (Jeannerod 1984);
the end joint bends by a fixed share of the middle one, as one tendon bends both; the ring and the
little finger go along with each other (Häger-Ross and Schieber 2000).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.people import poses
from data.people.actions.curves import Curves
from data.people.gestures import COUPLING, LONG_FINGERS, SHAPES
from data.people.poses import FINGER_HIGH, FINGER_LOW, HAND_NOISE, HAND_SIZE

THUMB = np.arange(4)
FINGERS = (THUMB, *LONG_FINGERS)
GRIPS = ("grip", "glass", "ball", "stick", "handle", "pinch_three", "key")
# What cues ask for; others are names of shapes.
KINDS = ("grasp", "open", "flat", "fist", "point", "grip")
_THUMB_TIP = np.array([30.0, 10, 16, 22])  # that meets the index finger's
_HOLD_S = 0.5
_ALL = {**poses.HANDS, **SHAPES}


@dataclass(frozen=True)
class Cue:
    """What a hand does because of what the body does.

    Attributes:
        side: 0 left, 1 right.  kind: of KINDS.  at_s, lasting_s: of the body's own move.
    """

    side: int
    kind: str
    at_s: float
    lasting_s: float


def write_hands(
    rng: np.random.Generator, cues: Sequence[Cue], end_s: float, shapes: Sequence[str]
) -> Curves:
    """Curves of both hands' 34 angles in degrees until a time, with what is cued.

    Args:
        shapes: names in poses.HANDS that hands take; where those are not all of them, hands go
            from one to another and do nothing else.
    """
    names = [f"{side}{k}" for side in ("left", "right") for k in range(HAND_SIZE)]
    first = [_pick(rng, shapes) for _ in range(2)]
    curves = Curves(names, np.concatenate(first))
    free = set(shapes) == set(poses.HANDS)
    for side, name in enumerate(("left", "right")):
        hand = _Hand(rng, curves, name, shapes)
        own = sorted((cue for cue in cues if cue.side == side), key=lambda cue: cue.at_s)
        lively = rng.random() < 0.75  # others keep their hands as they are
        for cue in own:
            hand.fill(cue.at_s - 0.1, lively, free)
            hand.obey(cue)
        hand.fill(end_s, lively, free)
    return curves


def _pick(rng: np.random.Generator, shapes: Sequence[str]) -> np.ndarray:
    name = "relaxed" if "relaxed" in shapes and rng.random() < 0.4 else None
    return _vary(rng, poses.HANDS[name or shapes[int(rng.integers(len(shapes)))]])


def _vary(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    out = shape + rng.normal(0, 0.7, HAND_SIZE) * HAND_NOISE
    out[LONG_FINGERS] = np.clip(out[LONG_FINGERS], FINGER_LOW, FINGER_HIGH)
    return out


class _Hand:
    """One hand's moves, written one after the other."""

    def __init__(
        self, rng: np.random.Generator, curves: Curves, name: str, shapes: Sequence[str]
    ) -> None:
        self.rng, self.curves, self.name, self.shapes = rng, curves, name, shapes
        self.now_s = 0.0

    def shape(self, to: np.ndarray, lasting_s: float, apart_s: float = 0.035) -> None:
        """Move to a shape; fingers start one after the other, from either side of the hand."""
        order = self.rng.permutation(5) if self.rng.random() < 0.3 else np.arange(5)
        order = order[::-1] if self.rng.random() < 0.5 else order
        for place, finger in enumerate(order):
            late = place * apart_s + abs(self.rng.normal(0, 0.02))
            self.finger(
                int(finger), to[FINGERS[finger]], lasting_s * self.rng.uniform(0.8, 1.0), late
            )
        self._move(16, to[16], lasting_s, 0.0)

    def finger(self, finger: int, to: np.ndarray, lasting_s: float, after_s: float = 0.0) -> None:
        """Move one finger, 0 the thumb; its root a little before its ends."""
        for joint, value in zip(FINGERS[finger], to, strict=True):
            late = 0.06 * lasting_s * (joint - FINGERS[finger][0])
            self._move(int(joint), value, lasting_s, after_s + late)

    def _move(self, joint: int, to: float, lasting_s: float, after_s: float) -> None:
        self.curves.move(f"{self.name}{joint}", float(to), self.now_s + after_s, lasting_s)

    def obey(self, cue: Cue) -> None:
        """Do what the body's action asks for."""
        self.now_s = max(self.now_s, cue.at_s)
        if cue.kind == "grasp":
            grip = _ALL[GRIPS[int(self.rng.integers(len(GRIPS)))]]
            wide = grip + 0.75 * (poses.HANDS["spread"] - grip)
            self.shape(_vary(self.rng, wide), 0.7 * cue.lasting_s, 0.015)
            self.now_s += 0.72 * cue.lasting_s
            self.shape(_vary(self.rng, grip), max(0.2, 0.35 * cue.lasting_s), 0.015)
            self.now_s += 0.35 * cue.lasting_s
        else:
            self.shape(_vary(self.rng, _ALL[cue.kind]), cue.lasting_s, 0.01)
            self.now_s += cue.lasting_s
        self.now_s += _HOLD_S

    def fill(self, until_s: float, lively: bool, free: bool) -> None:
        """Do whatever hands do, until a time."""
        while self.now_s < until_s - 0.5:
            if not lively or self.rng.random() < 0.35:
                self.now_s += self.rng.exponential(0.8)
            elif not free or self.rng.random() < 0.35:
                seconds = self.rng.uniform(0.3, 0.9)
                self.shape(_pick(self.rng, self.shapes), seconds)
                self.now_s += seconds + self.rng.exponential(0.4)
            else:
                _HABITS[int(self.rng.integers(len(_HABITS)))](self)

    def bend(self, finger: int, share: float, lean: float = 0.0) -> np.ndarray:
        """(3,) angles of a long finger that is bent by a share of its range."""
        root = np.clip(share + lean * share * (1 - share), 0, 1)
        middle = np.clip(share - lean * share * (1 - share), 0, 1)
        return np.array([-6 + 84 * root, 3 + 92 * middle, COUPLING * (3 + 92 * middle)])


def _open_and_close(hand: _Hand) -> None:
    shut = ("fist", "grip", "half_fist", "claw")[int(hand.rng.integers(4))]
    for _ in range(int(hand.rng.integers(1, 4))):
        for shape in (shut, "spread" if hand.rng.random() < 0.5 else "open"):
            seconds = hand.rng.uniform(0.25, 0.7)
            hand.shape(_vary(hand.rng, _ALL[shape]), seconds, hand.rng.uniform(0, 0.07))
            hand.now_s += seconds * hand.rng.uniform(0.8, 1.3)


def _pinch(hand: _Hand) -> None:
    """The thumb meets one finger after another."""
    for finger in hand.rng.permutation(4)[: int(hand.rng.integers(1, 5))] + 1:
        seconds = hand.rng.uniform(0.2, 0.45)
        across = np.array([2.0 * (finger - 1), 0, 3.0 * (finger - 1), 0])
        hand.finger(0, _THUMB_TIP + across, seconds)
        for other in range(1, 5):
            share = 0.52 if other == finger else 0.16 + 0.1 * (abs(other - finger) == 1)
            hand.finger(other, hand.bend(other, share), seconds, 0.03 * abs(other - int(finger)))
        hand.now_s += seconds * hand.rng.uniform(1.0, 1.8)


def _count(hand: _Hand) -> None:
    """Fingers come out of a fist one after the other."""
    hand.shape(_vary(hand.rng, _ALL["fist"]), 0.4)
    hand.now_s += 0.45
    order = (0, 1, 2, 3, 4) if hand.rng.random() < 0.5 else (1, 2, 3, 4, 0)
    for finger in order[: int(hand.rng.integers(2, 6))]:
        seconds = hand.rng.uniform(0.2, 0.4)
        straight = np.array([-8.0, 20, -2, 0]) if finger == 0 else np.array([0.0, 4, 3])
        hand.finger(finger, straight, seconds)
        hand._move(16, 8, seconds, 0)
        hand.now_s += seconds + hand.rng.uniform(0.1, 0.5)


def _tap(hand: _Hand) -> None:
    """Fingers as on keys: single ones go down and come up, neighbours follow a little."""
    hand.shape(_vary(hand.rng, _ALL["tap"]), 0.35)
    hand.now_s += 0.35
    for _ in range(int(hand.rng.integers(3, 10))):
        finger = int(hand.rng.integers(1, 5))
        down = hand.rng.uniform(0.07, 0.12)
        by = np.array([hand.rng.uniform(14, 26), 6, 3])
        for other in range(1, 5):
            share = {0: 1.0, 1: 0.2}.get(abs(other - finger), 0.0)
            at = np.array(
                [hand.curves.target[hand.curves.index[f"{hand.name}{j}"]] for j in FINGERS[other]]
            )
            if share:
                hand.finger(other, at + share * by, down)
                hand.finger(other, at, 1.3 * down, 1.1 * down)
        hand.now_s += hand.rng.uniform(0.14, 0.35)


def _roll(hand: _Hand) -> None:
    """A wave of bending goes from the little finger to the index finger, or back."""
    order = (4, 3, 2, 1) if hand.rng.random() < 0.6 else (1, 2, 3, 4)
    lean, seconds = hand.rng.normal(0, 0.4), hand.rng.uniform(0.25, 0.5)
    for shares in ((0.75, 0.1), (0.1, 0.7))[: int(hand.rng.integers(1, 3))]:
        for share in shares:
            for place, finger in enumerate(order):
                hand.finger(finger, hand.bend(finger, share, lean), seconds, 0.07 * place)
            hand.now_s += seconds + 0.1


def _sign(hand: _Hand) -> None:
    """Some shapes of letters, numbers and grips after one another."""
    names = list(_ALL)
    for _ in range(int(hand.rng.integers(1, 5))):
        seconds = hand.rng.uniform(0.22, 0.5)
        hand.shape(_vary(hand.rng, _ALL[names[int(hand.rng.integers(len(names)))]]), seconds, 0.015)
        hand.now_s += seconds + hand.rng.uniform(0.05, 0.35)


_HABITS = (_open_and_close, _pinch, _count, _tap, _roll, _sign)

"""Batches of motions and of what a network might see of them; each row is of its slot alone."""

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from engine.training.task import Arrays
from finetune.temporal.keys import MotionDataConfig, SpoilConfig
from finetune.temporal.limbs import Limbs
from finetune.temporal.motions import RATE_HZ, Bank, mix_rows
from finetune.temporal.spoil import Spoilt, spoil_stretch

TAGS = ("slot", "piece")
SHORT_SHARE = 0.2  # of stretches with fewer frames than the window
UNEVEN_SHARE = 0.15  # of those whose frames are not equally far apart
PACE = (0.7, 2.0)  # a motion may be faster or slower than it was
PITCH_DEG, ROLL_DEG = (-10.0, 30.0), 4.0  # of cameras; down is positive
AWAY_M = (1.5, 8.0)
TRAINED, VALIDATED = 0, 1  # purposes of random numbers
TO_CAMERA = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # of a world whose z is up


class MotionLoader:
    """Draws a rank's share of each step's batch, in its own process.

    Args:
        bank: of motions.  frames: of a row.  batch: rows of a step, over all ranks.
        rows: of a step, which are this rank's.
    """

    def __init__(
        self,
        bank: Bank,
        limbs: Limbs,
        data: MotionDataConfig,
        spoil: SpoilConfig,
        frames: int,
        seed: int,
        batch: int,
        rows: range,
    ) -> None:
        self.bank, self.limbs, self.data, self.spoil = bank, limbs, data, spoil
        self.frames, self.seed, self.batch, self.rows = frames, seed, batch, rows
        self.workers: list[object] = []
        self.ring: list[Arrays] = []
        self.alive: Callable[[], None] = lambda: None
        self._waited = 0.0

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Arrays]]:
        """Yield (step, arrays) of the steps from ``start`` to before ``stop``."""
        for step in range(start, stop):
            began = time.monotonic()
            slots = [step * self.batch + row for row in self.rows]
            arrays = self.draw(slots)
            self._waited += time.monotonic() - began
            yield step, arrays

    def draw(self, slots: list[int] | range, purpose: int = TRAINED) -> dict[str, np.ndarray]:
        """Return the arrays of some slots, a row each; see ``draw_row``."""
        rows = [self.draw_row(slot, purpose) for slot in slots]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def draw_row(self, slot: int, purpose: int) -> Mapping[str, np.ndarray]:
        """Return one stretch.

        "six" (T, J, 6) and "place" (T, 3): what is true, in the camera's frame; "times", "valid"
        and "seen", "confidence" as in network.Stretches; and the other arrays of spoil.Spoilt.
        """
        key = np.array([self.seed, purpose + 16], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, slot]))
        number = int(rng.integers(len(self.bank)))
        times, six, place = self._cut(rng, number)
        six, place = self._put_camera(rng, number, six, place)
        wrong = spoil_stretch(rng, times, self.limbs, self.spoil)
        return self._pad(slot, number, times, six, place, wrong)

    def _cut(
        self, rng: np.random.Generator, number: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seconds, rotations and places of a stretch of a piece, at a frame rate that is drawn."""
        bank, data = self.bank, self.data
        rate = float(np.exp(rng.uniform(np.log(data.least_hz), np.log(data.most_hz))))
        pace = float(np.exp(rng.uniform(*np.log(PACE))))
        length_s = (bank.counts[number] - 2) / RATE_HZ / pace
        count = min(self.frames, max(2, int(length_s * rate)))
        if rng.random() < SHORT_SHARE:
            count = int(rng.integers(2, count + 1))
        times = np.arange(count) / rate
        if rng.random() < UNEVEN_SHARE:
            times = times + rng.uniform(-0.3, 0.3, count) / rate
            times -= times[0]
        at = (rng.uniform(0, max(0.0, length_s - times[-1])) + times) * pace * RATE_HZ
        at = np.clip(at, 0, bank.counts[number] - 1.001)
        if rng.random() < 0.5:  # backwards
            at = bank.counts[number] - 1.001 - at
        before = at.astype(int)
        share = (at - before).astype(np.float32)
        rows = bank.starts[number] + before
        six, place = mix_rows(bank.six, rows, share), mix_rows(bank.place, rows, share)
        if rng.random() < 0.5:
            six, place = mirror_rows(six, place, self.limbs)
        return times, six, place

    def _put_camera(
        self, rng: np.random.Generator, number: int, six: np.ndarray, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same in the frame of a camera that looks at the person from somewhere."""
        yaw, roll = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.normal(0, ROLL_DEG))
        pitch = np.deg2rad(rng.uniform(*PITCH_DEG))
        away = float(np.exp(rng.uniform(*np.log(AWAY_M))))
        aside = rng.normal(0, 0.15, 2) * away
        if not self.bank.is_world[number]:
            return six, place
        turn = _turn_z(roll) @ _turn_x(pitch) @ TO_CAMERA @ _turn_z(yaw)
        place = (place - place.mean(0)) @ turn.T + [*aside, away]
        six = six.copy()
        six[:, 0] = (six[:, 0].reshape(-1, 2, 3) @ turn.T).reshape(-1, 6)
        return six, place

    def _pad(
        self,
        slot: int,
        number: int,
        times: np.ndarray,
        six: np.ndarray,
        place: np.ndarray,
        wrong: Spoilt,
    ) -> dict[str, np.ndarray]:
        count = len(times)
        floats = {
            "six": six,
            "place": place,
            "times": times - times[count // 2],
            "turns": wrong.turns,
            "beside": wrong.beside,
            "depth": wrong.depth,
            "confidence": wrong.confidence,
        }
        flags = {
            "valid": np.ones(count, bool),
            "seen": wrong.seen,
            "flips": wrong.flips,
            "arms": wrong.arms,
            "legs": wrong.legs,
        }
        out = {
            name: self._fill(values.astype(np.float32), "edge") for name, values in floats.items()
        }
        out |= {name: self._fill(values, "constant") for name, values in flags.items()}
        out["tags"] = np.array([slot, number], np.int64)
        return out

    def _fill(self, values: np.ndarray, mode: str) -> np.ndarray:
        """Rows up to the window's length; those that are no frames hold the last one, or false."""
        more = [(0, self.frames - len(values)), *[(0, 0)] * (values.ndim - 1)]
        return np.pad(values, more, mode=mode)  # pyrefly: ignore - numpy's own literals

    def take_waited(self) -> float:
        """Seconds that batches were drawn since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Nothing is to be given back."""


def mirror_rows(six: np.ndarray, place: np.ndarray, limbs: Limbs) -> tuple[np.ndarray, np.ndarray]:
    """Return rotations (T, J, 6) and places (T, 3) as a mirror shows them (x), sides swapped.

    A rotation's first column becomes x, -y, -z and its second one -x, y, z; see
    data.bodies.base.mirrored_rotation.
    """
    signs = np.array([1, -1, -1, -1, 1, 1], np.float32)
    return six[:, list(limbs.mirror)] * signs, place * np.array([-1, 1, 1], np.float32)


def _turn_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _turn_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

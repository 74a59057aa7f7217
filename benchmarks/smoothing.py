"""What the one-euro filter does to errors such as a network's, on motions of the generator.

    python benchmarks/smoothing.py [motions=10] [seed=0] [seconds=2] [module=RUN]

The generator's motions (data/people/motion.py) are posed and spoilt: white errors of each frame as
strong as those measured on a real video, slow ones, and limbs that are wrong for up to 0.4 s as if
they were hidden. Each cutoff gives a row, and so does a motion module, whose training spoils
motions otherwise: MPJPE and acceleration error about the root, then in the camera's frame.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch

from benchmarks.options import read_options
from data.bodies.models import open_model
from data.people.motion import even_times, sample_motion
from data.people.rig import Rig
from engine.cli import run
from engine.geometry import axis_angle_to_matrix
from finetune.animation.track import Track
from finetune.evaluation.scoring.errors import acceleration_errors
from finetune.temporal.mend import mend_track
from finetune.temporal.module_file import locate_module
from finetune.temporal.one_euro import Cutoff
from finetune.temporal.smooth import smooth_track

OPTIONS = {"motions": "10", "seed": "0", "seconds": "2", "module": ""}
RATES = (24, 30, 50, 60)
CUTOFFS = (Cutoff(0.5, 0.5), Cutoff(1, 0.5), Cutoff(1, 2), Cutoff(1, 4))
JOINTS = [
    "root",
    "spine03",
    "neck01",
    "head",
    "upperarm01.L",
    "upperarm01.R",
    "lowerarm01.L",
    "lowerarm01.R",
    "wrist.L",
    "wrist.R",
    "upperleg01.L",
    "upperleg01.R",
    "lowerleg01.L",
    "lowerleg01.R",
    "foot.L",
    "foot.R",
]
# {how a joint's name starts: degrees of its white and of its slow error}; the first that fits.
ERRORS_DEG = {
    "root": (1.7, 4.0),
    "wrist": (4.0, 10.0),
    "upperarm": (1.5, 9.0),
    "lowerarm": (1.5, 9.0),
    "upperleg": (1.1, 6.0),
    "lowerleg": (1.1, 6.0),
    "finger": (1.7, 8.0),
    "spine0": (0.5, 1.5),
    "": (0.1, 0.5),
}
SLOW_S = 0.3
HIDDEN_S = (0.04, 0.4)  # how long a limb is wrong
SEEN_S = 2.0  # between two such times, on average
HIDDEN_RAD = (0.35, 0.12)  # of all its frames alike, and of each anew
PLACE_M, DEPTH, SLOW_DEPTH = 0.0015, 0.0038, 0.006  # the depths are shares of it
TO_CAMERA = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # of the generator: z is up


@dataclass
class Made:
    """A motion as it is and as a network might see it."""

    true: Track
    seen: Track


def main(argv: list[str]) -> None:
    """Print the table; returns nothing."""
    options = read_options(argv, OPTIONS)
    random = np.random.default_rng(int(options["seed"]))
    maker = Maker()
    made = [
        maker.make(random, RATES[number % len(RATES)], float(options["seconds"]))
        for number in range(int(options["motions"]))
    ]
    print("| | MPJPE, mm | acceleration error, mm/frame^2 | MPJPE, acceleration in the camera |")
    print_row("per frame", maker, [(one.seen, one.true) for one in made])
    for cutoff in CUTOFFS:
        pairs = [(smooth_track(one.seen, cutoff), one.true) for one in made]
        print_row(f"one-euro, {cutoff.least_hz:g} Hz, {cutoff.rise:g}", maker, pairs)
    if options["module"]:
        module = locate_module(options["module"], "module")
        pairs = [
            (mend_track(one.seen, one.seen.times, module, CUTOFFS[-1], 0.5), one.true)
            for one in made
        ]
        print_row("learned", maker, pairs)


def print_row(name: str, maker: "Maker", pairs: Sequence[tuple[Track, Track]]) -> None:
    """Print the means over motions."""
    values = []
    for found, true in pairs:
        mine, theirs = maker.find_joints(found), maker.find_joints(true)
        row = []
        for a, b in ((mine - mine[:, :1], theirs - theirs[:, :1]), (mine, theirs)):
            row += [np.linalg.norm(a - b, axis=-1).mean(), acceleration_errors(a, b, None).mean()]
        values.append(row)
    mpjpe, jerky, whole, whole_jerky = 1000 * np.mean(values, 0)
    print(f"| {name} | {mpjpe:.1f} | {jerky:.1f} | {whole:.1f}, {whole_jerky:.1f} |", flush=True)


class Maker:
    """Makes motions of an average body and errors of them."""

    def __init__(self) -> None:
        self.body = open_model("anny").coarse(64)  # joints alone are looked at
        space = self.body.shape_space
        self.shape = np.full(len(space.names), space.mean, np.float32)
        shape = torch.from_numpy(self.shape)[None]
        self.names = list(self.body.joint_names)
        self.rig = Rig(self.names, self.body.read_rest(shape)[1][0].numpy())
        self.chosen = [self.names.index(name) for name in JOINTS]
        self.errors = np.deg2rad([self._find_errors(name) for name in self.names])

    @staticmethod
    def _find_errors(name: str) -> tuple[float, float]:
        return next(value for start, value in ERRORS_DEG.items() if name.startswith(start))

    def find_joints(self, track: Track) -> np.ndarray:
        """(T, N, 3) metres of JOINTS."""
        return track.skeleton[0][:, self.chosen].astype(np.float64)

    def make(self, random: np.random.Generator, fps: int, seconds: float) -> Made:
        """One motion at a frame rate, and what is seen of it."""
        motion = sample_motion(random, even_times(int(seconds * fps), 1 / fps))
        pose, place = self.rig.pose(motion.angles, motion.hands, motion.root)
        pose[:, 0] = TO_CAMERA @ pose[:, 0]
        place = place @ TO_CAMERA.T + [0, 0, random.uniform(3, 6)]
        vectors = self._spoil(random, len(pose), fps)
        seen = pose @ axis_angle_to_matrix(torch.from_numpy(vectors)).numpy()
        share = 1 + random.normal(0, DEPTH, len(pose))
        share += SLOW_DEPTH * drift(random, len(pose), fps, ())
        beside = random.normal(0, 1, place.shape) * [PLACE_M, PLACE_M, 0]
        return Made(
            self._make_track(pose, place, motion.times_s),
            self._make_track(seen, place * share[:, None] + beside, motion.times_s),
        )

    def _spoil(self, random: np.random.Generator, count: int, fps: int) -> np.ndarray:
        """(T, J, 3) rotation vectors of errors."""
        white, slow = self.errors.T[..., None]
        joints = len(self.names)
        out = white * random.normal(0, 1, (count, joints, 3))
        out += slow * drift(random, count, fps, (joints, 3))
        for limb in ("arm01.L", "arm01.R", "leg01.L", "leg01.R"):
            start = random.exponential(SEEN_S)
            while start * fps < count:
                length = random.uniform(*HIDDEN_S)
                rows = slice(int(start * fps), int(start * fps) + max(1, int(length * fps)))
                for part in ("upper", "lower"):
                    part_of = out[rows, self.names.index(part + limb)]
                    same, anew = HIDDEN_RAD
                    part_of += random.normal(0, same, 3) + random.normal(0, anew, part_of.shape)
                start += length + random.exponential(SEEN_S)
        return out

    def _make_track(self, pose: np.ndarray, place: np.ndarray, times: np.ndarray) -> Track:
        count = len(pose)
        return Track(
            name="made",
            kind="body",
            body=self.body,
            frames=np.arange(count),
            times=times,
            pose=pose.astype(np.float32),
            shape=self.shape,
            translation=place.astype(np.float32),
            intrinsics=np.eye(3),
            confidence=np.ones(count, np.float32),
            box=np.zeros((count, 4), np.float32),
        )


def drift(random: np.random.Generator, count: int, fps: int, shape: tuple[int, ...]) -> np.ndarray:
    """(T, *shape) numbers of deviation 1 that wander within some tenths of a second."""
    kernel = np.hanning(int(2 * SLOW_S * fps) + 2)
    kernel /= np.linalg.norm(kernel)
    noise = random.normal(0, 1, (count + len(kernel) - 1, *shape))
    windows = np.lib.stride_tricks.sliding_window_view(noise, len(kernel), axis=0)
    return windows @ kernel


if __name__ == "__main__":
    run(main)

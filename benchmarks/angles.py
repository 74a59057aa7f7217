"""How far the joint angles that are written lie from those that made people are posed by.

    python benchmarks/angles.py [people=300] [seed=0]

The generator of synthetic people (data/people/rig.py) poses anny by anatomical angles of its own;
finetune/animation/angles.py measures what comes out. The two know nothing of each other. A
coordinate's offset, its median difference, is where the two count from: the body at rest, which
stands a little astride. What is left is what a flexion of 30 degrees may read as.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch

from benchmarks.options import read_options
from data.bodies.models import open_model
from data.people.motion import sample_posture
from data.people.poses import HAND_SIZE, INDEX, POSTURES
from data.people.rig import Rig
from engine.cli import run
from finetune.animation.angles import measure_angles
from finetune.animation.track import Track

OPTIONS = {"people": "300", "seed": "0"}
# {coordinate without its side: (the generator's angle, sign)}
SIDED = {
    "hip_flexion": ("hip_forward", 1),
    "hip_adduction": ("hip_out", -1),
    "hip_rotation": ("hip_turn", -1),
    "knee_angle": ("knee", 1),
    "ankle_angle": ("ankle", 1),
    "elbow_flex": ("elbow", 1),
}
CENTRAL = {
    "lumbar_extension": ("spine_forward", -1),
    "lumbar_bending": ("spine_side", -1),
    "lumbar_rotation": ("spine_turn", 1),
}


def main(argv: list[str]) -> None:
    """Print the table; returns nothing."""
    options = read_options(argv, OPTIONS)
    random = np.random.default_rng(int(options["seed"]))
    track, angles = pose_people(random, int(options["people"]))
    found = {name: np.rad2deg(values) for name, values in measure_angles(track).items()}
    print("| coordinate | generator's angle | range | offset | mean | 95 % | (degrees)")
    for name, (own, sign) in list_pairs():
        true = sign * angles[:, INDEX[own]]
        apart = (found[name] - true + 180) % 360 - 180
        offset = float(np.median(apart))
        rest = np.abs(apart - offset)
        low, high = np.percentile(true, [2.5, 97.5])
        print(
            f"| {name} | {own} | {low:.0f} to {high:.0f} | {offset:+.1f} | {rest.mean():.1f} | "
            f"{np.percentile(rest, 95):.1f} |"
        )


def list_pairs() -> list[tuple[str, tuple[str, int]]]:
    """Return [(coordinate, (the generator's angle, sign)), ...]."""
    out = []
    for name, (own, sign) in SIDED.items():
        for letter, side in (("r", "right"), ("l", "left")):
            out.append((f"{name}_{letter}", (f"{own}_{side}", sign)))
    return out + list(CENTRAL.items())


def pose_people(random: np.random.Generator, count: int) -> tuple[Track, np.ndarray]:
    """(a track of as many postures of an average body, (count, 36) the angles in degrees)."""
    body = open_model("anny")
    shape = np.full(len(body.shape_space.names), body.shape_space.mean, np.float32)
    _, joints = body.read_rest(torch.from_numpy(shape)[None])
    angles = np.stack([sample_posture(random, list(POSTURES)) for _ in range(count)])
    hands = np.zeros((count, 2, HAND_SIZE))
    rotations, _ = Rig(body.joint_names, joints[0].numpy()).pose(
        angles, hands, np.zeros((count, 3))
    )
    rows = np.arange(count)
    track = Track(
        name="made",
        kind="body",
        body=body,
        frames=rows,
        times=rows / 25,
        pose=rotations.astype(np.float32),
        shape=shape,
        translation=np.zeros((count, 3), np.float32),
        intrinsics=np.eye(3),
        confidence=np.ones(count, np.float32),
        box=np.zeros((count, 4), np.float32),
    )
    return track, angles


if __name__ == "__main__":
    run(main)

"""How far the joint angles that are written lie from those that synthetic humans are posed by.

    python benchmarks/angles.py [people=300] [seed=0] [run=RUN shards=DIR clips=24]

The generator of synthetic people (data/people/rig.py) poses anny by anatomical angles of its own;
finetune/animation/angles.py measures what comes out. The two know nothing of each other. A
coordinate's offset, its median difference, is where the two count from: the body at rest, which
stands a little astride. What is left is what a flexion of 30 degrees may read as.

With ``run`` and ``shards`` of labelled synthetic people: how far the angles of what a network says
of their validation crops lie from those of the labels, from the image alone and with keypoints that
have a finder's faults (finetune.prompts.make_prompts).
"""

import copy
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch

from benchmarks.options import read_options
from data.bodies.base import BodyModel, BodyParameters
from data.bodies.models import open_model
from data.loading.appearance_keys import PROMPT
from data.loading.build import open_crop_order
from data.loading.validation import val_crops
from data.people.motion import sample_posture
from data.people.poses import HAND_SIZE, INDEX, POSTURES
from data.people.rig import Rig
from engine.cli import run
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.animation.angles import measure_angles
from finetune.animation.track import Track
from finetune.heads.base import pose_body
from finetune.inference.predictor import Predictor
from finetune.prompts import make_prompts
from finetune.views import Targets, view

OPTIONS = {"people": "300", "seed": "0", "run": "", "shards": "", "clips": "24"}
BATCH = 16
PLACES = ("pelvis_tx", "pelvis_ty", "pelvis_tz")
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
    if options["run"]:
        judge_network(random, options["run"], options["shards"], int(options["clips"]))
        return
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


def judge_network(random: np.random.Generator, run: str, shards: str, clips: int) -> None:
    """Print the table of a network's angles on validation crops."""
    predictor = Predictor(run, "cpu")
    data = copy.deepcopy(predictor.config.data)
    data.shards, data.sources = shards, {}
    choice = predictor.body.label_choice
    arrays = val_crops(open_crop_order(data, 1, 0), data, clips, choice=choice)
    if arrays is None:
        raise UserError(f"shards={shards}: no validation clips")
    rows: dict[str, list[BodyParameters]] = {"true": [], "image": [], "keypoints": []}
    count = len(arrays["tags"])
    for first in range(0, count, BATCH):
        part = {name: torch.from_numpy(one[first : first + BATCH]) for name, one in arrays.items()}
        for name, found in answer(random, predictor, part).items():
            rows[name].append(found)
    true, *answers = (
        measure_angles(lay_in_row(predictor.body, torch.cat([one.pose for one in found]).numpy()))
        for found in rows.values()
    )
    print(f"| coordinate | {count} crops: image alone, median | 90 % | with keypoints | 90 % |")
    for name in true:
        if name not in PLACES:
            errors = [_turn_between(one[name], true[name]) for one in answers]
            cells = [f"{np.median(one):.1f} | {np.percentile(one, 90):.1f}" for one in errors]
            print(f"| {name} | {' | '.join(cells)} |")


@torch.no_grad()
def answer(
    random: np.random.Generator, predictor: Predictor, batch: dict[str, torch.Tensor]
) -> dict[str, BodyParameters]:
    """{"true", "image", "keypoints": what is so, and what the network says}."""
    body, size = predictor.body, predictor.config.model.size
    seen = view(batch, size)
    true = Targets(body)({**batch, "pose": axis_angle_to_matrix(batch["pose"])}, seen)
    u = torch.from_numpy(random.random((len(seen.K), PROMPT.stop - PROMPT.start))).float()
    prompts = make_prompts(body, pose_body(body, true), seen.K, size, u, 1.0)
    said = [predictor.model(seen.images, seen.K, body, given) for given in (None, prompts)]
    image, keypoints = (one.parameters for one in said)
    return {"true": true, "image": image, "keypoints": keypoints}


def _turn_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(T,) degrees between angles in radians, whole turns left out."""
    return np.abs((np.rad2deg(one - other) + 180) % 360 - 180)


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
    return lay_in_row(body, rotations.astype(np.float32)), angles


def lay_in_row(body: BodyModel, pose: np.ndarray) -> Track:
    """Return a track of average bodies in poses (T, J, 3, 3)."""
    rows = np.arange(len(pose))
    return Track(
        name="made",
        kind="body",
        body=body,
        frames=rows,
        times=rows / 25,
        pose=pose,
        shape=np.full(len(body.shape_space.names), body.shape_space.mean, np.float32),
        translation=np.zeros((len(pose), 3), np.float32),
        intrinsics=np.eye(3),
        confidence=np.ones(len(pose), np.float32),
        box=np.zeros((len(pose), 4), np.float32),
    )


if __name__ == "__main__":
    run(main)

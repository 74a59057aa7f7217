"""``python -m finetune fingers``: a body's fingers with and without the hands' own network.

On labelled crops of whole people in which hands are large enough to be cut out on their own; each
hand is measured about its wrist, as the body alone has it and as it is once the hand is joined.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from data.bodies.base import BodyModel, BodyParameters, mirrored
from data.format.clip import Clip, decode_meta
from data.format.label_files import load_arrays
from data.format.labels import SEEN
from data.format.samples import read_samples
from data.format.shards import find_shards
from engine.config.parser import parse_keys
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix, project
from engine.logging import progress
from engine.pose_metrics import pa_mpjpe
from finetune.evaluation.metrics import bootstrap
from finetune.heads.base import pose_body
from finetune.inference.fingers import SIDES, JoiningRules, join_hands
from finetune.inference.predictor import Predictor
from finetune.person import Person
from finetune.verb_config import FingersConfig

METRICS = ("hand vertices", "finger joints", "finger joints, aligned")
LEAST_SEEN = 0.6  # share of a hand's joints that are seen, of the hands that are measured
MM = 1e3


@dataclass(eq=False)
class TrueHand:
    """A hand of a crop: side, box and wrist in pixels, and where it is in the camera, metres."""

    side: str
    box: np.ndarray
    wrist: np.ndarray
    vertices: torch.Tensor
    joints: torch.Tensor


@dataclass(eq=False)
class HandParts:
    """Which vertices and joints of a body are a side's hand; the wrist comes first."""

    vertices: dict[str, torch.Tensor]
    joints: dict[str, list[int]]


def main(argv: Sequence[str]) -> int:
    """Run ``python -m finetune fingers``; returns the exit code."""
    config, paths = parse_keys(FingersConfig, argv, "finetune fingers")
    body = Predictor(config.body, config.device, "body").require_mesh("fingers")
    hand = Predictor(config.hand, config.device, "hand").require_mesh("fingers")
    rules = JoiningRules(least_px=config.hand_px)
    errors, clips, joined = measure_fingers(paths, body, hand, rules, config.clips)
    count = len(set(clips))
    print(f"{len(clips)} hands in {count} clips, {joined} of them joined; mm about the wrist")
    print(f"{'':<24} {'body alone':>22} {'with its hands':>22} {'difference':>24}")
    for metric in METRICS:
        alone, whole = errors["alone", metric], errors["joined", metric]
        words = [_word(values, clips) for values in (alone, whole)]
        change = _word(whole - alone, clips, "+")
        print(f"{metric:<24} {words[0]:>22} {words[1]:>22} {change:>24}")
    return 0


def _word(values: np.ndarray, clips: Sequence[str], sign: str = "") -> str:
    mean, low, high = bootstrap(values, np.array(clips))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def measure_fingers(
    paths: Sequence[str], body: Predictor, hand: Predictor, rules: JoiningRules, most: int
) -> tuple[dict[tuple[str, str], np.ndarray], list[str], int]:
    """Returns ({("alone" or "joined", metric): (n,) mm}, clip of each hand, how many were joined).

    Args:
        paths: labelled shards of whole people, by anny.  most: clips, at most.
    Raises:
        UserError: no hand there is seen well enough.
    """
    parts = find_hand_parts(body.body, hand.body)
    found: dict[tuple[str, str], list[float]] = {}
    clips: list[str] = []
    count = 0
    for key, image, K, hands, box in progress.watched(
        list(list_true_hands(paths, body.body, parts, rules.least_px, most)), "crop"
    ):
        people = body(image, box[None], K)
        seen = hand(image, [one.box for one in hands], K, [one.side for one in hands])
        # A finder of people sees wrists; here the true ones stand for what it sees.
        wrists = [{one.side: one.wrist for one in hands}, *({} for _ in seen)]
        whole = join_hands([*people, *seen], body.body, hand.body, rules, wrists)
        count += len(whole[0].hands)
        for true in hands:
            clips.append(key)
            for row, person in (("alone", people[0]), ("joined", whole[0])):
                for metric, value in _score(person, true, parts).items():
                    found.setdefault((row, metric), []).append(value)
    if not clips:
        raise UserError(
            f"{paths[0]}: no hand there is at least {rules.least_px:g} px large and seen for the "
            "most part; data make with a larger size= makes such clips"
        )
    return {name: np.array(values) for name, values in found.items()}, clips, count


def find_hand_parts(body: BodyModel, hand: BodyModel) -> HandParts:
    """Returns the parts of a body that a hand model (the right one) and its mirror image cover."""
    space = body.shape_space
    shape = torch.full((1, len(space.names)), space.mean)
    pose = torch.zeros(1, len(body.joint_names), 3)
    device = body.vertex_ids.device
    vertices, _ = body(pose.to(device), torch.zeros(1, 3, device=device), shape.to(device))
    right = hand.vertex_ids.to(device)
    left = torch.cdist(mirrored(vertices[0, right]), vertices[0]).argmin(1)
    joints = {}
    for side in SIDES:
        letter = side[0].upper()
        names = [name.replace(".R", f".{letter}") for name in hand.joint_names[1:]]
        joints[side] = [body.joint_names.index(name) for name in names]
    return HandParts({"right": right, "left": left}, joints)


Crop = tuple[str, np.ndarray, np.ndarray, list[TrueHand], np.ndarray]


def list_true_hands(
    paths: Sequence[str], body: BodyModel, parts: HandParts, least_px: float, most: int
) -> Iterator[Crop]:
    """Yields (clip, image, K, hands, the person's box) of crops in which hands are seen well."""
    count = 0
    for path in find_shards(list(paths)):
        for key, members in read_samples(path):
            if "labels.npz" not in members or count == most:
                continue
            count += 1
            clip = decode_meta(members["json"], f"{path}: {key}")
            labels = load_arrays(members["labels.npz"])
            for number, crop in enumerate(clip.crops):
                if crop.kind != "body" or crop.K is None or crop.Rt is None:
                    continue
                image = np.asarray(
                    Image.open(io.BytesIO(members[f"{number:02d}.jpg"])).convert("RGB")
                )
                hands, box = _take_hands(clip, number, labels, body, parts, least_px)
                if hands:
                    yield key, image, np.array(crop.K), hands, box


@torch.no_grad()
def _take_hands(
    clip: Clip,
    number: int,
    labels: dict[str, np.ndarray],
    body: BodyModel,
    parts: HandParts,
    least_px: float,
) -> tuple[list[TrueHand], np.ndarray]:
    crop, row = clip.crops[number], int(labels["instant"][number])
    pose = axis_angle_to_matrix(torch.from_numpy(labels["pose"][row : row + 1]).float())
    true = BodyParameters(
        body.name,
        pose,
        torch.from_numpy(labels["phenotype"][None]).float(),
        torch.from_numpy(labels["root"][row : row + 1]).float(),
    )
    posed = pose_body(body, true)
    Rt = torch.tensor(np.array(crop.Rt)).float()
    vertices, joints = (
        points[0] @ Rt[:, :3].T + Rt[:, 3] for points in (posed.vertices, posed.joints)
    )
    flat, _ = project(vertices.numpy(), np.array(crop.K), np.eye(3, 4))
    size = float(clip.size)
    hands = []
    for side in SIDES:
        mine = flat[parts.vertices[side].numpy()]
        box = np.concatenate([mine.min(0), mine.max(0)])
        seen = (labels["joint_visible"][number][parts.joints[side]] == SEEN).mean()
        inside = box.min() >= 0 and box.max() <= size
        if seen >= LEAST_SEEN and inside and (box[2:] - box[:2]).max() >= least_px:
            bones = joints[parts.joints[side]]
            wrist, _ = project(bones[0].numpy(), np.array(crop.K), np.eye(3, 4))
            hands.append(TrueHand(side, box, wrist, vertices[parts.vertices[side]], bones))
    whole = np.clip(np.concatenate([flat.min(0), flat.max(0)]), 0, size)
    return hands, whole


def _score(person: Person, true: TrueHand, parts: HandParts) -> dict[str, float]:
    """{metric: mm} of a hand of a person, about its wrist."""
    vertices = torch.from_numpy(person.vertices)[parts.vertices[true.side]]
    joints = torch.from_numpy(person.joints)[parts.joints[true.side]]
    apart = (vertices - joints[0]) - (true.vertices - true.joints[0])
    bent = (joints - joints[0]) - (true.joints - true.joints[0])
    return {
        METRICS[0]: float(apart.norm(dim=-1).mean()) * MM,
        METRICS[1]: float(bent[1:].norm(dim=-1).mean()) * MM,
        METRICS[2]: float(pa_mpjpe(joints[None], true.joints[None])[0]),
    }

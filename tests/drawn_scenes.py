"""Whole frames of people drawn as coloured limbs, with true labels of their bodies.

Drawn in milliseconds; `data make scene` takes seconds."""

import cv2
import numpy as np
import simplejpeg
import torch

from data.bodies.anny_layout import ANNY
from data.format.frame import Frame, FramePerson, encode_frame
from data.format.joint_sets import find_joint_set
from data.format.shards import write_samples
from engine.geometry import project

SHAPES = ((96, 96), (128, 96))
LIMBS = [
    ("head", "neck01"),
    ("neck01", "root"),
    ("upperarm01.L", "lowerarm01.L"),
    ("lowerarm01.L", "wrist.L"),
    ("upperarm01.R", "lowerarm01.R"),
    ("lowerarm01.R", "wrist.R"),
    ("upperleg01.L", "lowerleg01.L"),
    ("lowerleg01.L", "foot.L"),
    ("upperleg01.R", "lowerleg01.R"),
    ("lowerleg01.R", "foot.R"),
]
COLOURS = ((250, 60, 60), (60, 60, 250), (60, 220, 60))
# World z up, the camera 1.3 m above the floor, looking along y.
LOOKS = np.array([[1.0, 0, 0, 0], [0, 0, -1, 1.3], [0, 1, 0, 0]])


def draw_scene(number, body, people=2, instants=2):
    """Frames of one scene of people who stand 2.5 to 5 m away, nearer ones on the left."""
    rng = np.random.default_rng(number)
    width, height = SHAPES[number % len(SHAPES)]
    focal = 1.1 * max(width, height)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    shape = rng.uniform(0.4, 0.7, (people, 6)).astype(np.float32)
    far = np.linspace(2.5, 4, people) + rng.uniform(0, 0.8, people)
    side = (np.arange(people) - (people - 1) / 2) * 0.9 + rng.uniform(-0.1, 0.1, people)
    turned = rng.uniform(-0.7, 0.7, people)
    out = []
    for instant in range(instants):
        pose = rng.normal(0, 0.12, (people, 104, 3)).astype(np.float32)
        pose[:, 0] = 0
        pose[:, 0, 2] = turned
        root = np.stack([side + 0.05 * instant, far, np.full(people, 0.95)], 1).astype(np.float32)
        given = [torch.from_numpy(x) for x in (pose, root, shape)]
        with torch.no_grad():
            vertices, joints = body(*given)
            points = body.landmarks(vertices, joints).numpy()
        out.append(_make_frame(number, instant, K, (width, height), given, joints.numpy(), points))
    return out


def _make_frame(number, instant, K, size, given, joints, landmarks):
    width, height = size
    people = len(joints)
    names = list(ANNY.joint_names)
    xy, depth = project(joints, K, LOOKS)
    image = np.full((height, width, 3), 110, np.uint8)
    image[int(height * 0.6) :] = 140
    ids = np.zeros((height, width), np.uint8)
    for i in np.argsort(-depth[:, 0]):
        thick = max(2, round(0.13 * K[0, 0] / depth[i, 0]))
        for one, other in LIMBS:
            a, b = (tuple(xy[i, names.index(n)].round().astype(int).tolist()) for n in (one, other))
            cv2.line(image, a, b, COLOURS[i], thick)
            cv2.line(ids, a, b, int(i) + 1, thick)
        head = tuple(xy[i, names.index("head")].round().astype(int).tolist())
        cv2.circle(image, head, thick, (240, 230, 200), -1)
        cv2.circle(ids, head, thick, int(i) + 1, -1)
    inside = ((xy >= 0) & (xy < [width, height])).all(-1)
    coco, _ = project(landmarks, K, LOOKS)
    coco_inside = ((coco >= 0) & (coco < [width, height])).all(-1)
    pose, root, shape = (x.numpy() for x in given)
    labels = {
        "body_model": np.array("anny"),
        "pose": pose,
        "root": root,
        "phenotype": shape,
        "face": np.full((people, 52), 0.1, np.float32),
        "joints": joints.astype(np.float32),
        "joint_visible": np.where(inside, 2, 0).astype(np.uint8),
        "keypoint_set": np.array("coco17"),
        "keypoints": coco.astype(np.float32),
        "keypoint_visible": np.where(coco_inside, 2, 0).astype(np.uint8),
    }
    someone = [
        FramePerson(f"s{number}-{i}", str(i), [*xy[i].min(0), *xy[i].max(0)], 0.9)
        for i in range(people)
    ]
    return Frame(
        f"scene-{number:03d}-{instant}",
        "made",
        "CC0-1.0",
        width,
        height,
        f"scene-{number}",
        someone,
        "0",
        float(instant),
        K,
        LOOKS,
        simplejpeg.encode_jpeg(image, 95, "RGB", "444"),
        ids,
        labels,
    )


def list_coco(body):
    """Where coco17's points are among a body's landmarks."""
    return [body.landmark_names.index(name) for name in find_joint_set("coco17").joints]


class CocoBody:
    """A body whose landmarks are coco17's points alone."""

    def __init__(self, body):
        self.body, self.places = body, list_coco(body)

    def __call__(self, *given):
        return self.body(*given)

    def landmarks(self, vertices, joints):
        return self.body.landmarks(vertices, joints)[:, self.places]


def write_scenes(folder, scenes, body, people=2):
    """Shards of 8 scenes each; returns the folder."""
    coarse = CocoBody(body.coarse(64))
    for first in range(0, scenes, 8):
        frames = [
            frame
            for number in range(first, min(first + 8, scenes))
            for frame in draw_scene(number, coarse, people)
        ]
        samples = ((frame.key, encode_frame(frame)) for frame in frames)
        write_samples(str(folder / f"shard-{first // 8:06d}.tar"), samples)
    return folder

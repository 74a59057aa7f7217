"""COCO-WholeBody results: 133 keypoints in pixels of each person and frame.

What pycocotools' loadRes and the COCO-WholeBody API read: a list of {"image_id", "category_id",
"keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts", "score", ...}. Points that
the body model does not have are 0, 0, 0: the face's contours, and the feet of models without toes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.bodies.joint_maps import JointMap
from engine.geometry import project
from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take, Track

PERSON = 1  # COCO's category
# Parts of the 133, in order: what the API calls them.
PARTS = {
    "keypoints": slice(0, 17),
    "foot_kpts": slice(17, 23),
    "face_kpts": slice(23, 91),
    "lefthand_kpts": slice(91, 112),
    "righthand_kpts": slice(112, 133),
}
DIGITS = 2  # hundredths of a pixel


@FORMATS.register("coco")
def write_coco(take: Take, stem: Path) -> list[Path]:
    """Write STEM.coco.json: a result a body and frame; image_id is the frame's number."""
    return [write_parts(f"{stem}.coco.json", _list_parts(take))]


def _list_parts(take: Take) -> Iterator[str]:
    yield "[\n"
    is_first = True
    for number, track in enumerate(take.tracks):
        if track.kind != "body":
            continue
        for row, points in enumerate(list_wholebody(track)):
            yield ("" if is_first else ",\n") + json.dumps(_describe(track, row, number, points))
            is_first = False
    yield "\n]\n"


def _describe(track: Track, row: int, number: int, points: np.ndarray) -> dict:
    x0, y0, x1, y1 = track.box[row].astype(float).tolist()
    rounded = np.round(points, DIGITS)
    out: dict = {"image_id": int(track.frames[row]), "category_id": PERSON, "track_id": number}
    out |= {name: rounded[part].ravel().tolist() for name, part in PARTS.items()}
    score = round(float(track.confidence[row]), 4)
    box = [round(value, DIGITS) for value in (x0, y0, x1 - x0, y1 - y0)]
    return out | {"bbox": box, "score": score}


@torch.no_grad()
def list_wholebody(track: Track) -> Iterator[np.ndarray]:
    """Yield (133, 3) x, y in pixels and the frame's confidence, of each row."""
    device = track.body.vertex_ids.device
    give = JointMap(track.body, "coco_wholebody133").to(device)
    given = give.given.cpu().numpy()
    for first, points in track.walk_points():
        vertices, joints = (
            torch.from_numpy(one).to(device) for one in (points.vertices, points.joints)
        )
        for row, space in enumerate(give(vertices, joints).cpu().numpy()):
            out = np.zeros((len(given), 3))
            out[given, :2], _ = project(space[given], track.intrinsics, np.eye(3, 4))
            out[given, 2] = track.confidence[first + row]
            yield out

"""Shards whose labels name SMPL, SMPL-X or MANO, posed by an independent implementation.

write_shards(folder, "mano", arrays)      # three tars of eight clips, two crops of 64 px each
"""

import io

import numpy as np
from body_standins import pose_by_loops
from PIL import Image

from data.bodies.smpl_layout import FAMILY
from data.format.clip import Clip, Crop
from data.format.labels import BodyParameters, Joints, Labels
from data.format.shards import shard_name, write_shard

SIZE = 64
CROPS = 2
# How each clip of a model says its pose, one after the other.
POSES = {
    "smpl": ("pose",),
    "smplx": ("pose", "body_pose"),
    "mano": ("pose", "hand_pose_from_mean", "hand_pca"),
}


def draw_clip(name, number, arrays, left=None):
    """(kind, side, {parameter: array}, (T, J, 3) joints in the world) of a clip of two instants.

    Args:
        arrays: fields of the model's file.  left: of the left hand's.
    """
    spec, rng = FAMILY[name], np.random.default_rng(number)
    side = "" if name != "mano" else ("right", "left")[number % 2]
    fields = left if side == "left" else arrays
    pose = rng.normal(0, 0.2, (CROPS, len(spec.parents), 3))
    betas = rng.normal(0, 1, 10)
    shift = rng.normal(0, 0.1, (CROPS, 3))
    coding = POSES[name][number % len(POSES[name])]
    values = {"betas": betas}
    if coding == "pose":
        values["pose"] = pose
    elif coding == "body_pose":
        values["body_pose"] = pose[:, :22]
        pose = np.concatenate([pose[:, :22], np.zeros((CROPS, 3, 3)), pose[:, 25:]], 1)
        for first, hand in ((25, "l"), (40, "r")):
            pose[:, first : first + 15] = arrays[f"hands_mean{hand}"].reshape(15, 3)
    else:
        values["global_orient"] = pose[:, 0]
        mean, components = fields["hands_mean"], fields["hands_components"]
        coefficients = rng.normal(0, 0.3, (CROPS, 45))
        if coding == "hand_pca":
            values["hand_pca"] = coefficients
            fingers = mean + coefficients @ components
        else:
            values["hand_pose_from_mean"] = coefficients.reshape(CROPS, 15, 3)
            fingers = mean + coefficients
        pose[:, 1:] = fingers.reshape(CROPS, 15, 3)
    joints = [pose_by_loops(fields, pose[row], betas, shift[row])[1] for row in range(CROPS)]
    if number % 2:
        values["translation"] = np.array([points[0] for points in joints])
    else:
        values["transl"] = shift
    return side, values, np.array(joints)


def look_at(centre, distance, focal):
    """(K, Rt) of a camera that looks along z at a point, from in front of it."""
    K = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]])
    turn = np.diag([1.0, -1, -1])
    place = centre + [0, 0, distance]
    return K, np.concatenate([turn, -(turn @ place)[:, None]], 1)


def make_clip(name, number, arrays, left=None, variant="neutral"):
    """A clip and the (CROPS, J, 3) joints in its crops' cameras."""
    side, values, joints = draw_clip(name, number, arrays, left)
    kind = f"{side}_hand" if side else "body"
    crops, jpegs, seen, in_camera = [], [], [], []
    for row in range(CROPS):
        centre, spread = joints[row].mean(0), np.ptp(joints[row], axis=0).max()
        K, Rt = look_at(centre, 3 * spread, 2.2 * SIZE)
        local = joints[row] @ Rt[:, :3].T + Rt[:, 3]
        in_camera.append(local)
        pixels = (local / local[:, 2:]) @ K.T
        image = np.full((SIZE, SIZE, 3), 40 + number % 90, np.uint8)
        for x, y in pixels[:, :2].astype(int).clip(1, SIZE - 2):
            image[y - 1 : y + 2, x - 1 : x + 2] = 230, 180, 60
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=92)
        jpegs.append(file.getvalue())
        seen.append(2 * ((pixels[:, :2] > 0) & (pixels[:, :2] < SIZE)).all(1))
        crops.append(Crop(f"cam{row}", 0.04 * row, kind, K=K, Rt=Rt))
    body = BodyParameters(
        name, side or variant, {key: np.float32(value) for key, value in values.items()}
    )
    labels = Labels(
        np.arange(CROPS),
        joints=Joints(FAMILY[name].joint_set, joints, np.ones(joints.shape[:2]), np.array(seen)),
        body=body,
    )
    clip = Clip(
        f"{name}{number:04d}", "made", "CC0-1.0", f"s{number}", SIZE, crops, jpegs, labels=labels
    )
    return clip, np.array(in_camera)


def write_shards(folder, name, arrays, left=None, shards=3, clips=8):
    """Write them; {key of a clip: (CROPS, J, 3) joints in its cameras}."""
    folder.mkdir(parents=True, exist_ok=True)
    joints, number = {}, 0
    for shard in range(shards):
        written = []
        for _ in range(clips):
            clip, in_camera = make_clip(name, number, arrays, left)
            joints[clip.key] = in_camera
            written.append(clip)
            number += 1
        write_shard(str(folder / shard_name(shard)), written)
    return joints
